import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.handoff.socket_store import ListenAddress, SocketStore
from tests.system.eventually import PATIENCE

PLACE = ListenAddress("tcp://127.0.0.1:1")
REUSE = socket.SO_REUSEPORT


@pytest.fixture
def store() -> Iterator[SocketStore]:
    made = SocketStore()
    yield made
    made.close_all()


def server() -> socket.socket:
    """Listen on an explicit port: a port chosen by the kernel is released when listening ends."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, REUSE, 1)
        reserved.bind(("127.0.0.1", 0))
        made = socket.create_server(reserved.getsockname(), reuse_port=True, backlog=16)
    made.setblocking(False)
    return made


def keep(store: SocketStore, place: ListenAddress, listening: socket.socket) -> None:
    store.put(place, os.dup(listening.fileno()))


@contextmanager
def client(name: object) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX if isinstance(name, str) else socket.AF_INET) as made:
        made.settimeout(PATIENCE)
        made.connect(name)  # type: ignore[arg-type]
        yield made


def test_a_queue_survives_the_proxy_that_filled_it(store: SocketStore) -> None:
    with server() as listening:
        name = listening.getsockname()
        keep(store, PLACE, listening)
    with client(name) as first:
        first.sendall(b"hello")
        assert store.queued(PLACE) == 1
        lent = store.get(PLACE)
        assert lent is not None
        with socket.socket(fileno=os.dup(lent)) as successor:
            accepted, _ = successor.accept()
            with accepted:
                accepted.settimeout(PATIENCE)
                assert accepted.recv(5) == b"hello"
    assert store.queued(PLACE) == 0


def test_lending_gives_nothing_away(store: SocketStore) -> None:
    with server() as listening:
        keep(store, PLACE, listening)
    assert store.get(PLACE) == store.get(PLACE)
    assert PLACE in store
    assert store.get(ListenAddress("tcp://127.0.0.1:2")) is None


def test_a_flag_of_a_socket_in_use_is_never_changed(store: SocketStore) -> None:
    """All duplicates share O_NONBLOCK: a blocking one hangs a worker in accept."""
    with server() as listening:
        keep(store, PLACE, listening)
        store.same(PLACE, listening.fileno())
        store.queued(PLACE)
        store.member(PLACE)
        store.inodes()
        assert not os.get_blocking(listening.fileno())
        assert not os.get_blocking(store.get(PLACE) or -1)


def test_refused_clients_are_refused_at_once_and_those_that_wait_are_reset(store: SocketStore) -> None:
    with server() as listening:
        name = listening.getsockname()
        keep(store, PLACE, listening)
    with client(name) as waiting:
        store.refuse()
        with pytest.raises(ConnectionRefusedError), client(name):
            pass
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)


def test_a_new_listen_ends_the_refusal(store: SocketStore) -> None:
    with server() as listening:
        name = listening.getsockname()
        keep(store, PLACE, listening)
    store.refuse()
    with socket.socket(fileno=os.dup(store.get(PLACE) or -1)) as successor:
        successor.listen(16)
        with client(name) as again:
            again.sendall(b"x")
            accepted, _ = successor.accept()
            accepted.close()


def test_refusing_twice_is_refusing(store: SocketStore) -> None:
    with server() as listening:
        keep(store, PLACE, listening)
    store.refuse()
    store.refuse()


def test_a_socket_that_never_listened_can_be_refused(store: SocketStore) -> None:
    """Bound by the agent for a proxy that exited before it listened."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        keep(store, PLACE, bound)
    store.refuse()


def test_a_unix_socket_is_let_go_since_a_refusal_there_could_not_be_undone(store: SocketStore) -> None:
    """`shutdown` of a listening Unix socket is permanent: the next proxy's `listen` would not revive it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        path = str(Path(directory) / "s")
        place = ListenAddress(f"unix://{path}")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen(16)
            keep(store, place, listening)
        with client(path):
            pass
        store.refuse()
        assert place not in store
        with pytest.raises(ConnectionRefusedError), client(path):
            pass


def test_datagram_sockets_are_not_refused(store: SocketStore) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        keep(store, ListenAddress("udp://127.0.0.1:1"), bound)
        store.refuse()
        bound.sendto(b"x", bound.getsockname())
        assert bound.recv(1) == b"x"


def test_the_same_socket_is_known_by_any_duplicate(store: SocketStore) -> None:
    with server() as listening, server() as another:
        keep(store, PLACE, listening)
        assert store.same(PLACE, listening.fileno())
        assert not store.same(PLACE, another.fileno())
        assert not store.same(ListenAddress("tcp://127.0.0.1:2"), listening.fileno())


def test_a_new_socket_takes_the_place_of_the_old_one(store: SocketStore) -> None:
    with server() as old, server() as new:
        keep(store, PLACE, old)
        keep(store, PLACE, new)
        assert store.same(PLACE, new.fileno())
        assert store.inodes() == {os.fstat(new.fileno()).st_ino}


def test_what_is_let_go_refuses_clients(store: SocketStore) -> None:
    with server() as listening:
        name = listening.getsockname()
        keep(store, PLACE, listening)
    store.close(PLACE)
    store.close(PLACE)
    assert PLACE not in store
    with pytest.raises(ConnectionRefusedError), client(name):
        pass


def test_addresses_workers_and_listeners_are_distinguished(store: SocketStore) -> None:
    places = [
        ListenAddress("tcp://a:1", worker=1),
        ListenAddress("tcp://a:1"),
        ListenAddress("tcp://a:1", "/run/netns/n"),
        ListenAddress("udp://a:1"),
    ]
    for place in places:
        with server() as listening:
            keep(store, place, listening)
    assert store.places() == [places[1], places[0], places[2], places[3]]
    assert store.listeners() == {places[1], places[2], places[3]}
    assert store.workers(ListenAddress("tcp://a:1")) == [0, 1]
    assert str(places[0]) == "tcp://a:1 (worker 1)"


def test_groups_count_what_is_here_and_what_is_asked_for(store: SocketStore) -> None:
    many = [ListenAddress("tcp://a:1", worker=worker) for worker in range(4)]
    alone, datagrams = ListenAddress("tcp://b:1"), [ListenAddress("udp://a:1", worker=worker) for worker in range(2)]
    for place in [*many, alone, *datagrams]:
        with server() as listening:
            keep(store, place, listening)
    assert store.groups([*many[:2], alone, *datagrams]) == {many[0]: (4, 2)}
    assert store.groups(many) == {many[0]: (4, 4)}
    assert store.groups([]) == {}


def test_a_socket_without_a_queue_length_has_none(store: SocketStore) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0agent-test-queue")
        keep(store, ListenAddress("unix://@agent-test-queue"), listening)
    assert store.queued(ListenAddress("unix://@agent-test-queue")) == 0
    assert store.queued(PLACE) == 0
