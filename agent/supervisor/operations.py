"""Operations requested at the control socket: restart, upgrade, drain, stop, pause, queries."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Protocol

from agent.core import events as on
from agent.core.errors import BadInput, MachineError
from agent.core.events import Event
from agent.host import clock
from agent.host.limits import WAITING_SIGNALS
from agent.host.log import LogEvent, log_event, subscribe
from agent.host.processes import own_pid
from agent.http.message import Request, Response
from agent.processes import upgrade_check
from agent.processes.memory_check import MemoryCheck
from agent.processes.state_file import StateFile
from agent.status.actions import OperationResult, Progress
from agent.status.model import Status
from agent.supervisor.service import Service

_ENDINGS = {"revision.refused": "refused", "start.retry": "failed", "agent.gone": "stopped"}


class Stop(Protocol):
    """Begins to stop the agent, at the request of `who`."""

    def __call__(self, who: str, *, now: bool = False) -> None:
        """Begin; `now` without a drain."""


class Operations:
    """Carries out the operations that an operator requests.

    `post` queues an event, `status` builds a snapshot, `stop` begins to terminate. `dry_run` runs the program on disk
    as a check and returns its exit code and output. `leaves`: the agent exits and its epochs stay; `executes`: its
    successor runs in this same process.
    """

    def __init__(
        self,
        service: Service,
        state_file: StateFile,
        post: Callable[[Event], None],
        status: Callable[[], Status],
        stop: Stop,
        *,
        memory_check: MemoryCheck | None = None,
        dry_run: Callable[[], Awaitable[tuple[int, str]]] = upgrade_check.run_program_on_disk,
    ) -> None:
        self.leaves = False
        self.executes = False
        self._core = service.core
        self._processes = service.processes
        self._inputs = service.inputs
        self._state_file = state_file
        self._post = post
        self._status = status
        self._stop = stop
        self._memory_check = memory_check or MemoryCheck()
        self._dry_run = dry_run
        self._not_ready = "no epoch serves"
        self._ready = asyncio.Event()
        self._drained = asyncio.Event()

    # A new epoch

    async def restart(self, *, binary: bool, force: bool, now: bool) -> AsyncIterator[Progress | OperationResult]:
        """Start a new epoch from the files on disk; if some are unusable, only with `force`."""
        began = clock.monotonic()
        core = self._core
        if core.stopping:
            yield OperationResult("refused", reason="the agent is stopping")
            return
        if binary and (why := await self._load_program()):
            yield OperationResult("refused", reason=why)
            return
        self._inputs.loader.forgive()
        look = await self._inputs.load()
        if look.refused and not force:
            yield OperationResult("refused", reason="; ".join(look.refused))
            return
        with _logged() as notices:
            wanted = None if look.loaded is None else look.loaded.revision
            first = core.next_epoch if core.candidate is None else core.candidate.number
            self._post(on.RestartAsked(at=clock.monotonic(), now=now))
            if (left := core.desired.paused_until - clock.monotonic()) > 0 and not now:
                yield Progress(clock.monotonic() - began, f"rotations are paused for {left:.0f} s more")
            while True:
                notice = await notices.get()
                yield Progress(clock.monotonic() - began, notice.text)
                if notice.epoch in core.epochs and core.epochs[notice.epoch].revision != wanted:
                    continue  # an epoch from an earlier desired state
                if (outcome := _outcome(notice, first)) is not None:
                    yield outcome
                    return

    async def _load_program(self) -> str:
        try:
            await self._inputs.loader.programs.load()
        except BadInput as error:
            return str(error)
        return ""

    # Upgrade

    async def upgrade(self) -> AsyncIterator[Progress | OperationResult]:
        """Dry-run the program on disk on a copy of the state; if it can take over, execute it."""
        began = clock.monotonic()
        if (shortage := self._memory_check.shortage(own_pid(), "agent")) is not None:
            reason = f"there is no memory to try the new program beside this one: {shortage}; free some and try again"
            yield OperationResult("refused", reason=reason)
            return
        try:
            code, said = await self._dry_run()
        except MachineError as error:
            yield OperationResult("refused", reason=str(error))
            return
        lines = [line for line in said.splitlines() if line.strip()] or ["it printed no message"]
        if code != 0:
            yield OperationResult("refused", reason=f"the new program cannot take over: {lines[-1]}")
            return
        yield Progress(clock.monotonic() - began, lines[-1])
        yield OperationResult("executing")
        self.executes = True
        self.leave("upgrade")

    def leave(self, who: str) -> None:
        """Exit and keep the epochs running for the successor.

        Signals stay blocked from now on: between the two programs, nothing handles them.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, WAITING_SIGNALS)
        how = "executes its program on disk" if self.executes else "exits, and the next one adopts its epochs"
        log_event(logging.INFO, "agent.leaving", f"{who}: the agent {how}")
        self.leaves = True
        self._post(on.TimePassed(at=clock.monotonic()))

    # Shutdown

    async def drain(self) -> str:
        """Drain and keep running; concurrent calls wait for the same drain.

        If only inbound listeners drain, the serving epoch stays for the others.
        """
        self._post(on.DrainAsked(at=clock.monotonic()))
        await self._drained.wait()
        return "drained"

    async def stop(self, *, now: bool = False) -> None:
        """Terminate, as SIGTERM does; `now` without a drain."""
        self._stop("stop requested", now=now)

    # Pauses

    async def pause(self, seconds: float) -> None:
        """Pause rotations for this many seconds."""
        now = clock.monotonic()
        self._post(on.PauseAsked(at=now, until=now + seconds))

    async def resume(self) -> None:
        """End the pause."""
        now = clock.monotonic()
        self._post(on.PauseAsked(at=now, until=now))

    # Queries

    async def ready(self, wait: float) -> str:
        """Wait up to `wait` seconds until ready; return why not, empty if ready."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), wait)
        return self._not_ready

    async def state(self) -> Mapping[str, object]:
        """Return what the state file holds."""
        return self._state_file.last

    def overview(self) -> Status:
        """Return the status snapshot."""
        return self._status()

    async def request(self, method: str, target: str, epoch: int | None) -> Response:
        """Forward a request to an epoch's admin interface; return its response."""
        processes = self._processes
        process = processes.serving if epoch is None else processes.epochs.get(epoch)
        if process is None:
            alive = ", ".join(map(str, sorted(processes.epochs))) or "none"
            which = "no epoch serves" if epoch is None else f"there is no epoch {epoch}"
            return Response(404, f"{which}; running: {alive}\n".encode())
        forwarder = process.loaded.program.kind.forwarder(())
        forwarder.target = process.admin.place
        return await forwarder.answer(Request(method, target))

    def note_readiness(self, reason: str) -> None:
        """Update readiness, and wake the waiting calls."""
        if self._core.is_drained:
            self._drained.set()
        self._not_ready = reason
        if reason:
            self._ready.clear()
        else:
            self._ready.set()


@contextlib.contextmanager
def _logged() -> Iterator[asyncio.Queue[LogEvent]]:
    """Yield a queue that receives what is logged from now on, but for debugging messages."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[LogEvent] = asyncio.Queue()

    def receive(event: LogEvent) -> None:
        if event.level >= logging.INFO:
            loop.call_soon_threadsafe(events.put_nowait, event)

    with subscribe(receive):
        yield events


def _outcome(notice: LogEvent, first: int) -> OperationResult | None:
    """Return the result if this log event ends the attempt that began with epoch `first`."""
    if notice.name == "epoch.serving" and notice.epoch is not None and notice.epoch >= first:
        return OperationResult("serving", notice.epoch)
    if notice.name in _ENDINGS:
        return OperationResult(_ENDINGS[notice.name], reason=notice.text)
    return None
