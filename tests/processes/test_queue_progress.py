"""Whether clients wait in the stored accept queues, and whether any was accepted between two looks."""

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.processes.queue_progress import QueueProgress, is_anybody_waiting, look_at, opened

A, B = ListenAddress("tcp://127.0.0.1:1"), ListenAddress("tcp://127.0.0.1:2")


def progress(lengths: dict[ListenAddress, int], *clients: int) -> QueueProgress:
    return QueueProgress(lengths, frozenset(clients))


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        (progress({A: 2}), progress({A: 1}), True),
        (progress({A: 1}), progress({}), True),
        (progress({A: 1}), progress({B: 1}), True),
        (progress({A: 1, B: 5}), progress({A: 9, B: 4}), True),
        (progress({A: 2}), progress({A: 2}), False),
        (progress({A: 2}), progress({A: 3}), False),
        (progress({}), progress({A: 1}), False),
        (progress({}), progress({}), False),
    ],
)
def test_a_queue_that_got_shorter_has_moved_and_one_that_grew_has_not(
    before: QueueProgress, after: QueueProgress, moved: bool
) -> None:
    assert after.moved_since(before) is moved


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        # As many as before, but another one among them: one was accepted, and one came.
        (progress({A: 2}, 10, 11), progress({A: 2}, 11, 12), True),
        (progress({A: 2}, 10, 11), progress({A: 2}, 10, 11), False),
        (progress({A: 2}, 10, 11), progress({A: 3}, 10, 11, 12), False),
        # One reset its connection: it stays in the queue without a name.
        (progress({A: 2}, 10, 11), progress({A: 2}, 11), False),
        (progress({A: 2}, 10, 11), progress({A: 3}, 11, 12), False),
        # One reset, one was accepted, and another came.
        (progress({A: 3}, 10, 11, 12), progress({A: 3}, 12, 13), True),
        # Nameless clients leave: the named ones stayed.
        (progress({A: 2, B: 1}, 10), progress({A: 2, B: 1}, 10, 11), False),
        (progress({A: 2}, 10), progress({A: 2}, 11), True),
    ],
)
def test_a_client_that_is_no_longer_listed_was_accepted_unless_it_lost_its_name(
    before: QueueProgress, after: QueueProgress, moved: bool
) -> None:
    assert after.moved_since(before) is moved


def test_clients_that_the_kernel_does_not_list_are_those_beyond_the_listed() -> None:
    assert progress({A: 4, B: 3}, 10, 11).nameless == 5
    assert progress({}).nameless == 0


@pytest.fixture
def store() -> Iterator[SocketStore]:
    made = SocketStore()
    yield made
    made.close_all()


@pytest.fixture
def tcp(store: SocketStore) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as made:
        store.put(ListenAddress(f"tcp://127.0.0.1:{made.getsockname()[1]}"), os.dup(made.fileno()))
        yield made


@pytest.fixture
def unix(store: SocketStore, tmp_path: Path) -> Iterator[socket.socket]:
    path = str(tmp_path / "in")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
        made.listen()
        store.put(ListenAddress(f"unix://{path}"), os.dup(made.fileno()))
        yield made


@contextlib.contextmanager
def clients(server: socket.socket, count: int = 1) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as open_sockets:
        made = [open_sockets.enter_context(socket.socket(server.family)) for _ in range(count)]
        for each in made:
            each.connect(server.getsockname())
        yield made


def place_of(server: socket.socket) -> ListenAddress:
    return ListenAddress(f"tcp://127.0.0.1:{server.getsockname()[1]}")


def test_nobody_waits_in_empty_queues(store: SocketStore, tcp: socket.socket, unix: socket.socket) -> None:
    assert not is_anybody_waiting(store)
    assert look_at(store, by_name=True) == progress({})


def test_nobody_waits_where_nothing_is_stored(store: SocketStore) -> None:
    assert not is_anybody_waiting(store)
    assert look_at(store, by_name=True) == progress({})


def test_clients_at_a_port_are_counted(store: SocketStore, tcp: socket.socket) -> None:
    with clients(tcp, 3):
        assert is_anybody_waiting(store)
        assert look_at(store, by_name=False) == progress({place_of(tcp): 3})


def test_clients_at_a_unix_socket_count_as_one(store: SocketStore, unix: socket.socket) -> None:
    """The kernel does not tell how many they are."""
    with clients(unix, 2):
        assert is_anybody_waiting(store)
        seen = look_at(store, by_name=True)
    assert seen == progress({ListenAddress(f"unix://{unix.getsockname()}"): 1})


def test_only_queues_that_are_not_empty_are_told(store: SocketStore, tcp: socket.socket, unix: socket.socket) -> None:
    with clients(unix):
        assert place_of(tcp) not in look_at(store, by_name=False).lengths
        with clients(tcp):
            assert len(look_at(store, by_name=False).lengths) == 2


def test_by_name_each_client_is_another_one(store: SocketStore, tcp: socket.socket) -> None:
    with clients(tcp, 2):
        first = look_at(store, by_name=True)
        assert len(first.clients) == 2
        assert look_at(store, by_name=True) == first
        tcp.accept()[0].close()
        with clients(tcp):
            second = look_at(store, by_name=True)
            assert second.lengths == first.lengths
            assert len(second.clients - first.clients) == 1
            assert second.moved_since(first)


def test_a_client_that_reset_its_connection_is_no_progress(store: SocketStore, tcp: socket.socket) -> None:
    with clients(tcp, 2) as [impatient, _]:
        before = look_at(store, by_name=True)
        impatient.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        impatient.close()
        after = look_at(store, by_name=True)
        assert (len(after.clients), after.nameless) == (1, 1)
        assert not after.moved_since(before)


def test_a_socket_that_does_not_listen_is_left_out(store: SocketStore, tcp: socket.socket) -> None:
    """It is always readable, and so is one that was shut down."""
    with socket.socket() as bound, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        store.put(A, os.dup(bound.fileno()))
        store.put(ListenAddress("udp://127.0.0.1:1"), os.dup(datagrams.fileno()))
        with opened(store) as (_, places):
            assert list(places.values()) == [place_of(tcp)]
        assert not is_anybody_waiting(store)


def test_the_sockets_stay_open_and_the_set_does_not(store: SocketStore, tcp: socket.socket) -> None:
    held = store.get(place_of(tcp))
    assert held is not None
    with opened(store) as (queues, places):
        assert places == {held: place_of(tcp)}
        assert queues.poll(0) == []
        with clients(tcp):
            assert queues.poll(0) == [(held, select.EPOLLIN)]
    assert queues.closed
    assert os.fstat(held).st_ino == os.fstat(tcp.fileno()).st_ino
    assert store.get(place_of(tcp)) == held
