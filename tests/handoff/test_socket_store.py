import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.handoff.socket_store import ListenAddress, SocketStore, spelled
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


def test_the_member_of_a_group_is_its_first_worker_found_without_a_search(
    store: SocketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (ListenAddress("tcp://a:1", worker=worker) for worker in range(3))
    for place in (third, second):
        with server() as listening:
            keep(store, place, listening)
    assert store.member(first).fileno() == store.get(second)
    with server() as listening:
        keep(store, first, listening)
    monkeypatch.delattr(SocketStore, "workers")
    assert store.member(first).fileno() == store.get(first)
    assert first.listener is first


def test_groups_count_what_is_here_and_what_is_asked_for(store: SocketStore) -> None:
    many = [ListenAddress("tcp://a:1", worker=worker) for worker in range(4)]
    alone, datagrams = ListenAddress("tcp://b:1"), [ListenAddress("udp://a:1", worker=worker) for worker in range(2)]
    for place in [*many, alone, *datagrams]:
        with server() as listening:
            keep(store, place, listening)
    assert store.groups([*many[:2], alone, *datagrams]) == {many[0]: (4, 2)}
    assert store.groups(many) == {many[0]: (4, 4)}
    assert store.groups([]) == {}


def test_a_datagram_socket_has_no_queue_of_clients(store: SocketStore) -> None:
    """The kernel has no TCP_INFO for it."""
    place = ListenAddress("udp://127.0.0.1:1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        keep(store, place, bound)
        bound.sendto(b"x", bound.getsockname())
    assert store.queued(place) == 0
    assert store.waiting() == 0


def test_the_clients_of_all_queues_are_counted(store: SocketStore) -> None:
    with server() as one, server() as other:
        keep(store, PLACE, one)
        keep(store, ListenAddress("tcp://127.0.0.1:2"), other)
        with client(one.getsockname()), client(one.getsockname()), client(other.getsockname()):
            assert (store.queued(PLACE), store.waiting()) == (2, 3)


def test_the_queue_of_an_ipv6_socket_is_counted_too(store: SocketStore) -> None:
    place = ListenAddress("tcp://[::1]:1")
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listening, socket.create_connection(listening.getsockname()[:2]):
        keep(store, place, listening)
        assert store.queued(place) == 1


def test_a_narrow_queue_takes_hardly_a_client_more_and_loses_none(store: SocketStore) -> None:
    unheard = ListenAddress("tcp://127.0.0.1:2")
    with server() as listening, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as bound:
        keep(store, PLACE, listening)
        keep(store, ListenAddress("udp://127.0.0.1:1"), datagrams)
        bound.bind(("127.0.0.1", 0))
        keep(store, unheard, bound)
        with client(listening.getsockname()), client(listening.getsockname()), ExitStack() as stack:
            store.narrow()
            assert store.queued(PLACE) == 2
            for _ in range(5):
                late = stack.enter_context(socket.socket())
                late.setblocking(False)
                late.connect_ex(listening.getsockname())
            assert store.queued(PLACE) <= 3


def test_a_narrow_queue_in_which_a_client_waits_takes_no_other_one(store: SocketStore) -> None:
    with server() as listening, client(listening.getsockname()), ExitStack() as stack:
        keep(store, PLACE, listening)
        store.narrow()
        for _ in range(3):
            late = stack.enter_context(socket.socket())
            late.setblocking(False)
            late.connect_ex(listening.getsockname())
        assert store.queued(PLACE) == 1


def test_everything_of_another_store_is_taken_over(store: SocketStore) -> None:
    other, second = SocketStore(), ListenAddress("tcp://127.0.0.1:2")
    with server() as old, server() as new, server() as more:
        keep(store, PLACE, old)
        keep(other, PLACE, new)
        keep(other, second, more)
        store.take_all(other)
        assert other.places() == []
        assert store.places() == [PLACE, second]
        assert store.same(PLACE, new.fileno())
        other.close_all()
        assert store.same(second, more.fileno())


@pytest.mark.parametrize(
    ("scheme", "host", "port", "address"),
    [
        ("tcp", "127.0.0.1", "80", "tcp://127.0.0.1:80"),
        ("udp", "::1", "53", "udp://[::1]:53"),
        ("tcp", "fe80::1%eth0", "0", "tcp://[fe80::1%eth0]:0"),
    ],
)
def test_an_address_is_written_as_the_protocol_writes_it(scheme: str, host: str, port: str, address: str) -> None:
    assert ListenAddress.at(scheme, host, port, "/run/netns/a") == ListenAddress(address, "/run/netns/a")


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::0", "::"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::00a", "2001:db8::a"),
        ("::ffff:7f00:1", "::ffff:127.0.0.1"),
        ("::FFFF:1.2.3.4", "::ffff:1.2.3.4"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_an_ip_address_is_spelled_as_the_proxy_spells_it(host: str, wanted: str) -> None:
    assert spelled(host) == wanted


@pytest.mark.parametrize("host", ["", "localhost", "127.1", "[::1]", "1.2.3.4:5"])
def test_what_is_no_ip_address_has_no_spelling(host: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        spelled(host)


@pytest.mark.parametrize(
    ("address", "any_port"),
    [
        ("tcp://127.0.0.1:0", True),
        ("udp://[::]:0", True),
        ("tcp://127.0.0.1:10", False),
        ("tcp://127.0.0.1:80", False),
        ("unix:///run/x:0", False),
        ("unix://@x:0", False),
    ],
)
def test_a_port_that_the_kernel_chooses_is_told_from_any_other(address: str, any_port: bool) -> None:
    assert ListenAddress(address).any_port is any_port


def test_one_socket_stands_for_its_whole_group(store: SocketStore) -> None:
    one, two = ListenAddress("tcp://a:1", worker=1), ListenAddress("tcp://a:1", worker=2)
    with server() as first, server() as second:
        keep(store, two, second)
        keep(store, one, first)
        for place in (one, two, one.listener):
            assert os.path.sameopenfile(store.member(place.listener).fileno(), first.fileno())


def test_the_inodes_are_those_of_streams_alone(store: SocketStore) -> None:
    with server() as listening, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        keep(store, PLACE, listening)
        keep(store, ListenAddress("udp://127.0.0.1:1"), datagrams)
        assert store.inodes() == {os.fstat(listening.fileno()).st_ino}


def test_what_cannot_tell_its_queue_has_none(store: SocketStore) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0agent-test-queue")
        keep(store, ListenAddress("unix://@agent-test-queue"), listening)
    assert store.queued(ListenAddress("unix://@agent-test-queue")) == 0
    assert store.queued(PLACE) == 0
