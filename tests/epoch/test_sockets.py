import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.errors import AddressHeld, MachineError, UsageError
from agent.epoch.sockets import Bound, bind, tcp, unix


def test_places_are_spelled_as_in_the_protocol() -> None:
    assert tcp("127.0.0.1", 80).address == "tcp://127.0.0.1:80"
    assert tcp("0:0::1", 80).address == "tcp://[::1]:80"
    assert tcp("::FFFF:7f00:1", 80).address == "tcp://[::ffff:127.0.0.1]:80"
    assert unix("/run/x").address == "unix:///run/x"
    assert unix("@x").address == "unix://@x"


def test_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot listen on localhost: it is not a literal address"):
        tcp("localhost", 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_bound_does_not_listen_yet_and_says_where_it_is(host: str) -> None:
    bound = Bound(tcp(host, 0), [bind(tcp(host, 0))])
    port = bound.sockets[0].getsockname()[1]
    assert bound.actual == tcp(host, port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port)).close()
    bound.listen()
    with socket.create_connection((host, port)):
        assert bound.clients() == 0, "nobody has accepted it"
        client, _ = bound.sockets[0].accept()
        with client, socket.create_connection((host, port)):
            assert bound.clients() == 1
        assert bound.clients() == 0
    bound.close()
    assert bound.is_given_up


@pytest.mark.parametrize("abstract", [True, False])
def test_clients_of_a_unix_socket_are_counted_as_well(abstract: bool, tmp_path: Path) -> None:
    path = f"@epoch-{os.getpid()}" if abstract else str(tmp_path / "web")
    bound = Bound(unix(path), [bind(unix(path), 0o640)])
    bound.listen()
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(bound.sockets[0].getsockname())
        client, _ = bound.sockets[0].accept()
        with client:
            assert bound.clients() == 1
        assert bound.clients() == 0
    assert abstract or (tmp_path / "web").stat().st_mode & 0o777 == 0o640
    bound.close()


def test_a_port_in_use_is_not_shared_silently() -> None:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        held.listen()
        with pytest.raises(AddressHeld, match="another process does"):
            bind(tcp(*held.getsockname()))


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(MachineError, match=r"cannot listen on tcp://192\.0\.2\.1:80: "):
        bind(tcp("192.0.2.1", 80))


def test_only_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    place = unix(str(tmp_path / "web"))
    with bind(place) as stale:
        stale.listen()
        with pytest.raises(AddressHeld):
            bind(place)
    bind(place).close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(AddressHeld):
        bind(unix(str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "precious"


def test_every_queue_is_passed_to_its_worker_and_a_shared_one_to_all() -> None:
    place = tcp("127.0.0.1", 0)
    grouped, shared = Bound(place, [bind(place), bind(place)]), Bound(place, [socket.create_server(("127.0.0.1", 0))])
    assert [grouped.get(replace(place, worker=each)) for each in range(3)] == [
        *(each.fileno() for each in grouped.sockets),
        None,
    ]
    only = shared.sockets[0].fileno()
    assert [shared.get(replace(shared.actual, worker=each)) for each in range(3)] == [only] * 3
    assert grouped.get(tcp("127.0.0.1", 1)) is None
    for each in (grouped, shared):
        each.close()
        assert each.get(place) is None


def test_what_listens_already_keeps_the_queue_it_was_given() -> None:
    """A queue of one: the kernel accepts one more client, and does not answer the following ones."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as short:
        Bound(tcp(*short.getsockname()), [short]).listen()
        with socket.create_connection(short.getsockname()), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(short.getsockname())
            assert short.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)[24:28] == (1).to_bytes(4, "little")
