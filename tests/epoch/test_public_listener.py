"""A listener as the application has it: no sockets before the gate, and none of its own lost at the drain."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from agent.epoch.public_listener import Listener
from agent.epoch.sockets import Bound, bind, tcp, unix


@pytest.fixture
def bound() -> Iterator[Bound]:
    made = Bound(tcp("127.0.0.1", 0), [bind(tcp("127.0.0.1", 0))])
    yield made
    made.close()


def is_open(made: socket.socket) -> bool:
    return made.fileno() != -1


def accepts(address: str) -> bool:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True


def test_it_has_an_address_and_no_sockets_before_the_gate(bound: Bound) -> None:
    listener = Listener(bound)
    port = bound.sockets[0].getsockname()[1]
    assert listener.address == f"tcp://127.0.0.1:{port}"
    with pytest.raises(RuntimeError, match="admitted"):
        _ = listener.sockets
    assert not accepts(listener.address)


def test_a_socket_of_the_unix_family_has_its_path_as_address() -> None:
    assert Listener(Bound(unix("/run/x"))).address == "unix:///run/x"


def test_behind_the_gate_it_listens_and_the_server_has_duplicates_of_its_own(bound: Bound) -> None:
    listener = Listener(bound)
    listener.admit()
    assert accepts(listener.address)
    (made,) = listener.sockets
    assert made is listener.sockets[0]
    assert made.getsockname() == bound.sockets[0].getsockname()
    made.close()
    assert is_open(bound.sockets[0])
    assert accepts(listener.address)


def test_each_queue_is_a_socket_and_the_list_is_the_callers(bound: Bound) -> None:
    with socket.socket() as second:
        second.bind(("127.0.0.1", 0))
        listener = Listener(Bound(bound.place, [*bound.sockets, second]))
        listener.admit()
        made = listener.sockets
        assert [each.getsockname() for each in made] == [each.getsockname() for each in (*bound.sockets, second)]
        made.clear()
        assert len(listener.sockets) == 2
        listener.close()


async def test_a_server_accepts_until_it_is_stopped_and_its_socket_stays_open(bound: Bound) -> None:
    loop, accepted = asyncio.get_running_loop(), list[None]()

    def accept() -> None:
        made.accept()[0].close()
        accepted.append(None)

    listener = Listener(bound)
    listener.admit()
    (made,), address = listener.sockets, listener.address
    loop.add_reader(made, accept)
    assert accepts(address)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(accepted) == 1
    listener.stop()
    assert not is_open(bound.sockets[0])
    assert is_open(made)
    assert accepts(address), "the server's own socket still listens, for a successor's duplicates"
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(accepted) == 1
    listener.close()
    assert not is_open(made)


async def test_stop_is_safe_before_the_gate_after_the_server_has_closed_and_twice(bound: Bound) -> None:
    Listener(bound).stop()
    assert not is_open(bound.sockets[0])
    again = Bound(bound.place, [bind(bound.place)])
    listener = Listener(again)
    listener.admit()
    listener.sockets[0].close()
    listener.stop()
    listener.stop()
    assert not is_open(again.sockets[0])


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError])
async def test_stop_ends_every_socket_although_the_loop_accepts_in_another_way(
    bound: Bound, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(made: socket.socket) -> None:
        asked.append(made.fileno())
        raise error

    with socket.socket() as second:
        second.bind(("127.0.0.1", 0))
        listener = Listener(Bound(bound.place, [*bound.sockets, second]))
        listener.admit()
        with monkeypatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "remove_reader", refuse)
            listener.stop()
        assert asked == [each.fileno() for each in listener.sockets]
        assert not is_open(second)
        listener.close()


def test_close_closes_everything_before_and_after_the_gate(bound: Bound) -> None:
    Listener(bound).close()
    assert not is_open(bound.sockets[0])
    again = Bound(bound.place, [bind(bound.place)])
    listener = Listener(again)
    listener.admit()
    listener.close()
    listener.close()
    assert not any(is_open(each) for each in (*again.sockets, *listener.sockets))
