"""What the process table does to each epoch, and the events that it posts; no process is started."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from agent.certificates.groups import Pin
from agent.core.epochs import State
from agent.core.errors import MachineError
from agent.core.events import (
    EpochAwaits,
    EpochEmptied,
    EpochExited,
    EpochJudged,
    EpochPushed,
    EpochReachedGate,
    EpochServes,
    EpochStarted,
    Event,
    Failure,
    FailureKind,
)
from agent.core.policy import Policy
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host.carried import Carried
from agent.host.log import LogEvent, subscribe
from agent.host.memory import Footprint, Free, OomWatch
from agent.host.processes import User
from agent.host.run_directory import RunDirectory
from agent.inputs.revisions import LoadedRevision
from agent.inputs.settings import Settings
from agent.metrics.shared_counters import SharedCounters, make_room
from agent.processes import draining, process_table
from agent.processes.epoch_process import EpochProcess
from agent.processes.memory_check import MemoryCheck
from agent.processes.process_table import Callbacks, ProcessTable
from agent.processes.pushing import Push, PushResult
from agent.processes.survivor import Survivor
from agent.proxies.interface import Complaint, Inbound
from agent.stats.writer import Writer
from tests.handoff.handmade import DRAIN_LISTENERS, SHUTDOWN_ADMIN, STATS
from tests.handoff.handmade import reply as reply_of
from tests.processes.fakes import KIND, FakeAdmin, FakeProcess, Kernel, Peer, Revisions, listening
from tests.processes.links import link_of, parent_of
from tests.processes.virtual_time import turns, virtual_time
from tests.stats.segments import STARTED, nonce_of

E = TypeVar("E")
GHOST = (1 << 22) + 1  # beyond the largest pid: the kernel tells nothing about it
OTHER = "admin: {}"
DYNAMIC = """
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3}
  ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: plane}}]}
"""
UNIX = json.dumps({"static_resources": {"listeners": [{"name": "in", "address": {"pipe": {"path": "/run/in"}}}]}})
EMPTY_STATS = reply_of(3)


def static(port: int, protocol: str = "TCP") -> str:
    address = {"socket_address": {"protocol": protocol, "address": "127.0.0.1", "port_value": port}}
    return json.dumps({"static_resources": {"listeners": [{"name": "in", "address": address}]}})


class Watch(OomWatch):
    """Counts as many kills as the test says, once each."""

    def __init__(self, kills: int = 0) -> None:
        self.left = kills

    def kills(self) -> int:
        counted, self.left = self.left, 0
        return counted


class Accuser:
    """Finds the certificate groups at fault that the test names."""

    def __init__(self) -> None:
        self.pins: tuple[Pin, ...] = ()
        self.error: Exception | None = None
        self.accused: list[tuple[int, str]] = []

    async def accuse(self, refused: EpochProcess, complaint: Complaint) -> tuple[Pin, ...]:
        self.accused.append((refused.number, complaint.text))
        if self.error is not None:
            raise self.error
        return self.pins


class Rig:
    """A process table, and all that it says."""

    def __init__(self, directory: RunDirectory, revisions: Revisions, kernel: Kernel, **settings: Any) -> None:  # noqa: ANN401
        self.directory, self.revisions, self.kernel = directory, revisions, kernel
        self.events: list[Event] = []
        self.log: list[LogEvent] = []
        self.handed_over: list[int] = []
        self.records, self.followed = 0, 0
        self.accuser, self.watch = Accuser(), Watch()
        self.peers: list[Peer] = []
        self.counters = SharedCounters(directory)
        scrape: Callable[[EpochProcess], Awaitable[None]] | None = settings.pop("scrape", None)
        callbacks = Callbacks(
            post=self.events.append,
            record=self._record,
            handed_over=lambda epoch: self.handed_over.append(epoch.number),
            followed=self._follow,
            final_scrape=scrape,
        )
        chosen = Settings(
            proxy="/bin/true",
            kind=KIND,
            certificates=(),
            config=None,
            watched=(),
            run_directory=directory.path,
            listen="",
            forward="",
            **settings,
        )
        self.store = SocketStore()
        self.table = ProcessTable(
            chosen, directory, revisions, self.counters, self.store, cast(Any, self.accuser), callbacks
        )
        self.table._memory_check = MemoryCheck(watch=self.watch)

    def _record(self) -> None:
        self.records += 1

    def _follow(self) -> None:
        self.followed += 1

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def logged(self, name: str) -> list[str]:
        """The texts of one event of the log."""
        return [event.text for event in self.log if event.name == name]

    async def until(self, check: Callable[[], object]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(100):
            while not check():  # noqa: ASYNC110  # virtual time
                await asyncio.sleep(0.001)

    async def event(self, kind: type[E]) -> E:
        """Wait for the one event of a kind."""
        await self.until(lambda: self.of(kind))
        [event] = self.of(kind)
        return event

    async def start(self, number: int, text: str = "{}") -> EpochProcess:
        """Start a candidate."""
        self.table.start(number, self.revisions.load(text).revision, validate=False)
        await self.until(lambda: any(event.epoch == number for event in self.of(EpochStarted)))
        return self.table.epochs[number]

    async def serve(self, number: int, text: str = "{}") -> EpochProcess:
        """Start an epoch and commit it."""
        epoch = await self.start(number, text)
        link_of(epoch).gate.open()
        self.table.commit(number)
        await self.until(lambda: number in self.handed_over)
        return epoch

    def peer(self, epoch: EpochProcess) -> Peer:
        """The proxy's side of an epoch."""
        self.peers.append(Peer(link_of(epoch).names))
        return self.peers[-1]

    def store_one(self, listener: socket.socket) -> ListenAddress:
        """Put a duplicate of a listener into the socket store."""
        place = ListenAddress(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        self.store.put(place, os.dup(listener.fileno()))
        return place


def admin(epoch: EpochProcess) -> FakeAdmin:
    return cast(FakeAdmin, epoch.admin)


def signals(epoch: EpochProcess) -> list[signal.Signals]:
    return cast(FakeProcess, epoch.process).signals


def leave(epoch: EpochProcess, code: int | None) -> None:
    """Have the process exit."""
    cast(FakeProcess, epoch.process).exit(code)


MakeRig = Callable[..., Any]


@pytest.fixture
def opened(directory: RunDirectory, revisions: Revisions, kernel: Kernel) -> MakeRig:
    @asynccontextmanager
    async def open_rig(**settings: Any) -> AsyncIterator[Rig]:  # noqa: ANN401
        rig = Rig(directory, revisions, kernel, **settings)
        with subscribe(rig.log.append):
            try:
                yield rig
            finally:
                for peer in rig.peers:
                    peer.close()
                await rig.table.close()

    return open_rig


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    [made] = listening()
    with made:
        yield made


# Launching


@virtual_time
async def test_a_start_is_reported_with_the_pid_of_the_process(opened: MakeRig) -> None:
    async with opened() as rig:
        await rig.start(4)
        assert [(event.epoch, event.pid) for event in rig.of(EpochStarted)] == [(4, os.getpid())]
        assert rig.of(EpochExited) == []
        assert rig.table.serving is None, "it is a candidate"


@virtual_time
async def test_the_state_is_written_before_the_process_exists(opened: MakeRig) -> None:
    """An agent killed in between finds the process by the manifest that the state names."""
    async with opened() as rig:
        seen: list[tuple[int, list[int]]] = []
        rig.kernel.before_start = lambda: seen.append((rig.records, sorted(rig.table.epochs)))
        await rig.start(4)
        assert seen == [(1, [4])]


@pytest.mark.parametrize(("validate", "runs"), [(True, 1), (False, 0)])
@virtual_time
async def test_the_proxy_validates_the_configuration_first_where_that_is_asked_for(
    opened: MakeRig, validate: bool, runs: int
) -> None:
    async with opened(policy=Policy(start_timeout=7.0)) as rig:
        rig.table.start(4, rig.revisions.load().revision, validate=validate)
        await rig.event(EpochStarted)
        assert [timeout for _, timeout in rig.kernel.ran] == [7.0] * runs


@virtual_time
async def test_a_configuration_that_the_proxy_refuses_is_never_started(opened: MakeRig) -> None:
    async with opened() as rig:
        rig.kernel.results = [(1, "no such field: nonsense")]
        rig.table.start(4, rig.revisions.load().revision, validate=True)
        event = await rig.event(EpochExited)
        assert (event.epoch, event.code, event.failure.sort) == (4, None, FailureKind.PERMANENT)
        assert "/etc/envoy.yaml" in event.failure.reason
        assert "no such field: nonsense" in event.failure.reason
        assert not event.failure.pinned
        assert rig.accuser.accused == [(4, "no such field: nonsense")]
        assert rig.kernel.started == []
        assert rig.of(EpochStarted) == []


@virtual_time
async def test_a_refusal_names_the_certificate_group_at_fault(opened: MakeRig) -> None:
    async with opened() as rig:
        rig.kernel.results = [(1, "bad key")]
        rig.accuser.pins = (
            cast(Pin, SimpleNamespace(fault="/c/a.pem: weak")),
            cast(Pin, SimpleNamespace(fault="/c/b")),
        )
        rig.table.start(4, rig.revisions.load().revision, validate=True)
        event = await rig.event(EpochExited)
        assert event.failure.reason == "/c/a.pem: weak; /c/b"
        assert event.failure.pinned


@pytest.mark.parametrize("error", [MachineError("no descriptor left"), OSError(28, "disk full")])
@virtual_time
async def test_a_process_that_cannot_be_started_may_be_tried_again(opened: MakeRig, error: Exception) -> None:
    async with opened() as rig:
        rig.kernel.refusal = error
        rig.table.start(4, rig.revisions.load().revision, validate=False)
        event = await rig.event(EpochExited)
        assert (event.epoch, event.code, event.failure.sort) == (4, None, FailureKind.TRANSIENT)
        assert str(error) in event.failure.reason


def short(rig: Rig, free: int = 0) -> list[int]:
    """Let a number of bytes be free where one more proxy needs 84 MiB; the pids that were compared with."""
    asked: list[int] = []

    def footprint(pid: int) -> Footprint:
        asked.append(pid)
        return Footprint(80 << 20, 40 << 20, 0, 0)

    rig.table._memory_check = MemoryCheck(lambda: Free(free, "memory.max"), footprint, rig.watch)
    return asked


@virtual_time
async def test_without_memory_for_a_second_proxy_nothing_is_started(opened: MakeRig) -> None:
    async with opened() as rig:
        await rig.serve(3)
        asked = short(rig)
        rig.table.start(4, rig.revisions.load(OTHER).revision, validate=True)
        event = await rig.event(EpochExited)
        assert (event.epoch, event.code, event.failure.sort) == (4, None, FailureKind.OUT_OF_MEMORY)
        assert "memory.max" in event.failure.reason
        assert "beside 3" in event.failure.reason
        assert asked == [os.getpid()], "it is compared with the process that serves"
        assert len(rig.kernel.started) == 1
        assert rig.kernel.ran == []
        assert 4 not in rig.table.epochs


@virtual_time
async def test_while_nothing_serves_a_proxy_is_started_whatever_is_free(opened: MakeRig) -> None:
    async with opened() as rig:
        asked = short(rig)
        await rig.start(4)
        assert asked == []


@pytest.mark.parametrize(
    ("text", "serves", "overlap"),
    [(static(1, "UDP"), True, "4"), (static(1, "UDP"), False, "0"), (static(1), True, "0")],
    ids=["UDP", "UDP, and nothing serves", "TCP"],
)
@virtual_time
async def test_the_predecessor_reads_the_udp_sockets_on_if_there_is_one(
    opened: MakeRig, text: str, serves: bool, overlap: str
) -> None:
    async with opened() as rig:
        if serves:
            await rig.serve(3)
        await rig.start(4, text)
        arguments = list(rig.kernel.started[-1].arguments)
        assert arguments[arguments.index("--parent-shutdown-time-s") + 1] == overlap


@pytest.mark.parametrize("dumps", [True, False])
@virtual_time
async def test_a_crash_dumps_core_if_the_operator_wants_it(opened: MakeRig, dumps: bool) -> None:
    async with opened(core_dumps=dumps) as rig:
        await rig.start(4)
        assert rig.kernel.started[0].dumps_core is dumps


@virtual_time
async def test_why_a_candidate_waits_is_posted_while_it_waits(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.start(4)
        admin(epoch).answers |= {"state": "INITIALIZING", "waits_for": ["RDS x"]}
        event = await rig.event(EpochAwaits)
        assert (event.epoch, event.reason) == (4, "it is initialising RDS x")
        rig.table.cleanup(4)
        asked = len(admin(epoch).asked)
        await asyncio.sleep(10)
        assert len(admin(epoch).asked) == asked, "it is gone"


@virtual_time
async def test_an_epoch_gets_the_start_of_the_service_and_reports_on_its_own_socket(opened: MakeRig) -> None:
    async with opened() as rig:
        rig.table.served_since = 1_600_000_000
        epoch = await rig.start(4)
        proxy = rig.peer(epoch)
        proxy.request(SHUTDOWN_ADMIN)
        await rig.until(lambda: proxy.replies)
        assert b"\x08\x80\xa0\xf8\xfa\x05" in proxy.replies[0][0], "1,600,000,000 as a varint"
        proxy.request(DRAIN_LISTENERS)
        assert (await rig.event(EpochServes)).epoch == 4


@virtual_time
async def test_the_gate_reports_the_candidate_that_reached_it(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.start(4)
        reader, writer = await asyncio.open_unix_connection(str(link_of(epoch).gate.path))
        writer.write(b"POST /v3/discovery:routes HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        assert (await rig.event(EpochReachedGate)).epoch == 4
        writer.close()
        del reader


@virtual_time
async def test_a_listening_socket_is_given_from_the_store(opened: MakeRig, listener: socket.socket) -> None:
    async with opened() as rig:
        place = rig.store_one(listener)
        proxy = rig.peer(await rig.start(4))
        proxy.ask(place.address)
        proxy.ask("tcp://127.0.0.1:1", worker=1)
        await rig.until(lambda: len(proxy.replies) == 2)
        assert [inodes for _, inodes in proxy.replies] == [[os.fstat(listener.fileno()).st_ino], []]
        assert rig.table.epochs[4].bound_itself == {ListenAddress("tcp://127.0.0.1:1", "", 1)}


@virtual_time
async def test_an_address_that_the_agent_cannot_provide_is_bound_by_the_proxy(
    opened: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as rig:
        proxy = rig.peer(await rig.start(4))

        def fail(*_: object) -> int:
            raise MachineError("cannot bind tcp://127.0.0.1:1: no")

        monkeypatch.setattr(rig.table.listeners, "get", fail)
        proxy.ask("tcp://127.0.0.1:1")
        await rig.until(lambda: proxy.replies)
        assert rig.table.epochs[4].bound_itself == {ListenAddress("tcp://127.0.0.1:1")}
        [text] = rig.logged("handoff.bind")
        assert "epoch 4" in text


@virtual_time
async def test_an_address_that_another_program_holds_fails_the_candidate(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened() as rig:
        proxy = rig.peer(await rig.start(4))
        rig.table.epochs[4].process.pid = GHOST  # the holder, this process, is none of the agent's
        parent_of(rig.table.epochs[4]).channel.pid = os.getpid()
        port = listener.getsockname()[1]
        proxy.ask(f"tcp://127.0.0.1:{port}")
        event = await rig.event(EpochJudged)
        assert event.epoch == 4
        assert event.failure is not None
        assert event.failure.sort is FailureKind.TRANSIENT
        assert f"pid {os.getpid()}" in event.failure.reason
        assert proxy.replies == [], "any answer would let it share the port"


@virtual_time
async def test_a_broken_channel_is_logged_and_ends_nothing(opened: MakeRig) -> None:
    async with opened() as rig:
        proxy = rig.peer(await rig.start(4))
        proxy.ask("tcp://some.host:1")
        await rig.until(lambda: rig.logged("handoff.broken"))
        assert "epoch 4" in rig.logged("handoff.broken")[0]
        assert signals(rig.table.epochs[4]) == []


# Checking


@virtual_time
async def test_a_good_candidate_is_judged_good(opened: MakeRig) -> None:
    async with opened() as rig:
        await rig.start(4)
        rig.table.judge(4)
        assert (await rig.event(EpochJudged)).failure is None


@virtual_time
async def test_a_candidate_that_lacks_what_serves_is_refused(opened: MakeRig, listener: socket.socket) -> None:
    async with opened() as rig:
        text = static(listener.getsockname()[1])
        await rig.serve(3, text)
        rig.store_one(listener)
        await rig.start(4, text)
        rig.table.judge(4)
        event = await rig.event(EpochJudged)
        assert event.epoch == 4
        assert event.failure is not None
        assert f"127.0.0.1:{listener.getsockname()[1]}" in event.failure.reason


@virtual_time
async def test_a_candidate_that_does_not_answer_cannot_be_judged_good(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.start(4, DYNAMIC)
        admin(epoch).answers["subscriptions"] = MachineError("it hangs")
        rig.table.judge(4)
        event = await rig.event(EpochJudged)
        assert event.failure is not None
        assert event.failure.sort is FailureKind.TRANSIENT
        assert "it hangs" in event.failure.reason


@virtual_time
async def test_the_gate_opens_after_the_sockets_that_the_candidate_bound_are_duplicated(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened() as rig:
        epoch = await rig.start(4)
        proxy, address = rig.peer(epoch), f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        proxy.sockets[address, 0] = listener
        parent_of(epoch).bound_itself.add(ListenAddress(address))
        assert not epoch.link.is_open
        rig.table.open_gate(4)
        await rig.until(lambda: epoch.link.is_open)
        assert proxy.asked == [(address, 0)]
        assert rig.store.places() == [], "not before the commit"
        rig.table.commit(4)
        assert rig.store.places() == [ListenAddress(address)]
        assert signals(epoch) == []


@virtual_time
async def test_a_socket_that_cannot_be_duplicated_is_warned_of_and_keeps_no_gate_shut(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.start(4)
        parent_of(epoch).bound_itself.add(ListenAddress("tcp://127.0.0.1:1"))  # and its sockets are not there
        rig.table.open_gate(4)
        await rig.until(lambda: epoch.link.is_open)
        [text] = rig.logged("vault.incomplete")
        assert "epoch 4" in text


# Serving


@virtual_time
async def test_a_commit_makes_the_epoch_serve_and_stops_its_predecessor_once(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened() as rig:
        before = await rig.serve(3)
        old = rig.peer(before)
        after = await rig.start(4, OTHER)
        new = rig.peer(after)
        place = rig.store_one(listener)
        new.ask(place.address)
        await rig.until(lambda: new.replies)
        assert (rig.table.serving, after.has_served, old.drains) == (before, False, 0)
        assert rig.table.commit(4) is after
        await rig.until(lambda: old.drains)
        await turns()
        assert (rig.table.serving, after.has_served) == (after, True)
        assert (old.drains, new.drains) == (1, 0)
        assert rig.handed_over == [3, 4]
        assert rig.store.places() == [place]
        assert rig.table.segments.spare is not None, "for the next epoch, should /dev/shm be full by then"


@virtual_time
async def test_a_socket_that_the_successor_did_not_ask_for_is_closed(opened: MakeRig, listener: socket.socket) -> None:
    """Its clients would wait for nobody."""
    async with opened() as rig:
        await rig.serve(3)
        rig.store_one(listener)
        await rig.serve(4, OTHER)
        assert rig.store.places() == []


@virtual_time
async def test_datagrams_are_forwarded_to_the_epoch_that_serves(opened: MakeRig) -> None:
    async with opened() as rig:
        before = await rig.serve(3, static(1, "UDP"))
        after = await rig.serve(4, static(2, "UDP"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as proxy:
            proxy.bind(str(link_of(after).names.udp_epoch_as_child))
            proxy.setblocking(False)
            for epoch in (before, after):
                proxy.sendto(b"a datagram", str(link_of(epoch).names.udp_agent_as_child))
            await turns()
            assert [proxy.recv(99), proxy.recv(99)] == [b"a datagram"] * 2


@virtual_time
async def test_listeners_of_a_control_plane_are_followed(opened: MakeRig, listener: socket.socket) -> None:
    async with opened(sync_interval=5.0) as rig:
        epoch = await rig.start(4, DYNAMIC)
        proxy, place = rig.peer(epoch), ListenAddress(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        proxy.sockets[place.address, 0] = listener
        rig.table.commit(4)
        await rig.until(lambda: rig.followed == 1)
        assert rig.store.places() == []
        admin(epoch).answers |= {"listeners": {place}, "listener_changes": "2"}
        await asyncio.sleep(6)
        assert rig.store.places() == [place]
        assert rig.followed == 2
        questions = admin(epoch).asked.count("listeners")
        await asyncio.sleep(50)
        assert admin(epoch).asked.count("listeners") == questions, "nothing has changed"
        assert rig.followed == 2


@virtual_time
async def test_a_busy_console_is_asked_for_its_listeners_again(opened: MakeRig) -> None:
    async with opened(sync_interval=5.0) as rig:
        epoch = await rig.start(4, DYNAMIC)
        admin(epoch).answers["listener_changes"] = MachineError("busy")
        rig.table.commit(4)
        await asyncio.sleep(20)
        assert rig.followed == 0
        admin(epoch).answers["listener_changes"] = "1"
        await rig.until(lambda: rig.followed)


@virtual_time
async def test_only_the_epoch_that_serves_is_followed(opened: MakeRig) -> None:
    async with opened(sync_interval=5.0) as rig:
        before = await rig.serve(3, DYNAMIC)
        await rig.serve(4, OTHER)
        await asyncio.sleep(5)
        asked = len(admin(before).asked)
        await asyncio.sleep(50)
        assert len(admin(before).asked) == asked


@virtual_time
async def test_a_control_plane_that_takes_every_listener_away_is_reported_once(opened: MakeRig) -> None:
    async with opened(sync_interval=1.0) as rig:
        epoch = await rig.start(4, DYNAMIC)
        place = ListenAddress("tcp://127.0.0.1:1")
        admin(epoch).answers |= {"listeners": {place}, "listener_changes": "1"}
        rig.peer(epoch)
        rig.table.commit(4)
        await asyncio.sleep(2)
        assert rig.table.unserved == ""
        for change in ("2", "3", "4"):
            admin(epoch).answers |= {"listeners": set(), "listener_changes": change}
            await asyncio.sleep(2)
        assert "plane" in rig.table.unserved
        assert "epoch 4" in rig.table.unserved
        assert len(rig.logged("service.emptied")) == 1
        admin(epoch).answers |= {"listeners": {place}, "listener_changes": "5"}
        await asyncio.sleep(2)
        assert rig.table.unserved == ""
        assert len(rig.logged("service.filled")) == 1


@virtual_time
async def test_a_control_plane_that_never_sent_a_listener_has_taken_none_away(opened: MakeRig) -> None:
    async with opened(sync_interval=1.0) as rig:
        await rig.serve(4, DYNAMIC)
        await asyncio.sleep(3)
        assert (rig.followed, rig.table.unserved) == (1, "")


@virtual_time
async def test_a_listener_that_the_candidate_asked_for_counts_as_one_of_the_control_plane(opened: MakeRig) -> None:
    async with opened(sync_interval=1.0) as rig:
        epoch = await rig.start(4, DYNAMIC)
        parent_of(epoch).asked.add(ListenAddress("tcp://127.0.0.1:1", "", 3))
        rig.table.commit(4)
        await asyncio.sleep(3)
        assert "epoch 4" in rig.table.unserved, "it is gone already"


@virtual_time
async def test_a_listener_of_the_configuration_itself_is_not_the_control_planes(opened: MakeRig) -> None:
    async with opened(sync_interval=1.0) as rig:
        epoch = await rig.start(4, static(1)[:-1] + ', "dynamic_resources": {"lds_config": {"ads": {}}}}')
        own, other = ListenAddress("tcp://127.0.0.1:1"), ListenAddress("tcp://127.0.0.1:2")
        parent_of(epoch).asked.add(own)
        admin(epoch).answers["listeners"] = {own}
        rig.peer(epoch)
        rig.table.commit(4)
        await asyncio.sleep(3)
        assert (rig.followed, rig.table.unserved) == (1, "")
        for change, listeners, lost in (("2", {own, other}, False), ("3", {own}, True), ("4", {other}, False)):
            admin(epoch).answers |= {"listeners": listeners, "listener_changes": change}
            await asyncio.sleep(3)
            assert bool(rig.table.unserved) is lost


@virtual_time
async def test_a_configuration_without_a_control_plane_ends_the_report(opened: MakeRig) -> None:
    async with opened(sync_interval=1.0) as rig:
        epoch = await rig.start(4, DYNAMIC)
        parent_of(epoch).asked.add(ListenAddress("tcp://127.0.0.1:1"))
        rig.table.commit(4)
        await asyncio.sleep(3)
        assert rig.table.unserved
        await rig.serve(5, OTHER)
        assert rig.table.unserved == ""
        await rig.serve(6, DYNAMIC)
        await asyncio.sleep(3)
        assert rig.table.unserved == "", "what an earlier configuration had is forgotten"


# Draining


@virtual_time
async def test_a_drained_epoch_is_reported_empty(opened: MakeRig) -> None:
    async with opened() as rig:
        before = await rig.serve(3)
        counts = iter([2, 1, 0, 0, 0, 0])
        admin(before).answers["connections"] = counts.__next__
        await rig.serve(4, OTHER)
        records = rig.records
        rig.table.drain(3, stopping=False)
        assert before.drains
        event = await rig.event(EpochEmptied)
        assert event.epoch == 3
        assert rig.records > records, "the count is shown"
        assert next(counts) == 0


@virtual_time
async def test_a_drain_waits_for_the_hand_over_before_it_counts(opened: MakeRig, listener: socket.socket) -> None:
    """Before it, the epoch has not been told to close its listeners: its zero is no end."""
    async with opened() as rig:
        before = await rig.serve(3)
        proxy = rig.peer(before)
        before.process.pid = GHOST
        spare = replace(rig.store_one(listener), worker=1)
        rig.store.put(spare, os.dup(listener.fileno()))  # a worker less: its queue is emptied first
        after = await rig.start(4, OTHER)
        parent_of(after).asked.add(spare.listener)
        client = socket.create_connection(listener.getsockname())
        with client:
            rig.table.commit(4)
            rig.table.drain(3, stopping=False)
            await asyncio.sleep(0.9)
            assert (proxy.drains, admin(before).asked) == (0, [])
            listener.accept()[0].close()
        await rig.until(lambda: rig.handed_over == [3, 4])
        await rig.event(EpochEmptied)
        assert proxy.drains == 1
        assert admin(before).asked != []


class Proc:
    """What /proc tells of an epoch's sockets: inodes of those that it has open, and of those that listen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *inodes: int) -> None:
        self.open: set[int] | None = set(inodes)
        self.asked: list[tuple[int, Path]] = []
        monkeypatch.setattr(process_table, "accepting", self._accepting)
        for module in (process_table, draining):
            monkeypatch.setattr(module, "has_socket", self._has_socket)

    def _accepting(self, pid: int, besides: Path) -> set[int]:
        self.asked.append((pid, besides))
        return self.open or set()

    def _has_socket(self, _: int, inodes: Collection[int]) -> bool | None:
        return None if self.open is None else not self.open.isdisjoint(inodes)


@virtual_time
async def test_an_adopted_epoch_that_still_listens_is_told_once_more_and_waited_for(
    opened: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent before may have been killed between its commit and its message."""
    proc = Proc(monkeypatch, 4711)
    async with opened() as rig:
        epoch = await adopted(rig, 3, State.DRAINING)
        proxy = rig.peer(epoch)
        rig.table.drain(3, stopping=False)
        await asyncio.sleep(3)
        assert proxy.drains == 1
        assert proc.asked == [(os.getpid(), epoch.home)]
        assert rig.of(EpochEmptied) == []
        proc.open = set()
        await rig.event(EpochEmptied)
        assert proxy.drains == 1


@pytest.mark.parametrize(("inodes", "drains"), [(set(), 0), (None, 1)], ids=["it has closed them", "unknown"])
@virtual_time
async def test_an_adopted_epoch_is_told_again_unless_it_has_closed_its_listeners(
    opened: MakeRig, monkeypatch: pytest.MonkeyPatch, inodes: set[int] | None, drains: int
) -> None:
    proc = Proc(monkeypatch)
    proc.open = inodes
    async with opened() as rig:
        proxy = rig.peer(await adopted(rig, 3, State.DRAINING))
        rig.table.drain(3, stopping=False)
        await rig.event(EpochEmptied)
        assert proxy.drains == drains


@virtual_time
async def test_an_epoch_of_this_agent_is_not_told_twice(opened: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = Proc(monkeypatch)
    async with opened() as rig:
        proxy = rig.peer(await rig.serve(3))
        await rig.serve(4, OTHER)
        rig.table.drain(3, stopping=False)
        await rig.event(EpochEmptied)
        assert (proxy.drains, proc.asked) == (1, [])


@virtual_time
async def test_an_adopted_epoch_that_has_exited_is_not_told_again(
    opened: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc = Proc(monkeypatch, 4711)
    async with opened() as rig:
        epoch = await adopted(rig, 3, State.DRAINING)
        proxy = rig.peer(epoch)
        epoch.process = None
        rig.table.drain(3, stopping=False)
        await rig.event(EpochEmptied)
        assert (proxy.drains, proc.asked) == (0, [])


@virtual_time
async def test_at_shutdown_the_last_epoch_stops_and_clients_are_refused(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened() as rig:
        epoch = await rig.serve(3)
        proxy, place = rig.peer(epoch), rig.store_one(listener)
        listener.close()  # the store has the last duplicate
        rig.table.drain(3, stopping=True)
        await rig.event(EpochEmptied)
        await turns()
        assert proxy.drains == 1
        assert rig.store.places() == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(place.address.rpartition(":")[2])))


def longest_queue(listener: socket.socket) -> int:
    """The accept queue's limit: tcpi_sacked of a listening socket (tcp_diag.c)."""
    return int.from_bytes(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)[28:32], "little")


@virtual_time
async def test_at_shutdown_queued_clients_are_accepted_first(opened: MakeRig, listener: socket.socket) -> None:
    async with opened() as rig:
        epoch = await rig.serve(3)
        proxy = rig.peer(epoch)
        rig.store_one(listener)
        with socket.create_connection(listener.getsockname()):
            rig.table.drain(3, stopping=True)
            await asyncio.sleep(0.5)
            assert (proxy.drains, len(rig.store.places())) == (0, 1)
            assert longest_queue(listener) == 0, "no further one is queued"
            listener.accept()[0].close()
            await asyncio.sleep(0.05)
            assert (proxy.drains, len(rig.store.places())) == (1, 0)


@virtual_time
async def test_at_shutdown_a_client_that_nobody_accepts_is_waited_for_a_second(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened() as rig:
        proxy = rig.peer(await rig.serve(3))
        rig.store_one(listener)
        with socket.create_connection(listener.getsockname()):
            rig.table.drain(3, stopping=True)
            await asyncio.sleep(0.98)
            assert proxy.drains == 0
            await asyncio.sleep(0.04)
            assert proxy.drains == 1


@virtual_time
async def test_at_shutdown_nothing_is_followed_any_more(opened: MakeRig) -> None:
    async with opened(sync_interval=1.0) as rig:
        epoch = await rig.serve(3, DYNAMIC)
        await asyncio.sleep(3)
        admin(epoch).answers["connections"] = 1
        rig.table.drain(3, stopping=True)
        await asyncio.sleep(3)
        asked = admin(epoch).asked.count("listener_changes")
        await asyncio.sleep(5)
        assert admin(epoch).asked.count("listener_changes") == asked


@virtual_time
async def test_at_shutdown_only_the_inbound_listeners_close_if_the_operator_wants_that(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened(inbound_only=True) as rig:
        epoch = await rig.serve(3)
        proxy, inner = rig.peer(epoch), rig.store_one(listener)
        [outer] = listening()
        with outer:
            rig.store_one(outer)
            inbound = Inbound(frozenset({inner}), frozenset({"listener.in."}))
            counts = {inbound: 0, None: 9}
            admin(epoch).answers |= {"inbound": inbound, "connections": counts}
            rig.table.drain(3, stopping=True)
            await asyncio.sleep(1)
            assert rig.of(EpochEmptied) == [], "the inbound listener is open"
            listener.close()
            await rig.event(EpochEmptied)
        assert "close_inbound" in admin(epoch).asked
        assert proxy.drains == 0, "the outbound listeners stay"
        assert rig.store.places() == []


@virtual_time
async def test_the_last_clients_of_all_listeners_are_awaited_instead_of_the_inbound_ones(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened(inbound_only=True) as rig:
        epoch = await rig.serve(3)
        inbound = Inbound(frozenset({rig.store_one(listener).listener}), frozenset({"listener.in."}))
        admin(epoch).answers |= {"inbound": inbound, "connections": {inbound: 1, None: 2}}
        rig.table.drain(3, stopping=True)
        await asyncio.sleep(1)
        listener.close()
        rig.table.await_empty(3)
        admin(epoch).answers["connections"] = {inbound: 0, None: 1}
        await asyncio.sleep(2)
        assert rig.of(EpochEmptied) == [], "a connection out is left"
        admin(epoch).answers["connections"] = {None: 0}
        event = await rig.event(EpochEmptied)
        assert (event.epoch, event.all_listeners) == (3, True)


@pytest.mark.parametrize("question", ["inbound", "close_inbound"])
@virtual_time
async def test_where_the_inbound_listeners_cannot_be_closed_alone_all_are(opened: MakeRig, question: str) -> None:
    async with opened(inbound_only=True) as rig:
        epoch = await rig.serve(3)
        proxy = rig.peer(epoch)
        admin(epoch).answers[question] = MachineError("silent")
        rig.table.drain(3, stopping=True)
        await rig.event(EpochEmptied)
        assert proxy.drains == 1
        [text] = rig.logged("drain.both_directions")
        assert "epoch 3" in text


@virtual_time
async def test_at_shutdown_a_proxy_that_is_gone_already_is_no_error(opened: MakeRig) -> None:
    async with opened() as rig:
        await rig.serve(3)  # nobody is at its sockets
        rig.table.drain(3, stopping=True)
        await rig.event(EpochEmptied)
        assert rig.logged("bug") == []


@virtual_time
async def test_clients_are_refused_where_nothing_serves_for_long(opened: MakeRig, listener: socket.socket) -> None:
    async with opened() as rig:
        rig.store_one(listener)
        rig.table.refuse_clients()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname())


# Terminating


@virtual_time
async def test_a_kill_reaches_the_one_epoch_once(opened: MakeRig) -> None:
    async with opened() as rig:
        epochs = [await rig.start(number) for number in (3, 4, 5)]
        rig.table.kill(4)
        assert [signals(epoch) for epoch in epochs] == [[], [signal.SIGKILL], []]
        assert [epoch.was_killed for epoch in epochs] == [False, True, False]
        assert [epoch.was_asked for epoch in epochs] == [False, False, False]
        rig.table.kill(99)
        rig.table.drop(5)
        assert [signals(epoch) for epoch in epochs] == [[], [signal.SIGKILL], [signal.SIGKILL]]
        assert rig.of(EpochExited) == [], "the pidfd reports that"


@virtual_time
async def test_an_end_is_a_sigterm(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.serve(3)
        rig.table.end(3)
        assert signals(epoch) == [signal.SIGTERM]
        assert (epoch.was_asked, epoch.was_killed) == (True, False)
        assert rig.table.serving is None
        rig.table.end(99)


@virtual_time
async def test_only_the_epoch_that_was_told_to_end_serves_no_more(opened: MakeRig) -> None:
    async with opened() as rig:
        await rig.serve(3)
        after = await rig.serve(4, OTHER)
        rig.table.end(3)
        assert rig.table.serving is after


@virtual_time
async def test_the_counters_of_an_epoch_are_read_before_it_is_told_to_end(opened: MakeRig) -> None:
    scraped: list[tuple[int, list[signal.Signals]]] = []
    may_go = asyncio.Event()

    async def scrape(epoch: EpochProcess) -> None:
        scraped.append((epoch.number, list(signals(epoch))))
        await may_go.wait()

    async with opened(scrape=scrape) as rig:
        epoch = await rig.serve(3)
        rig.table.end(3)
        assert rig.table.serving is None, "at once: it gets no more requests of the admin address"
        await turns()
        assert (scraped, signals(epoch)) == ([(3, [])], [])
        may_go.set()
        await turns()
        assert signals(epoch) == [signal.SIGTERM]
        rig.table.end(99)
        await turns()
        assert len(scraped) == 1


@virtual_time
async def test_an_epoch_that_ends_while_another_serves_leaves_that_one_serving(opened: MakeRig) -> None:
    async def scrape(_: EpochProcess) -> None:
        return

    async with opened(scrape=scrape) as rig:
        before, after = await rig.serve(3), await rig.serve(4, OTHER)
        rig.table.end(3)
        await turns()
        assert rig.table.serving is after
        assert (signals(before), signals(after)) == ([signal.SIGTERM], [])


@pytest.mark.parametrize("way", ["drop", "end", "kill"])
@virtual_time
async def test_a_start_that_is_still_under_way_is_cancelled(opened: MakeRig, way: str) -> None:
    async def scrape(_: EpochProcess) -> None:
        raise AssertionError

    async with opened(scrape=scrape) as rig:
        rig.table.start(4, rig.revisions.load().revision, validate=True)
        getattr(rig.table, way)(4)
        await turns()
        event = await rig.event(EpochExited)
        assert (event.epoch, event.code, event.failure.sort) == (4, None, FailureKind.TRANSIENT)
        await turns()
        assert rig.kernel.started == []
        rig.table.cleanup(4)
        assert rig.table.epochs == {}
        assert not (rig.directory.path / "4").exists()
        assert rig.logged("bug") == []


# Exits


@virtual_time
async def test_an_exit_is_reported_with_its_code_and_its_pid(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.serve(3)
        leave(epoch, -signal.SIGSEGV)
        assert rig.table.serving is None, "at once"
        event = await rig.event(EpochExited)
        assert (event.epoch, event.code, event.failure.sort) == (3, -11, FailureKind.TRANSIENT)
        assert "epoch 3" in event.failure.reason
        assert str(os.getpid()) in event.failure.reason
        assert "SIGSEGV" in event.failure.reason
        assert rig.kernel.ran == []


@virtual_time
async def test_the_exit_of_another_epoch_leaves_the_one_that_serves(opened: MakeRig) -> None:
    async with opened() as rig:
        before, after = await rig.serve(3), await rig.serve(4, OTHER)
        leave(before, 0)
        await rig.event(EpochExited)
        assert rig.table.serving is after


@pytest.mark.parametrize(
    ("code", "kills", "by_agent", "starved"),
    [
        (-9, 1, False, True),
        (-9, 0, False, False),
        (-9, 1, True, False),
        (-11, 1, False, False),
        (None, 1, False, False),
    ],
)
@virtual_time
async def test_a_death_for_want_of_memory_is_remembered(
    opened: MakeRig, code: int | None, kills: int, by_agent: bool, starved: bool
) -> None:
    async with opened() as rig:
        epoch = await rig.serve(3)
        rig.watch.left = kills
        if by_agent:
            rig.table.kill(3)
        leave(epoch, code)
        event = await rig.event(EpochExited)
        assert epoch.was_starved is starved
        assert ("out of memory" in event.failure.reason) is starved


@virtual_time
async def test_a_candidate_that_gave_up_is_asked_why(opened: MakeRig) -> None:
    async with opened(policy=Policy(start_timeout=7.0)) as rig:
        epoch = await rig.start(4)
        rig.kernel.results = [(1, "no such cluster")]
        leave(epoch, 1)
        event = await rig.event(EpochExited)
        assert (event.code, event.failure.sort) == (1, FailureKind.PERMANENT)
        assert "no such cluster" in event.failure.reason
        assert [timeout for _, timeout in rig.kernel.ran] == [7.0]


@pytest.mark.parametrize("result", [(0, ""), MachineError("cannot start /bin/true")], ids=["valid", "no process"])
@virtual_time
async def test_a_candidate_that_gave_up_over_a_valid_configuration_may_be_tried_again(
    opened: MakeRig, result: tuple[int, str] | Exception
) -> None:
    async with opened() as rig:
        epoch = await rig.start(4)
        rig.kernel.results = [result]
        leave(epoch, 1)
        event = await rig.event(EpochExited)
        assert (event.code, event.failure.sort) == (1, FailureKind.TRANSIENT)


FORBIDDEN = "cannot bind '0.0.0.0:443': Permission denied"
IN_USE = "cannot bind '127.0.0.1:1': Address already in use"


def at_start(text: str) -> str:
    """What Envoy prints of an error at its start."""
    prefix = "[2026-11-30 17:52:24.791][29998][critical][main] [source/server/server.cc:449]"
    return f"{prefix} error `{text}` initializing config 'goo.gle/debugstr \n  /dev/fd/9'\n{text}\n"


@pytest.mark.parametrize(
    ("serving", "text", "prints", "said"),
    [
        (None, "{}", FORBIDDEN, FORBIDDEN),
        (None, static(1, "UDP"), IN_USE, IN_USE),
        (static(1), static(2), FORBIDDEN, FORBIDDEN),
        (static(1), static(1), IN_USE, None),
    ],
    ids=["nothing serves", "nothing serves, any socket", "an epoch serves", "an epoch serves at that address"],
)
@virtual_time
async def test_the_reason_of_an_exit_carries_what_the_proxy_reports_at_another_start(
    opened: MakeRig, serving: str | None, text: str, prints: str, said: str | None
) -> None:
    async with opened(policy=Policy(start_timeout=7.0)) as rig:
        if serving is not None:
            await rig.serve(3, serving)
        epoch = await rig.start(4, text)
        rig.kernel.results = [(0, ""), (1, at_start(prints))]
        leave(epoch, 1)
        failure = (await rig.event(EpochExited)).failure
        assert failure.sort is FailureKind.TRANSIENT
        assert failure.reason.endswith(f"exited with 1: true reports: {said}" if said else "exited with 1")
        assert [timeout for _, timeout in rig.kernel.ran] == [7.0, 7.0]
        assert rig.kernel.ran[-1][0].arguments[-3:] == ["--mode", "init_only", "--disable-hot-restart"]


@pytest.mark.parametrize("text", [static(1, "UDP"), UNIX, DYNAMIC], ids=["UDP", "Unix path", "dynamic listeners"])
@virtual_time
async def test_while_an_epoch_serves_no_other_start_takes_its_datagrams_or_its_path(opened: MakeRig, text: str) -> None:
    async with opened() as rig:
        await rig.serve(3)
        epoch = await rig.start(4, text)
        leave(epoch, 1)
        assert (await rig.event(EpochExited)).failure.reason.endswith("exited with 1")
        assert [command.arguments[-2:] for command, _ in rig.kernel.ran] == [["--mode", "validate"]]


@virtual_time
async def test_where_the_groups_at_fault_cannot_be_found_it_is_an_accident(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.start(4)
        rig.kernel.results = [(1, "no")]
        rig.accuser.error = MachineError("it does not end")
        leave(epoch, 1)
        assert (await rig.event(EpochExited)).failure.sort is FailureKind.TRANSIENT


@pytest.mark.parametrize(("code", "serves"), [(0, False), (-9, False), (None, False), (1, True)])
@virtual_time
async def test_who_did_not_give_up_over_its_configuration_is_not_asked_why(
    opened: MakeRig, code: int | None, serves: bool
) -> None:
    async with opened() as rig:
        epoch = await (rig.serve(4) if serves else rig.start(4))
        leave(epoch, code)
        await rig.event(EpochExited)
        assert rig.kernel.ran == []


@virtual_time
async def test_what_was_an_epochs_own_is_removed_after_its_exit(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.serve(3)
        assert epoch.segment.path.exists()
        rig.table.cleanup(3)
        await turns()
        assert rig.table.epochs == {}
        assert rig.table.serving is None
        assert not epoch.segment.path.exists()
        assert not epoch.home.exists()
        rig.table.cleanup(3)


@virtual_time
async def test_the_sockets_of_a_dropped_candidate_are_closed_and_those_that_are_served_kept(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened() as rig:
        serving = await rig.serve(3)
        candidate = await rig.start(4, OTHER)
        staged = ListenAddress("tcp://127.0.0.1:1")
        rig.table.listeners._staged.put(staged, os.dup(listener.fileno()))
        old = await rig.start(5)
        old.has_served = True
        rig.table.cleanup(5)
        assert rig.table.listeners._staged.places() == [staged], "it belongs to the candidate"
        rig.table.cleanup(4)
        await turns()
        assert rig.table.listeners._staged.places() == []
        assert rig.table.serving is serving
        assert candidate.number not in rig.table.epochs


REQUESTS = "http.in.downstream_rq_total"


def counts(epoch: EpochProcess) -> Writer:
    """Have an epoch count five requests in its shared memory."""
    number = epoch.number
    writer = Writer.create(epoch.home / "stats", epoch=number, pid=1, started_at=STARTED, nonce=nonce_of(number))
    writer.counter(REQUESTS).add(5)
    return writer


def counted(rig: Rig) -> int | None:
    return rig.counters.read().counters.get(REQUESTS)


@virtual_time
async def test_what_an_epoch_counted_is_kept_when_it_is_gone(opened: MakeRig) -> None:
    """The totals are over all epochs ever."""
    async with opened() as rig:
        writer = counts(await rig.start(4))
        assert counted(rig) is None, "it is a candidate"
        rig.table.open_gate(4)
        await rig.until(lambda: counted(rig) == 5)
        writer.counter(REQUESTS).add(2)
        writer.close()
        rig.table.cleanup(4)
        await turns()
        assert counted(rig) == 7
        assert SharedCounters(rig.directory).read().counters == {REQUESTS: 7}, "the next agent counts on from it"


@virtual_time
async def test_what_a_serving_epoch_counts_is_followed(opened: MakeRig) -> None:
    async with opened() as rig:
        counts(await rig.start(4)).close()
        rig.table.commit(4)
        assert counted(rig) == 5


@virtual_time
async def test_what_an_adopted_epoch_counts_is_followed(opened: MakeRig) -> None:
    async with opened() as rig:
        home = rig.directory.make_epoch(3, None)
        make_room(home, None)
        counts(cast(EpochProcess, SimpleNamespace(number=3, home=home))).close()
        found = Survivor(3, State.SERVING, os.getpid(), 1, "f", 99_999_003, Carried(0, 0, 0), frozenset())
        await rig.table.adopt(found, rig.revisions.load())
        assert counted(rig) == 5


@virtual_time
async def test_a_close_keeps_what_was_counted(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.start(4)
        counts(epoch).close()
        rig.table.commit(4)
    assert SharedCounters(rig.directory).read().counters == {REQUESTS: 5}


@virtual_time
async def test_what_a_start_that_was_cancelled_left_is_removed(opened: MakeRig) -> None:
    async with opened() as rig:
        home = rig.directory.make_epoch(4, None)
        rig.table.cleanup(4)
        assert not home.exists()


@virtual_time
async def test_shared_memory_belongs_to_the_proxys_user(opened: MakeRig, directory: RunDirectory) -> None:
    own = directory.path.stat()
    async with opened(user=User(own.st_uid, own.st_gid)) as rig:
        assert rig.table.segments._owner == (own.st_uid, own.st_gid)
        assert (await rig.start(4)).segment.path.stat().st_uid == own.st_uid


@virtual_time
async def test_an_address_that_one_of_the_agents_own_epochs_holds_is_free(
    opened: MakeRig, listener: socket.socket
) -> None:
    async with opened() as rig:
        rig.table.epochs[9] = cast(EpochProcess, SimpleNamespace(pid=None, number=9))
        proxy = rig.peer(await rig.start(4))  # by its pid it is this process, which listens
        proxy.ask(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        await rig.until(lambda: proxy.replies)
        assert rig.of(EpochJudged) == []
        del rig.table.epochs[9]


@virtual_time
async def test_a_close_leaves_nothing_of_any_epoch(opened: MakeRig, listener: socket.socket) -> None:
    async with opened() as rig:
        epochs = [await rig.start(4, OTHER), await rig.serve(3)]
        spare = rig.table.segments.spare
        rig.store_one(listener)
    for epoch in epochs:
        assert not epoch.segment.path.exists()
        assert not epoch.home.exists()
        assert not link_of(epoch).gate.path.exists()
    assert spare is not None
    assert not spare.path.exists()
    assert rig.store.places() == []


# Adoption


async def adopted(rig: Rig, number: int, state: State, places: frozenset[ListenAddress] = frozenset()) -> EpochProcess:
    """Adopt an earlier agent's epoch."""
    home = rig.directory.make_epoch(number, None)
    manifest = Carried(0, 0, 0)
    found = Survivor(number, state, os.getpid(), 1, "f" * 32, 99_999_000 + number, manifest, places)
    await rig.table.adopt(found, rig.revisions.load())
    epoch = rig.table.epochs[number]
    assert epoch.home == home
    return epoch


@pytest.mark.parametrize("state", [State.OPENING, State.SERVING, State.DRAINING])
@virtual_time
async def test_an_adopted_epoch_goes_on(opened: MakeRig, state: State) -> None:
    async with opened() as rig:
        epoch = await adopted(rig, 3, state)
        assert epoch.pid == os.getpid()
        assert epoch.has_served is (state is not State.OPENING)
        assert signals(epoch) == []
        assert rig.kernel.started == []


@virtual_time
async def test_the_sockets_of_an_adopted_serving_epoch_are_duplicated(opened: MakeRig, listener: socket.socket) -> None:
    async with opened() as rig:
        place = ListenAddress(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        home = rig.directory.make_epoch(3, None)
        found = Survivor(3, State.SERVING, os.getpid(), 1, "f", 99_999_003, Carried(0, 0, 0), frozenset({place}))
        proxy = Peer(SocketPaths(home, 99_999_003))
        rig.peers.append(proxy)
        proxy.sockets[place.address, 0] = listener
        await rig.table.adopt(found, rig.revisions.load())
        assert rig.store.places() == [place]
        assert rig.logged("vault.incomplete") == []


@pytest.mark.parametrize(("state", "warned"), [(State.SERVING, 1), (State.DRAINING, 0)])
@virtual_time
async def test_sockets_that_an_adopted_epoch_does_not_give_are_warned_of(
    opened: MakeRig, state: State, warned: int
) -> None:
    async with opened() as rig:
        await adopted(rig, 3, state, frozenset({ListenAddress("tcp://127.0.0.1:1")}))
        assert len(rig.logged("vault.incomplete")) == warned
        assert 3 in rig.table.epochs


@virtual_time
async def test_a_process_that_has_exited_meanwhile_is_not_adopted(opened: MakeRig) -> None:
    async with opened() as rig:
        rig.kernel.refusal = MachineError("no such process")
        with pytest.raises(MachineError):
            await adopted(rig, 3, State.SERVING)
        assert rig.table.epochs == {}
        assert not (rig.directory.path / "3").exists()


@virtual_time
async def test_an_adopted_process_that_cannot_be_controlled_is_killed(
    opened: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as rig:

        async def fail(*_: object) -> None:
            raise MachineError("cannot bind")

        monkeypatch.setattr(EpochProcess, "_open_link", fail)
        ran: list[FakeProcess] = []

        def attend(pid: int, created: int, on_exit: Callable[[int | None], None]) -> FakeProcess:
            ran.append(FakeProcess(on_exit, pid))
            return ran[0]

        monkeypatch.setattr("agent.host.processes.Process.adopt", attend)
        with pytest.raises(MachineError, match="cannot bind"):
            await adopted(rig, 3, State.SERVING)
        assert ran[0].signals == [signal.SIGKILL]
        assert 3 in rig.table.epochs, "its exit is still to come"
        ran[0].exit(None)
        assert (await rig.event(EpochExited)).epoch == 3


@virtual_time
async def test_an_adopted_epoch_between_its_gate_and_its_service_gets_the_answer_that_was_lost(
    opened: MakeRig,
) -> None:
    async with opened() as rig:
        epoch = await adopted(rig, 3, State.OPENING)
        proxy = rig.peer(epoch)
        lives = iter([False, False, True])
        admin(epoch).answers["is_live"] = lives.__next__
        rig.table.open_gate(3)
        assert (await rig.event(EpochServes)).epoch == 3
        await rig.until(lambda: proxy.replies)
        assert [data for data, _ in proxy.replies] == [EMPTY_STATS]
        assert next(lives, None) is None
        assert signals(epoch) == []
        proxy.request(DRAIN_LISTENERS)
        await turns()
        assert len(rig.of(EpochServes)) == 1


@virtual_time
async def test_an_adopted_epoch_that_waits_for_an_answer_of_its_gate_is_started_anew(opened: MakeRig) -> None:
    """Its request went to the agent before, and it does not repeat it."""
    async with opened() as rig:
        epoch = await adopted(rig, 3, State.OPENING)
        admin(epoch).answers |= {"waits_at_gate": True, "is_live": False}
        rig.table.open_gate(3)
        await rig.until(lambda: signals(epoch))
        await asyncio.sleep(1)
        assert signals(epoch) == [signal.SIGKILL]
        [text] = rig.logged("epoch.dropped")
        assert "epoch 3" in text


@virtual_time
async def test_an_adopted_epoch_that_asks_its_new_gate_goes_on(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await adopted(rig, 3, State.OPENING)
        waits = iter([True, False])
        admin(epoch).answers["waits_at_gate"] = waits.__next__
        link_of(epoch).gate.was_asked = True
        rig.table.open_gate(3)
        await rig.event(EpochServes)
        assert signals(epoch) == []


@virtual_time
async def test_an_adopted_epoch_that_is_busy_is_asked_again_until_it_is_gone(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await adopted(rig, 3, State.OPENING)
        admin(epoch).answers["waits_at_gate"] = MachineError("busy")
        rig.table.open_gate(3)
        await asyncio.sleep(1)
        asked = len(admin(epoch).asked)
        assert asked > 10
        rig.table.cleanup(3)
        await asyncio.sleep(1)
        assert len(admin(epoch).asked) == asked
        assert rig.of(EpochServes) == []


@virtual_time
async def test_an_epoch_of_this_agent_is_not_asked_whether_it_serves(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.start(4)
        proxy = rig.peer(epoch)
        rig.table.open_gate(4)
        await rig.until(lambda: epoch.link.is_open)
        await turns()
        assert proxy.replies == []
        assert "is_live" not in admin(epoch).asked
        proxy.request(STATS)
        await rig.until(lambda: proxy.replies)


# Pushes


@virtual_time
async def test_the_end_of_a_push_is_reported(opened: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as rig:
        await rig.serve(1)
        wanted = rig.revisions.load("node: {id: x}").revision
        failure, ran = Failure(FailureKind.TRANSIENT, "it does not answer"), list[Push]()

        async def run(self: Push) -> PushResult:
            ran.append(self)
            await asyncio.sleep(0)
            return PushResult(failure, is_intact=True, phases={"apply": 0.5})

        monkeypatch.setattr(Push, "run", run)
        rig.table.push(1, wanted, restores=True)
        event = await rig.event(EpochPushed)
        assert (event.epoch, event.revision, event.failure) == (1, wanted, failure)
        assert (event.is_intact, event.phases) == (True, {"apply": 0.5})
        [push] = ran
        assert (push.epoch, push.loaded, push.restores) == (rig.table.epochs[1], rig.revisions[wanted], True)


@virtual_time
async def test_a_push_that_is_committed_is_what_the_epoch_runs(opened: MakeRig) -> None:
    async with opened() as rig:
        epoch = await rig.serve(1)
        committed: list[LoadedRevision] = []
        epoch.target = cast(Any, SimpleNamespace(commit=committed.append, slots=SimpleNamespace(close=lambda: None)))
        wanted = rig.revisions.load("node: {id: x}")
        assert rig.table.commit_push(1, wanted.revision) is epoch
        assert epoch.loaded is wanted
        assert committed == [wanted]


@virtual_time
async def test_an_epoch_that_cannot_take_pushes_is_reported_as_such(opened: MakeRig) -> None:
    async with opened() as rig:
        await rig.serve(1)
        assert [event.takes_pushes for event in rig.of(EpochStarted)] == [False]
