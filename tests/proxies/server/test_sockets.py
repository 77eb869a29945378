"""The sockets of epochs, with clients of this process."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import AddressHeld, MachineError
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host.sockets import Endpoint, check_free
from agent.proxies.link import LinkEvents
from agent.proxies.server.listeners import Listener, parse
from agent.proxies.server.sockets import EpochSockets, Groups


class Owner:
    """The agent's stores: what serves, and what a candidate bound."""

    def __init__(self) -> None:
        self.store, self.staged = SocketStore(), SocketStore()
        self.serves = False
        self.groups: Groups = {}
        self.events = LinkEvents(
            reached_gate=lambda: None,
            serves=lambda: None,
            held=lambda _: None,
            broken=lambda _: None,
            get_socket=self._get,
            sockets=self.store.lent,
            bound=self.staged.put,
            is_serving=lambda: self.serves,
        )

    def _get(self, place: ListenAddress) -> None:
        check_free(Endpoint.parse(place.address), ())

    async def epoch(self, number: int, listeners: tuple[Listener, ...]) -> EpochSockets:
        made = EpochSockets(number, listeners, self.groups, self.events)
        try:
            await made.open()
        except MachineError:
            made.clear()
            raise
        return made

    async def serving(self, number: int, listeners: tuple[Listener, ...]) -> EpochSockets:
        made = await self.epoch(number, listeners)
        self.commit(made)
        return made

    def commit(self, sockets: EpochSockets) -> None:
        sockets.commit()
        self.store.take_all(self.staged)
        self.serves = True

    def close(self) -> None:
        self.store.close_all()
        self.staged.close_all()


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.close()


@pytest.fixture
def tcp() -> tuple[Listener, ...]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return parse([f"web=127.0.0.1:{port}"])


@pytest.fixture
def unix(tmp_path: Path) -> tuple[Listener, ...]:
    return parse([f"web=unix:{tmp_path}/web.sock"])


def client(listener: Listener) -> socket.socket:
    endpoint = Endpoint.parse(listener.place.address)
    made = socket.socket(endpoint.family)
    try:
        made.connect(endpoint.name)
    except OSError:
        made.close()
        raise
    return made


def inodes(sockets: EpochSockets) -> list[int]:
    return [os.fstat(number).st_ino for _, number in sockets.passed]


@pytest.fixture(params=["tcp", "unix"])
def listeners(request: pytest.FixtureRequest) -> tuple[Listener, ...]:
    found: tuple[Listener, ...] = request.getfixturevalue(request.param)
    return found


async def test_clients_reach_a_candidate_at_its_commit(owner: Owner, listeners: tuple[Listener, ...]) -> None:
    first = await owner.serving(1, listeners)
    second = await owner.epoch(2, listeners)
    with client(listeners[0]):
        assert (first.queued(), second.queued()) == (1, 0)
        owner.commit(second)
        with client(listeners[0]):
            assert (first.queued(), second.queued()) == (1, 1)
    first.clear()
    assert inodes(second) != []
    with client(listeners[0]):
        assert second.queued() > 0
    owner.store.close_all()
    second.clear()


async def test_an_epoch_after_a_crash_gets_the_same_socket_with_its_clients(
    owner: Owner, listeners: tuple[Listener, ...]
) -> None:
    first = await owner.serving(1, listeners)
    before = inodes(first)
    owner.serves = False
    first.clear()
    with client(listeners[0]):
        second = await owner.epoch(2, listeners)
        assert inodes(second) == before
        assert second.queued() == 1
        assert owner.staged.places() == []
    second.commit()
    owner.store.close_all()
    second.clear()


async def test_a_dropped_candidate_leaves_nothing(
    owner: Owner, listeners: tuple[Listener, ...], tmp_path: Path
) -> None:
    first = await owner.serving(1, listeners)
    files = sorted(tmp_path.iterdir())
    second = await owner.epoch(2, listeners)
    owner.staged.close_all()
    second.clear()
    assert sorted(tmp_path.iterdir()) == files
    with client(listeners[0]):
        assert first.queued() == 1
    owner.store.close_all()
    first.clear()
    assert list(tmp_path.iterdir()) == []


async def test_a_candidate_is_tested_where_it_listens(owner: Owner, unix: tuple[Listener, ...], tmp_path: Path) -> None:
    first = await owner.serving(1, unix)
    assert first.endpoint(unix[0].place).path == f"{tmp_path}/web.sock"
    second = await owner.epoch(2, unix)
    assert second.endpoint(unix[0].place).path == f"{tmp_path}/web.sock.2"
    owner.commit(second)
    assert second.endpoint(unix[0].place).path == f"{tmp_path}/web.sock"
    first.clear()
    assert stat.S_ISSOCK((tmp_path / "web.sock").stat().st_mode)
    owner.store.close_all()
    second.clear()


async def test_a_stranger_is_not_joined(owner: Owner, tcp: tuple[Listener, ...]) -> None:
    """Both would get clients, as the kernel chooses."""
    endpoint = Endpoint.parse(tcp[0].place.address)
    with socket.create_server((endpoint.host, endpoint.port), reuse_port=True), pytest.raises(AddressHeld):
        await owner.epoch(1, tcp)


async def test_a_path_with_a_stranger_or_a_file_is_not_taken(owner: Owner, unix: tuple[Listener, ...]) -> None:
    path = Path(Endpoint.parse(unix[0].place.address).path)
    path.write_text("mine")
    with pytest.raises(AddressHeld):
        EpochSockets(1, unix, owner.groups, owner.events)._opened(unix[0])
    assert path.read_text() == "mine"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(path))
        stranger.listen()
        with pytest.raises(AddressHeld):
            EpochSockets(1, unix, owner.groups, owner.events)._opened(unix[0])
    first = await owner.serving(1, unix)  # a stale socket is replaced
    owner.store.close_all()
    first.clear()


async def test_an_address_of_another_machine_is_said(owner: Owner) -> None:
    with pytest.raises(MachineError, match=r"cannot listen on 192\.0\.2\.1:80"):
        await owner.epoch(1, parse(["web=192.0.2.1:80"]))


async def test_names_and_sockets_are_passed_in_order(owner: Owner, tcp: tuple[Listener, ...], tmp_path: Path) -> None:
    listeners = (*parse([f"a=unix:{tmp_path}/a"]), *tcp)
    first = await owner.serving(1, listeners)
    assert [name for name, _ in first.passed] == ["a", "web"]
    assert first.ports == {Endpoint.parse(tcp[0].place.address).port}
    for each, (_, number) in zip(listeners, first.passed, strict=True):
        duplicate = first.duplicate(each.place)
        assert duplicate is not None
        assert os.path.sameopenfile(duplicate, number)
        os.close(duplicate)
    owner.store.close_all()
    first.clear()
    assert first.duplicate(tcp[0].place) is None


async def test_at_the_end_clients_are_refused_once_the_server_has_closed(
    owner: Owner, listeners: tuple[Listener, ...]
) -> None:
    first = await owner.serving(1, listeners)
    process = os.dup(first.passed[0][1])
    owner.store.close_all()
    first.release()
    with client(listeners[0]):
        pass
    os.close(process)
    with pytest.raises(ConnectionRefusedError):
        client(listeners[0])
    first.clear()


async def test_a_third_member_waits_for_the_superseded_one(owner: Owner, tcp: tuple[Listener, ...]) -> None:
    first = await owner.serving(1, tcp)
    second = await owner.serving(2, tcp)
    process = socket.socket(fileno=os.dup(first.passed[0][1]))
    first.ended()
    third = await owner.epoch(3, tcp)
    assert not process.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "it left the group, although it is open"
    for _ in range(20):
        client(tcp[0]).close()
    assert (second.queued(), third.queued()) == (20, 0)
    process.close()
    for each in (first, second, third):
        each.clear()


async def test_an_adopted_epoch_is_found_by_its_process(owner: Owner, listeners: tuple[Listener, ...]) -> None:
    (await owner.serving(1, listeners)).clear()
    first = await owner.serving(2, listeners)
    again = Owner()
    again.serves = True
    found = EpochSockets(2, listeners, again.groups, again.events)
    await found.regain(os.getpid())
    duplicate = found.duplicate(listeners[0].place)
    assert duplicate is not None
    assert os.fstat(duplicate).st_ino == inodes(first)[0]
    again.store.put(listeners[0].place, duplicate)
    found.commit()
    with client(listeners[0]):
        assert found.queued() == 1
    third = await again.epoch(3, listeners)
    with client(listeners[0]):
        assert (found.queued() > 0, third.queued()) == (True, 0)
    again.close()
    owner.close()
    for each in (third, found, first):
        each.clear()
