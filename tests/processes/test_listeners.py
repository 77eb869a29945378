"""Which listening socket an epoch gets, and which ones the store has, from the first start to the last hand-over."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.core.errors import AddressHeld, MachineError
from agent.handoff.reuseport_filter import attach
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host.inherited_sockets import InheritedSocket
from agent.host.processes import User
from agent.host.sockets import Endpoint
from agent.processes import listeners as module
from agent.processes.epoch_process import EpochProcess
from agent.processes.listeners import Listeners
from agent.proxies.envoy.configuration import Configuration
from tests.processes.conftest import MakeEpoch
from tests.processes.fakes import FakeAdmin, Kernel, Peer
from tests.processes.harness import place
from tests.processes.holders import bootstrap, holder, tcp
from tests.processes.links import link_of, parent_of
from tests.processes.virtual_time import now, turns, virtual_time

NOTHING = Configuration("{}", "x.yaml")


def test_a_foreign_holder_is_named_and_nothing_is_lent() -> None:
    ports = Listeners(None, list)
    with holder() as (pid, port), pytest.raises(AddressHeld, match=f"pid {pid}"):
        ports.get(place(port), NOTHING)


def test_a_socket_of_an_epoch_of_ours_is_no_foreign_holder() -> None:
    with holder() as (pid, port):
        assert Listeners(None, lambda: [pid]).get(place(port), NOTHING) is None


def test_what_the_vault_has_is_lent_without_a_question() -> None:
    ports = Listeners(None, list)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = place(listening.getsockname()[1])
        ports.store.put(there, os.dup(listening.fileno()))
    assert ports.get(there, NOTHING) == ports.store.get(there)
    assert ports.get(ListenAddress(there.address, worker=1), NOTHING) is None  # one worker more: it binds itself
    ports.store.close_all()


def low_port() -> int:
    """A port below 1024 that nobody has."""
    for port in range(1023, 600, -1):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every low port is taken")


@pytest.mark.skipif(os.getuid() != 0, reason="wants root")
def test_a_low_port_that_no_configuration_names_is_bound_only_where_that_is_allowed() -> None:
    """A proxy that was broken into asks for another service's port: it gets nothing, and cannot bind it itself."""
    port = low_port()
    named = Configuration(bootstrap(tcp(port)), "x.json")
    for allowed, configuration, is_bound in ((set(), NOTHING, False), ({port}, NOTHING, True), (set(), named, True)):
        ports = Listeners(User(65534, 65534), list, allowed)
        assert (ports.get(place(port), configuration) is not None) is is_bound
        ports.unstage()


def test_a_path_that_a_proxy_of_another_user_thinks_of_is_not_tried(tmp_path: Path) -> None:
    """The agent's rights would lead it to sockets that the proxy cannot reach; some wake up whoever they belong to."""
    with socket.socket(socket.AF_UNIX) as victim:
        victim.bind(str(tmp_path / "victim"))
        victim.listen()
        victim.setblocking(False)
        asked = ListenAddress(f"unix://{tmp_path}/victim")
        assert Listeners(User(65534, 65534), list).get(asked, NOTHING) is None
        with pytest.raises(BlockingIOError):
            victim.accept()
        with pytest.raises(AddressHeld):
            Listeners(None, list).get(asked, NOTHING)


@pytest.mark.parametrize("address", ["unix://@agent-test", "udp://127.0.0.1:53"])
def test_what_is_not_tcp_is_bound_by_the_proxy(address: str) -> None:
    assert Listeners(None, list).get(ListenAddress(address), NOTHING) is None


def test_another_network_namespace_is_not_looked_into() -> None:
    with holder() as (_, port):
        assert Listeners(None, list).get(ListenAddress(f"tcp://127.0.0.1:{port}", "/run/netns/x"), NOTHING) is None


# Sockets from outside


class Store(SocketStore):
    """Notes what is put into it, as systemd's store does."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[ListenAddress] = []

    def put(self, place: ListenAddress, descriptor: int) -> None:
        self.received.append(place)
        super().put(place, descriptor)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close_all()


@pytest.fixture
def ports(store: Store) -> Iterator[Listeners]:
    made = Listeners(None, lambda: [os.getpid()], (), store)
    yield made
    made.unstage()


@contextmanager
def listening(count: int = 1, family: socket.AddressFamily = socket.AF_INET) -> Iterator[list[socket.socket]]:
    """Sockets that listen on one port of loopback."""
    host = "127.0.0.1" if family is socket.AF_INET else "::1"
    with contextlib.ExitStack() as rest:
        reserved = rest.enter_context(socket.socket(family))
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, 0))
        name = reserved.getsockname()[:2]
        yield [rest.enter_context(socket.create_server(name, family=family, reuse_port=True)) for _ in range(count)]


def at(listener: socket.socket, worker: int = 0) -> ListenAddress:
    return place(listener.getsockname()[1], worker)


def inode(descriptor: int | None) -> int:
    assert descriptor is not None
    return os.fstat(descriptor).st_ino


def inherited(listener: socket.socket, name: str = "") -> InheritedSocket:
    return InheritedSocket(os.dup(listener.fileno()), name)


def test_inherited_sockets_are_stored_by_their_address_one_a_worker(ports: Listeners, store: Store) -> None:
    with listening(2) as several, listening() as [other]:
        ports.inherit([inherited(several[0]), inherited(other), inherited(several[1])])
        assert {each: inode(store.get(each)) for each in store.places()} == {
            at(several[0]): inode(several[0].fileno()),
            at(several[0], 1): inode(several[1].fileno()),
            at(other): inode(other.fileno()),
        }


def test_an_inherited_socket_with_a_name_is_stored_by_it(ports: Listeners, store: Store) -> None:
    with listening(2) as several:
        named = at(several[0], 5)
        name = json.dumps([named.address, "", 5])
        ports.inherit([inherited(several[0], name), inherited(several[1])])
        assert store.places() == [named, at(several[0], 6)], "the worker after it"


def test_an_inherited_descriptor_that_does_not_listen_is_closed(ports: Listeners, store: Store) -> None:
    with socket.socket() as unbound, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        strangers = [inherited(unbound), inherited(datagrams), InheritedSocket(os.memfd_create("x"))]
        ports.inherit(strangers)
        assert store.places() == []
        for each in strangers:
            with pytest.raises(OSError, match="descriptor"):
                os.fstat(each.descriptor)


def test_the_next_program_inherits_what_this_one_holds(ports: Listeners, store: Store) -> None:
    with listening(2) as several:
        store.put(at(several[0]), os.dup(several[0].fileno()))
        store.put(replace(at(several[0], 1), namespace="/run/netns/a"), os.dup(several[1].fileno()))
        bequest = ports.bequest()
        next_store = Store()
        Listeners(None, list, (), next_store).inherit(InheritedSocket(each, name) for name, each in bequest.items())
        assert next_store.places() == store.places()
        for each in store.places():
            assert store.get(each) != next_store.get(each)
            assert inode(store.get(each)) == inode(next_store.get(each))
        next_store.close_all()


def test_inodes_are_those_of_the_stream_sockets_of_these_listeners(ports: Listeners, store: Store) -> None:
    with listening(2) as several, listening() as [other], socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        store.put(at(several[0]), os.dup(several[0].fileno()))
        store.put(at(several[0], 1), os.dup(several[1].fileno()))
        store.put(at(other), os.dup(other.fileno()))
        udp = ListenAddress("udp://127.0.0.1:1")
        store.put(udp, os.dup(datagrams.fileno()))
        expected = {inode(each.fileno()) for each in several}
        assert ports.inodes({at(several[0]), udp}) == expected
        assert ports.inodes(set()) == set()


# Before the commit


def test_a_socket_of_another_namespace_is_given_from_the_store_only(ports: Listeners, store: Store) -> None:
    with listening() as [listener]:
        there = replace(at(listener), namespace="/run/netns/a")
        store.put(there, os.dup(listener.fileno()))
        assert ports.get(there, NOTHING) == store.get(there)


def test_an_address_of_which_the_store_has_a_worker_is_not_probed() -> None:
    """The candidate may have more workers: it binds the others beside ours."""
    with listening() as [listener]:
        ports = Listeners(None, list)
        ports.store.put(at(listener), os.dup(listener.fileno()))
        assert ports.get(at(listener, 1), NOTHING) is None
        ports.store.close_all()
        with pytest.raises(AddressHeld):
            ports.get(at(listener, 1), NOTHING)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://[::1]:0"])
def test_a_port_that_the_kernel_chooses_is_held_by_nobody(address: str) -> None:
    assert Listeners(None, list).get(ListenAddress(address), NOTHING) is None


def test_an_address_that_the_configuration_names_is_probed_for_a_proxy_of_another_user() -> None:
    with listening() as [listener]:
        named = Configuration(bootstrap(tcp(listener.getsockname()[1])), "x.json")
        ports = Listeners(User(65534, 65534), list)
        assert ports.get(at(listener), NOTHING) is None, "it might be a trap"
        with pytest.raises(AddressHeld):
            ports.get(at(listener), named)


class Bound:
    """Binds in place of the privileged agent; notes how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int, bool, bool]] = []
        monkeypatch.setattr(module, "may_bind_for_others", lambda port: port < 1024)
        monkeypatch.setattr(module, "bind_for_proxy", self._bind)
        monkeypatch.setattr(module, "check_free", lambda *_: None)

    def _bind(self, endpoint: Endpoint, *, reuse_port: bool, dual_stack: bool) -> socket.socket:
        self.asked.append((endpoint.host, endpoint.port, reuse_port, dual_stack))
        return socket.socket()


USER = User(65534, 65534)


def test_a_low_port_is_bound_for_a_proxy_without_the_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound(monkeypatch)
    ports = Listeners(USER, list, {99})
    first = ports.get(place(99), NOTHING)
    assert first is not None
    assert ports.get(place(99), NOTHING) == first, "once"
    second = ports.get(place(99, 1), NOTHING)
    assert second not in {None, first}, "one a worker"
    assert bound.asked == [("127.0.0.1", 99, True, False)] * 2
    assert ports.store.places() == [], "not before the commit"
    ports.adopt()
    assert ports.store.places() == [place(99), place(99, 1)]
    ports.store.close_all()


def test_options_of_the_configuration_are_kept_when_the_agent_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound(monkeypatch)
    address = {"socket_address": {"address": "::", "port_value": 99, "ipv4_compat": True}}
    ports = Listeners(USER, list)
    there = ListenAddress("tcp://[::]:99")
    assert ports.get(there, Configuration(bootstrap(address, enable_reuse_port=False), "x.json")) is not None
    assert bound.asked == [("::", 99, False, True)]
    ports.unstage()


def test_of_several_listeners_the_options_are_those_of_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound = Bound(monkeypatch)
    other = {"socket_address": {"address": "::", "port_value": 98, "ipv4_compat": True}}
    named = Configuration(bootstrap(other, tcp(99)), "x.json")
    ports = Listeners(USER, list)
    assert ports.get(place(99), named) is not None
    assert ports.get(place(97), named) is None
    assert bound.asked == [("127.0.0.1", 99, True, False)]
    ports.unstage()


@pytest.mark.parametrize(
    ("user", "asked", "named"),
    [(None, place(99), True), (USER, place(1024), True), (USER, place(99), False), (USER, place(0), True)],
    ids=["a proxy of the same user", "a high port", "a port that is not named or allowed", "any port"],
)
def test_the_proxy_binds_itself(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    user: User | None,
    asked: ListenAddress,
    named: bool,
) -> None:
    bound = Bound(monkeypatch)
    port = int(asked.address.rpartition(":")[2])
    configuration = Configuration(bootstrap(tcp(port)), "x.json") if named and port else NOTHING
    if port == 0:
        monkeypatch.setattr(module, "may_bind_for_others", lambda _: False)
    assert Listeners(user, list, {100}).get(asked, configuration) is None
    assert bound.asked == []
    assert ("--allow-listen 99" in caplog.text) is (not named)
    assert [cast(Any, record).event for record in caplog.records] == ["handoff.refused"] * (not named)


@asynccontextmanager
async def running(make_epoch: MakeEpoch, text: str = "{}", number: int = 1) -> AsyncIterator[tuple[EpochProcess, Peer]]:
    """An epoch whose proxy is the test."""
    epoch = make_epoch(text, number=number)
    await epoch.launch(0)
    proxy = Peer(link_of(epoch).names)
    try:
        yield epoch, proxy
    finally:
        proxy.close()
        await epoch.cleanup()


def wants(epoch: EpochProcess, *places: ListenAddress) -> None:
    """Have an epoch asked for these."""
    parent_of(epoch).asked.update(places)


def binds(epoch: EpochProcess, *places: ListenAddress) -> None:
    """Have an epoch bound these itself."""
    wants(epoch, *places)
    parent_of(epoch).bound_itself.update(places)


def owns(proxy: Peer, listener: socket.socket, *workers: int) -> None:
    """Have a proxy listen on a socket, for these workers."""
    for worker in workers or (0,):
        proxy.sockets[at(listener).address, worker] = listener


@virtual_time
async def test_what_the_candidate_bound_is_duplicated_and_stored_at_the_commit(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, proxy):
        with listening(2) as several:
            for worker, listener in enumerate(several):
                owns(proxy, listener, worker)
            binds(epoch, at(several[0]), at(several[0], 1), place(1))
            await ports.stage(epoch)
            assert store.places() == [], "the candidate may still be dropped"
            assert ports.get(at(several[0]), NOTHING) is not None, "and yet it has it"
            ports.adopt()
            assert store.places() == [at(several[0]), at(several[0], 1)]
            assert store.received == store.places(), "each goes through the store, and so to systemd"
            assert inode(store.get(at(several[0], 1))) == inode(several[1].fileno())


@virtual_time
async def test_what_the_store_has_is_not_duplicated_again(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, proxy):
        with listening() as [listener]:
            store.put(at(listener), os.dup(listener.fileno()))
            owns(proxy, listener)
            binds(epoch, at(listener))
            await ports.stage(epoch)
            assert proxy.asked == []


@virtual_time
async def test_a_port_that_the_kernel_chose_is_not_held(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners
) -> None:
    """The next epoch gets another one."""
    async with running(make_epoch) as (epoch, proxy):
        with listening() as [listener]:
            owns(proxy, listener)
            proxy.sockets["tcp://127.0.0.1:0", 0] = listener
            binds(epoch, place(0))
            await ports.stage(epoch)
            assert proxy.asked == []
            admin(epoch)["listeners"] = {at(listener)}
            assert await ports.follow(epoch) == {at(listener)}
            assert ports.store.places() == []


@virtual_time
async def test_the_sockets_of_a_dropped_candidate_are_closed(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, proxy):
        with listening() as [listener]:
            owns(proxy, listener)
            binds(epoch, at(listener))
            await ports.stage(epoch)
            held = ports.get(at(listener), NOTHING)
            assert held is not None
            ports.unstage()
            with pytest.raises(OSError, match="descriptor"):
                os.fstat(held)
            ports.adopt()
            assert store.places() == []


@virtual_time
async def test_an_adopted_epoch_gives_its_sockets_back(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, proxy):
        with listening(2) as several:
            for worker, listener in enumerate(several):
                owns(proxy, listener, worker)
            proxy.sockets["tcp://127.0.0.1:0", 0] = several[0]
            wants(epoch, at(several[0]), at(several[0], 1), at(several[0], 2), place(0))
            await ports.regain(epoch)
            assert store.received == [at(several[0]), at(several[0], 1)]


def admin(epoch: EpochProcess) -> dict[str, Any]:
    return cast(FakeAdmin, epoch.admin).answers


DYNAMIC = ', "dynamic_resources": {"lds_config": {"ads": {}}}}'


@pytest.mark.parametrize(
    ("now_", "before", "stored", "asked", "missing"),
    [
        ([1], [1], [1], [], [1]),
        ([1], [1], [1], [1], []),
        ([], [1], [1], [], []),
        ([1], [], [1], [], [1]),
        ([1], None, [1], [], [1]),
        ([2], [2], [1], [2], []),
        ([1, 2, 3], [1, 2, 3], [3, 1, 2], [2], [1, 3]),
    ],
    ids=[
        "served, configured, not asked for",
        "asked for",
        "taken away by the operator",
        "new in the configuration",
        "with no configuration before",
        "served, and never configured",
        "in order",
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
@virtual_time
async def test_a_candidate_misses_the_served_listeners_that_it_still_has_to_have(
    make_epoch: MakeEpoch,
    kernel: Kernel,
    ports: Listeners,
    store: Store,
    now_: list[int],
    before: list[int] | None,
    stored: list[int],
    asked: list[int],
    missing: list[int],
    dynamic: bool,
) -> None:
    def text(numbers: list[int]) -> str:
        return bootstrap(*map(tcp, numbers))[:-1] + (DYNAMIC if dynamic else "}")

    async with running(make_epoch, text(now_)) as (epoch, _):
        wants(epoch, *(place(number, worker=2) for number in asked))
        for number in stored:
            store.put(place(number), socket.socket().detach())
            store.put(place(number, 1), socket.socket().detach())
        was = None if before is None else Configuration(text(before), "x.json")
        expected = [place(number) for number in missing]
        if dynamic and (now_, stored) == ([2], [1]):
            expected = [place(1)]  # its control plane may yet send it
        assert ports.missing(epoch, was) == expected


@virtual_time
async def test_a_listener_that_was_asked_for_with_any_port_is_not_missed(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch, bootstrap(tcp(1))) as (epoch, _):
        store.put(place(1), socket.socket().detach())
        wants(epoch, place(0))
        assert ports.missing(epoch, None) == []


# At the commit


@virtual_time
async def test_the_predecessor_is_told_and_what_the_successor_lacks_is_closed(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (before, old), running(make_epoch, number=2) as (after, new):
        with listening() as [kept], listening() as [given_up]:
            for listener in (kept, given_up):
                store.put(at(listener), os.dup(listener.fileno()))
            wants(after, at(kept))
            await ports.hand_over(after, before)
            await turns()
            assert (old.drains, new.drains) == (1, 0)
            assert store.places() == [at(kept)]


@virtual_time
async def test_without_a_predecessor_what_the_epoch_lacks_is_closed_at_once(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, _):
        with listening() as [listener]:
            store.put(at(listener, 1), os.dup(listener.fileno()))
            wants(epoch, at(listener))
            began = now()
            with socket.create_connection(listener.getsockname()):
                await ports.hand_over(epoch, None)
            assert (store.places(), now()) == ([], began)


@virtual_time
async def test_a_predecessor_that_is_gone_is_no_error(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (before, old), running(make_epoch, number=2) as (after, _):
        old.close()
        link_of(before).names.epoch_as_parent.unlink()
        with listening() as [listener]:
            store.put(at(listener), os.dup(listener.fileno()))
            await ports.hand_over(after, before)
            assert store.places() == []


@pytest.mark.parametrize(("workers", "accepted_at", "waits"), [(1, 0.5, 0.5), (1, 5.0, 1.0), (0, 5.0, 0.0)])
@virtual_time
async def test_the_queue_of_a_worker_that_goes_is_emptied_first_for_at_most_a_second(
    make_epoch: MakeEpoch,
    kernel: Kernel,
    ports: Listeners,
    store: Store,
    workers: int,
    accepted_at: float,
    waits: float,
) -> None:
    """Only of a listener that goes on: the clients of one that is gone are refused."""
    async with running(make_epoch) as (before, old), running(make_epoch, number=2) as (after, _):
        with listening(2) as several:
            for worker, listener in enumerate(several):
                store.put(at(listener, worker), os.dup(listener.fileno()))
            if workers:
                wants(after, at(several[0]))
            with contextlib.ExitStack() as clients:
                while not store.queued(at(several[0], 1)):
                    clients.enter_context(socket.create_connection(several[0].getsockname()))
                began = now()

                def accept() -> None:
                    while store.queued(at(several[0], 1)):
                        several[1].accept()[0].close()

                asyncio.get_running_loop().call_later(accepted_at, accept)
                await ports.hand_over(after, before)
                assert now() - began == pytest.approx(waits, abs=0.02)
                await turns()
                assert old.drains == 1


def steered(listener: socket.socket, group: list[socket.socket]) -> set[int]:
    """The members of a group that get a client of sixteen."""
    reached = set()
    for _ in range(16):
        with socket.create_connection(listener.getsockname()):
            for number, member in enumerate(group):
                member.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    member.accept()[0].close()
                    reached.add(number)
    return reached


@virtual_time
async def test_new_clients_come_only_to_the_workers_that_the_new_epoch_has(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (fewer, _), running(make_epoch, number=2) as (more, _):
        with listening(3) as group:
            for worker, listener in enumerate(group):
                store.put(at(listener, worker), os.dup(listener.fileno()))
            wants(fewer, at(group[0]))
            wants(more, *(at(group[0], worker) for worker in range(3)))
            await ports.hand_over(more, None)
            assert len(steered(group[0], group)) > 1
            await ports.hand_over(fewer, None)
            assert steered(group[0], group) == {0}


@virtual_time
async def test_all_workers_get_clients_again(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, _):
        with listening(3) as group:
            for worker, listener in enumerate(group):
                store.put(at(listener, worker), os.dup(listener.fileno()))
            attach(group[0], 1)
            wants(epoch, *(at(group[0], worker) for worker in range(3)))
            await ports.hand_over(epoch, None)
            assert len(steered(group[0], group)) > 1


@virtual_time
async def test_clients_that_cannot_be_steered_are_warned_of(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(make_epoch) as (epoch, _):
        with socket.create_server(("127.0.0.1", 0)) as alone:  # no group
            for worker in (0, 1):
                store.put(at(alone, worker), os.dup(alone.fileno()))
            wants(epoch, at(alone))
            await ports.hand_over(epoch, None)
            assert at(alone).address in caplog.text
            assert [cast(Any, record).event for record in caplog.records] == ["handoff.steering"]
            assert store.places() == [at(alone)]


# While it serves


@virtual_time
async def test_the_store_follows_the_listeners_of_the_epoch_that_serves(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, proxy):
        with listening(2) as several, listening() as [gone]:
            for worker, listener in enumerate(several):
                owns(proxy, listener, worker)
            for worker in (0, 3):
                store.put(at(gone, worker), os.dup(gone.fileno()))
                store.put(at(several[0], worker), os.dup(gone.fileno()))
            admin(epoch)["listeners"] = {at(several[0])}
            assert await ports.follow(epoch) == {at(several[0])}
            assert {each: inode(store.get(each)) for each in store.places()} == {
                at(several[0]): inode(several[0].fileno()),
                at(several[0], 1): inode(several[1].fileno()),
            }


@virtual_time
async def test_a_socket_that_all_workers_share_is_stored_once(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, proxy):
        with listening() as [shared]:
            owns(proxy, shared, *range(8))
            admin(epoch)["listeners"] = {at(shared)}
            await ports.follow(epoch)
            assert store.places() == [at(shared)]
            assert [worker for _, worker in proxy.asked] == [0, 1]


@virtual_time
async def test_a_listener_that_the_epoch_does_not_give_is_not_stored(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, _):
        with listening() as [listener]:
            store.put(at(listener), os.dup(listener.fileno()))
            admin(epoch)["listeners"] = {at(listener)}
            assert await ports.follow(epoch) == {at(listener)}
            assert store.places() == []


@virtual_time
async def test_an_epoch_that_does_not_answer_changes_nothing_in_the_store(
    make_epoch: MakeEpoch, kernel: Kernel, ports: Listeners, store: Store
) -> None:
    async with running(make_epoch) as (epoch, _):
        with listening() as [listener]:
            store.put(at(listener), os.dup(listener.fileno()))
            admin(epoch)["listeners"] = MachineError("silent")
            with pytest.raises(MachineError):
                await ports.follow(epoch)
            assert store.places() == [at(listener)]
