"""Starts, checks, drains and terminates all epoch processes; posts the results as events."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace

from agent.core import events as on
from agent.core.epochs import State
from agent.core.errors import AddressHeld, MachineError, ProtocolError
from agent.core.events import Event, Failure, FailureKind
from agent.core.revision import Revision
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host import clock
from agent.host.listening import accepting
from agent.host.log import log_event
from agent.host.memory import resident
from agent.host.processes import describe_exit, has_socket
from agent.host.run_directory import RunDirectory
from agent.host.tasks import Tasks
from agent.inputs.revisions import LoadedRevision, RevisionStore
from agent.inputs.settings import Settings
from agent.metrics.shared_counters import SharedCounters
from agent.processes.admission import Admission
from agent.processes.bisection import Bisection
from agent.processes.candidate_status import observe
from agent.processes.draining import emptied
from agent.processes.epoch_process import EpochProcess, ListenerAccess
from agent.processes.listeners import Listeners
from agent.processes.memory_check import MemoryCheck
from agent.processes.orphans import Orphans
from agent.processes.pushing import Push
from agent.processes.reserved_segments import ReservedSegments
from agent.processes.survivor import Survivor
from agent.proxies.interface import Complaint, Inbound

_QUEUE_INTERVAL, _QUEUE_LOOKS = 0.01, 100  # at shutdown: one second to accept the clients that are already queued
_IN_USE = os.strerror(errno.EADDRINUSE)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Functions that the process table calls.

    `post` queues an event. `record` writes the state, before each launch and after each connection count of a drain.
    `handed_over` is called when an epoch's predecessor has been told to stop accepting, `followed` when dynamic
    listeners changed. `final_scrape` reads an epoch's counters before it is terminated; None if they are not needed.
    """

    post: Callable[[Event], None]
    record: Callable[[], None]
    handed_over: Callable[[EpochProcess], None]
    followed: Callable[[], None]
    final_scrape: Callable[[EpochProcess], Awaitable[None]] | None


class ProcessTable:
    """Holds all epoch processes. `bisection` finds the files at fault in a rejected revision."""

    def __init__(
        self,
        settings: Settings,
        directory: RunDirectory,
        revisions: RevisionStore,
        shared_counters: SharedCounters,
        store: SocketStore,
        bisection: Bisection,
        callbacks: Callbacks,
    ) -> None:
        self.epochs: dict[int, EpochProcess] = {}
        self.serving: EpochProcess | None = None
        self.listeners = Listeners(settings.user, self._pids, settings.allowed_ports, store)
        self.shared_counters = shared_counters
        self._callbacks = callbacks
        self._bisection = bisection
        self.segments = ReservedSegments(None if settings.user is None else settings.user.owner)
        self._settings = settings
        self._directory = directory
        self._revisions = revisions
        self._post = callbacks.post
        self._record = callbacks.record
        self._memory_check = MemoryCheck()
        self.served_since = int(clock.calendar().timestamp())  # of the service, across epochs
        self._tasks = Tasks()
        self._starts: dict[int, asyncio.Task[None]] = {}
        self._drains: dict[int, asyncio.Task[None]] = {}
        self.unserved = ""  # why the serving epoch serves no clients although it runs; empty if it does
        self._had_dynamic = False  # whether listeners from a control plane have served
        self._handover: asyncio.Task[None] | None = None
        self._orphans = Orphans(settings.policy.drain_timeout)
        self._follower: asyncio.Task[None] | None = None

    def _pids(self) -> list[int]:
        return [each.pid for each in self.epochs.values() if each.pid is not None]

    async def close(self) -> None:
        """Release all resources; the processes must have exited."""
        await self._tasks.close()
        self._orphans.close()
        for epoch in tuple(self.epochs.values()):
            self.shared_counters.retire(epoch.number)
            await epoch.cleanup()
        self.shared_counters.close()
        self.segments.close()
        self.listeners.store.close_all()

    # Launching

    def start(self, number: int, revision: Revision, *, validate: bool) -> None:
        """Launch an epoch; `EpochStarted` or `EpochExited` follows."""
        self._starts[number] = self._tasks.spawn(self._start(number, revision, validate=validate), f"start of {number}")

    async def _start(self, number: int, revision: Revision, *, validate: bool) -> None:
        try:
            failure = await self._launch(number, revision, validate=validate)
        except (MachineError, OSError) as error:
            failure = Failure(FailureKind.TRANSIENT, f"epoch {number} could not be started: {error}")
        del self._starts[number]
        if failure is not None:
            self._never_ran(number, failure)

    def _never_ran(self, number: int, failure: Failure) -> None:
        self._post(on.EpochExited(at=clock.monotonic(), epoch=number, code=None, failure=failure))

    async def _launch(self, number: int, revision: Revision, *, validate: bool) -> Failure | None:
        if self.serving is not None and self.serving.pid is not None:
            shortage = self._memory_check.shortage(self.serving.pid)
            if shortage is not None:
                return Failure(
                    FailureKind.OUT_OF_MEMORY, f"epoch {number} cannot start beside {self.serving.number}: {shortage}"
                )
        loaded, user = self._revisions[revision], self._settings.user
        epoch = EpochProcess(number, loaded, self._directory, user, self._listeners(), segments=self.segments)
        self.epochs[number] = epoch
        self._record()  # so that the next agent finds its process by the manifest, even without a pid
        if validate and (complaint := await epoch.validate(self._settings.policy.start_timeout)):
            return await self._verdict(epoch, complaint)
        has_udp = self.serving is not None and epoch.loaded.configuration.has_udp
        overlap = loaded.program.kind.udp_overlap if has_udp else 0
        core = self._settings.core_dumps
        pid = await epoch.launch(self.served_since, overlap, dumps_core=core)
        at, takes_pushes = clock.monotonic(), epoch.takes_pushes
        self._post(on.EpochStarted(at=at, epoch=number, pid=pid, takes_pushes=takes_pushes))
        self._tasks.spawn(self._observe(epoch), f"status of {number}")
        return None

    async def _observe(self, candidate: EpochProcess) -> None:
        number = candidate.number

        def tell(reason: str) -> None:
            self._post(on.EpochAwaits(at=clock.monotonic(), epoch=number, reason=reason))

        deadline = self._settings.policy.start_timeout
        await observe(self._admission(candidate), lambda: number in self.epochs, tell, deadline)

    async def adopt(self, found: Survivor, loaded: LoadedRevision) -> None:
        """Adopt an earlier agent's epoch; if it serves, put its sockets into the socket store.

        Raises `MachineError` if it has exited.
        """
        epoch = EpochProcess(found.number, loaded, self._directory, self._settings.user, self._listeners(), found)
        self.epochs[found.number] = epoch
        try:
            await epoch.take_over(found, self.served_since)
        except (MachineError, OSError):
            if epoch.process is None:
                self.cleanup(found.number)
            epoch.signal(signal.SIGKILL)  # it cannot be controlled; the cleanup follows its exit
            raise
        self._follow_counters(epoch)
        if found.state is State.SERVING:
            try:
                await self.listeners.regain(epoch)
            except MachineError as error:
                text = f"{error}; a crash of epoch {found.number} may refuse clients"
                log_event(logging.WARNING, "vault.incomplete", text)

    def _follow_counters(self, epoch: EpochProcess) -> None:
        """Read the counters of an epoch that may count in shared memory."""
        if epoch.loaded.program.handoff is not None:
            self.shared_counters.follow(epoch.number, epoch.home)

    def _listeners(self) -> ListenerAccess:
        return ListenerAccess(
            reached_gate=lambda number: self._post(on.EpochReachedGate(at=clock.monotonic(), epoch=number)),
            serves=lambda number: self._post(on.EpochServes(at=clock.monotonic(), epoch=number)),
            exited=self._heard_exit,
            held=self._heard_held,
            broken=self._heard_broken,
            get_socket=self._get_socket,
            sockets=self.listeners.store.lent,
            bound=self._heard_bound,
            is_serving=lambda: self.serving is not None,
        )

    def _get_socket(self, number: int, place: ListenAddress) -> int | None:
        try:
            return self.listeners.get(place, self.epochs[number].loaded.configuration)
        except AddressHeld:
            raise
        except MachineError as error:
            log_event(logging.WARNING, "handoff.bind", f"{error}; epoch {number} has to bind it itself")
            return None

    def _heard_bound(self, number: int, place: ListenAddress, descriptor: int) -> None:
        is_serving = self.serving is not None and self.serving.number == number
        self.listeners.keep(place, descriptor, serves=is_serving)

    def _heard_held(self, number: int, error: AddressHeld) -> None:
        self._post(
            on.EpochJudged(at=clock.monotonic(), epoch=number, failure=Failure(FailureKind.TRANSIENT, str(error)))
        )

    def _heard_broken(self, number: int, error: ProtocolError) -> None:
        log_event(logging.ERROR, "handoff.broken", f"epoch {number} cannot use the handoff protocol any more: {error}")

    # Checking

    def judge(self, number: int) -> None:
        """Check a candidate; `EpochJudged` follows."""
        self._tasks.spawn(self._judge(self.epochs[number]), f"check of {number}")

    def _admission(self, candidate: EpochProcess) -> Admission:
        return Admission(candidate, lambda: self.serving, self.listeners, self._bisection)

    async def _judge(self, candidate: EpochProcess) -> None:
        failure: Failure | None
        try:
            failure = await self._admission(candidate).check()
        except MachineError as error:
            failure = Failure(FailureKind.TRANSIENT, f"epoch {candidate.number} could not be checked: {error}")
        self._post(on.EpochJudged(at=clock.monotonic(), epoch=candidate.number, failure=failure))

    def open_gate(self, number: int) -> None:
        """Let a candidate serve; `EpochServes` follows."""
        self._tasks.spawn(self._open_gate(self.epochs[number]), f"gate of {number}")

    async def _open_gate(self, candidate: EpochProcess) -> None:
        """Open the gate after duplicating the candidate's sockets, so that a crash loses no client."""
        try:
            await self.listeners.stage(candidate)
        except MachineError as error:
            log_event(
                logging.WARNING, "vault.incomplete", f"{error}; a crash of epoch {candidate.number} may refuse clients"
            )
        self._follow_counters(candidate)
        candidate.link.open_gate()
        if candidate.is_adopted() and not await candidate.link.resume():
            candidate.signal(signal.SIGKILL)

    # Serving and draining

    def commit(self, number: int) -> EpochProcess:
        """Make an epoch the serving one, stop its predecessor and follow the new listeners."""
        before, after = self.serving, self.epochs[number]
        self.serving = after
        after.has_served = True
        if after.target is not None and after.pid is not None:
            after.target.first_memory = resident(after.pid)
        self.segments.keep_one(after.loaded.program.handoff)
        self._follow_counters(after)
        self.listeners.adopt()
        for epoch in self.epochs.values():
            epoch.link.forward_datagrams(after.link)
        self._handover = self._tasks.spawn(self._hand_over(after, before), f"handover to {number}")
        return after

    async def _hand_over(self, after: EpochProcess, before: EpochProcess | None) -> None:
        if self._follower is not None:
            self._follower.cancel()
        await self.listeners.hand_over(after, before)
        self._callbacks.handed_over(after)
        self._orphans.drain()
        if not after.loaded.configuration.has_dynamic_listeners:
            self._had_dynamic = False
            self._tell_unserved("")
        else:
            self._had_dynamic |= bool(_dynamic(after, [place.listener for place in after.asked]))
            self._follower = self._tasks.spawn(self._follow(after), f"listeners of {after.number}")

    async def _follow(self, serving: EpochProcess) -> None:
        """Track dynamic listeners in the socket store: clients of a closed one would hang."""
        seen = ""
        while True:
            with contextlib.suppress(MachineError):  # busy: polled again; or exiting: its pidfd reports that
                changes = await serving.admin.listener_changes()
                if changes != seen:
                    self._note_dynamic(serving, await self.listeners.follow(serving))
                    self._callbacks.followed()
                    seen = changes
            await asyncio.sleep(self._settings.sync_interval)

    def _note_dynamic(self, serving: EpochProcess, listeners: Collection[ListenAddress]) -> None:
        """Set `unserved` if the control plane removed every dynamic listener: usually a fault."""
        dynamic = _dynamic(serving, listeners)
        self._had_dynamic |= bool(dynamic)
        planes = " or ".join(serving.loaded.configuration.control_planes) or "its source"
        lost = f"epoch {serving.number} has only its static listeners: {planes} removed all others"
        self._tell_unserved(lost if self._had_dynamic and not dynamic else "")

    def _tell_unserved(self, reason: str) -> None:
        if reason and not self.unserved:
            log_event(
                logging.ERROR, "service.emptied", f"{reason}; their clients are refused until it sends them again"
            )
        elif self.unserved and not reason:
            log_event(logging.INFO, "service.filled", "the control plane sends listeners again")
        self.unserved = reason

    # Pushing

    def push(self, number: int, revision: Revision, *, restores: bool) -> None:
        """Push the certificates of a revision into the serving epoch; `EpochPushed` follows."""
        push = Push(self.epochs[number], self._revisions[revision], restores, self._settings, self._bisection)
        self._tasks.spawn(self._push(push), f"push into {number}")

    async def _push(self, push: Push) -> None:
        result = await push.run()
        event = on.EpochPushed(
            at=clock.monotonic(),
            epoch=push.epoch.number,
            revision=push.loaded.revision,
            failure=result.failure,
            is_intact=result.is_intact,
            phases=result.phases,
        )
        self._post(event)

    def commit_push(self, number: int, revision: Revision) -> EpochProcess:
        """Make a pushed revision the one that the serving epoch runs."""
        epoch = self.epochs[number]
        assert epoch.target is not None, "something was pushed into it"
        epoch.loaded = self._revisions[revision]
        epoch.target.commit(epoch.loaded)
        return epoch

    def drain(self, number: int, *, stopping: bool) -> None:
        """Drain an epoch; `EpochEmptied` follows, unless its drain deadline expires first."""
        self.epochs[number].drains = True
        self._drains[number] = self._tasks.spawn(
            self._drain(self.epochs[number], stopping=stopping), f"drain of {number}"
        )

    def await_empty(self, number: int) -> None:
        """Wait until a drained epoch has no connection to any of its listeners; `EpochEmptied` follows."""
        self._drains[number].cancel()
        self._drains[number] = self._tasks.spawn(self._await_empty(self.epochs[number]), f"last clients of {number}")

    async def _await_empty(self, epoch: EpochProcess) -> None:
        await emptied(epoch, (), self._record, at_the_end=True)
        self._post(on.EpochEmptied(at=clock.monotonic(), epoch=epoch.number, all_listeners=True))

    async def _drain(self, epoch: EpochProcess, *, stopping: bool) -> None:
        inodes = self.listeners.store.inodes()
        inbound = None
        if stopping:
            inodes, inbound = await self._close_doors(epoch, inodes)
        elif self._handover is not None:
            await asyncio.wait([self._handover])
        if epoch.is_adopted() and not stopping and epoch.pid is not None:
            inodes |= await asyncio.to_thread(accepting, epoch.pid, besides=epoch.home)
            if await asyncio.to_thread(has_socket, epoch.pid, inodes) is not False:  # perhaps the earlier agent did not
                self._stop_accepting(epoch)
        await emptied(epoch, inodes, self._record, inbound, at_the_end=stopping)
        self._post(on.EpochEmptied(at=clock.monotonic(), epoch=epoch.number))

    async def _close_doors(self, epoch: EpochProcess, inodes: set[int]) -> tuple[set[int], Inbound | None]:
        """Stop the last epoch from accepting and empty the socket store: clients are refused.

        Returns the inodes of the sockets that the epoch closes, and its inbound listeners if only those close. The
        duplicates of outbound listeners are closed too: no process will accept from them after this epoch.
        """
        if self._follower is not None:
            self._follower.cancel()
        await self._empty_queues()
        inbound = await self._close_inbound(epoch) if self._settings.inbound_only else None
        if inbound is None:
            self._stop_accepting(epoch)
        else:
            inodes = self.listeners.inodes(inbound.places)
        self.listeners.store.close_all()
        return inodes, inbound

    async def _empty_queues(self) -> None:
        """Let the proxy accept the queued clients, for at most a second: a closed queue resets them."""
        self.listeners.store.narrow()
        for _ in range(_QUEUE_LOOKS):
            if not self.listeners.store.waiting():
                return
            await asyncio.sleep(_QUEUE_INTERVAL)

    @staticmethod
    async def _close_inbound(epoch: EpochProcess) -> Inbound | None:
        try:
            inbound = await epoch.admin.inbound()
            await epoch.admin.close_inbound()
        except MachineError as error:
            text = f"{error}; epoch {epoch.number} closes its outbound listeners as well"
            log_event(logging.WARNING, "drain.both_directions", text)
            return None
        return inbound

    @staticmethod
    def _stop_accepting(epoch: EpochProcess) -> None:
        with contextlib.suppress(MachineError):  # exiting: its pidfd reports that
            epoch.stop_accepting()

    def refuse_clients(self) -> None:
        """Refuse clients instead of queueing them, until a proxy listens again; orphans may serve them."""
        if self._orphans.serve:
            return
        self.listeners.store.refuse()

    # Terminating

    def drop(self, number: int) -> None:
        """Kill a candidate, or cancel its launch."""
        self._leave(number, signal.SIGKILL)

    def end(self, number: int) -> None:
        """Terminate an epoch with SIGTERM, after a final scrape if one is configured."""
        epoch = self.epochs.get(number)
        scrape = self._callbacks.final_scrape
        if epoch is None or number in self._starts or scrape is None:
            self._leave(number, signal.SIGTERM)
            return
        if self.serving is epoch:
            self.serving = None
        self._tasks.spawn(self._end(epoch, scrape), f"end of {number}")

    @staticmethod
    async def _end(epoch: EpochProcess, scrape: Callable[[EpochProcess], Awaitable[None]]) -> None:
        await scrape(epoch)
        epoch.signal(signal.SIGTERM)

    def kill(self, number: int) -> None:
        """Kill an epoch that did not exit after SIGTERM."""
        self._leave(number, signal.SIGKILL)

    def _leave(self, number: int, how: signal.Signals) -> None:
        if (start := self._starts.pop(number, None)) is not None:
            start.cancel()
            failure = Failure(FailureKind.TRANSIENT, f"epoch {number} was dropped before it ran")
            self._never_ran(number, failure)
        elif (epoch := self.epochs.get(number)) is not None:
            if self.serving is epoch:
                self.serving = None
            epoch.signal(how)

    def _heard_exit(self, number: int, code: int | None) -> None:
        if self.serving is not None and self.serving.number == number:
            self.serving = None
        self._tasks.spawn(self._exited(number, code), f"exit of {number}")

    async def _exited(self, number: int, code: int | None) -> None:
        epoch = self.epochs[number]
        memory = self._memory_check.describe_death(code, by_agent=epoch.was_killed)
        epoch.was_starved = bool(memory) and code == -signal.SIGKILL
        reason = f"epoch {number} (pid {epoch.pid}) {describe_exit(code)}{memory}"
        failure = Failure(FailureKind.TRANSIENT, reason)
        if epoch.link.orphan_signal is not None and epoch.pid is not None:
            may_serve = epoch.has_served and not (epoch.was_asked or epoch.was_killed)
            self._orphans.left(epoch.pid, epoch.link.orphan_signal, may_serve=may_serve)
        if code is not None and code > 0 and not epoch.has_served:
            failure = await self._diagnose(epoch, failure)
        self._post(on.EpochExited(at=clock.monotonic(), epoch=number, code=code, failure=failure))

    async def _diagnose(self, candidate: EpochProcess, accident: Failure) -> Failure:
        """Return why a candidate exited: a permanent failure if its proxy also fails validation.

        Otherwise the failure carries what the proxy reports when it starts once more, as that it cannot bind a port.
        """
        timeout = self._settings.policy.start_timeout
        try:
            if (complaint := await candidate.validate(timeout)) is not None:
                return await self._verdict(candidate, complaint)
            complaint = await candidate.rehearse(timeout) if self._may_rehearse(candidate) else None
        except MachineError:
            return accident
        if complaint is None or (self.serving is not None and _IN_USE in complaint.text):  # the serving epoch uses it
            return accident
        program = candidate.loaded.program.binary.path.name
        return replace(accident, reason=f"{accident.reason}: {program} reports: {complaint.text}")

    def _may_rehearse(self, candidate: EpochProcess) -> bool:
        """Whether another process may bind the candidate's addresses while an epoch serves at them.

        Until it listens, a TCP socket receives no connection. A UDP socket takes datagrams once it is bound, and a Unix
        path is removed first.
        """
        if self.serving is None:
            return True
        configuration = candidate.loaded.configuration
        return not configuration.has_dynamic_listeners and all(
            listener.place.address.startswith("tcp://") for listener in configuration.listeners
        )

    async def _verdict(self, refused: EpochProcess, complaint: Complaint) -> Failure:
        """Return a proxy's rejection as a failure, naming the certificate groups at fault, if any."""
        program, name = refused.loaded.program.binary.path.name, refused.loaded.configuration.name
        if complaint.concerns_arguments:
            reason = f"cannot use the arguments after --: {program} reports: {complaint.text}"
            return Failure(FailureKind.PERMANENT, reason)
        pins = await self._bisection.accuse(refused, complaint)
        reason = "; ".join(str(pin.fault) for pin in pins) or f"cannot use {name}: {program} reports: {complaint.text}"
        return Failure(FailureKind.PERMANENT, reason, pinned=bool(pins))

    def cleanup(self, number: int) -> None:
        """Remove an epoch's resources once its exit has been processed."""
        epoch = self.epochs.pop(number, None)
        if epoch is None:  # it was dropped during its construction
            self._directory.remove_epoch(number)
            return
        if not epoch.has_served:
            self.listeners.unstage()
        if self.serving is epoch:
            self.serving = None
        self.shared_counters.retire(number)
        self._drains.pop(number, None)
        epoch.clear()
        self._tasks.spawn(epoch.link.close(), f"removal of {number}")


def _dynamic(epoch: EpochProcess, listeners: Iterable[ListenAddress]) -> list[ListenAddress]:
    """Return the listeners that the epoch's static configuration does not name."""
    static = {listener.place for listener in epoch.loaded.configuration.listeners}
    return [place for place in listeners if place not in static]
