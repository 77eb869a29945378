"""What an operator asks of this agent by its control socket, done, and told while it happens."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from agent.core import events as on
from agent.core.errors import BadInput, MachineError
from agent.core.events import Event
from agent.core.reconciler import Reconciler
from agent.host import clock
from agent.host.limits import WAITING_SIGNALS
from agent.host.log import log_event
from agent.host.processes import Command, run
from agent.http.message import Request, Response
from agent.inputs.programs import Programs
from agent.inputs.watch import InputWatcher
from agent.processes import upgrade_check
from agent.processes.memory_check import MemoryCheck
from agent.processes.stage import ProcessTable
from agent.proxies.envoy.admin_forwarder import Forwarder
from agent.status.actions import OperationResult, Progress
from agent.status.model import Status
from agent.supervisor.event_log import EventLog, LogEvent

_TRIAL_TIMEOUT = 30.0
_ENDINGS = {"revision.refused": "refused", "start.retry": "failed", "agent.gone": "stopped"}


class Agent(Protocol):
    """The supervisor, as the orders see it."""

    @property
    def core(self) -> Reconciler:
        """Who decides."""

    @property
    def bulletin(self) -> EventLog:
        """What is said."""

    @property
    def disk(self) -> InputWatcher:
        """What is looked at."""

    @property
    def programs(self) -> Programs:
        """What epochs run."""

    def post(self, event: Event) -> None:
        """Let something have happened."""

    def stop(self, who: str) -> None:
        """Drain and end."""

    @property
    def stage(self) -> ProcessTable:
        """The epochs alive."""

    def state(self) -> dict[str, object]:
        """The state as it was recorded last."""

    def overview(self) -> Status:
        """Everything that can be shown."""


class Operations:
    """Takes orders. `leaves`: the agent goes and its epochs stay; `executes`: for its own successor in this process."""

    def __init__(self, agent: Agent) -> None:
        self.leaves = False
        self.executes = False
        self._agent = agent
        self._not_ready = "no epoch serves"
        self._ready = asyncio.Event()
        self._drained = asyncio.Event()

    # A new epoch

    async def restart(self, *, binary: bool, force: bool, now: bool) -> AsyncIterator[Progress | OperationResult]:
        """Make a new epoch of what is on the disk; of something that cannot be used whole, only by force."""
        began = clock.monotonic()
        core = self._agent.core
        if core.stopping:
            yield OperationResult("refused", reason="the agent is stopping")
            return
        if binary and (why := await self._load_program()):
            yield OperationResult("refused", reason=why)
            return
        self._agent.disk.intake.forgive()
        look = await self._agent.disk.look()
        if look.refused and not force:
            yield OperationResult("refused", reason="; ".join(look.refused))
            return
        with self._agent.bulletin.follow() as notices:
            wanted = None if look.material is None else look.material.revision
            first = core.next_epoch if core.candidate is None else core.candidate.number
            self._agent.post(on.RestartAsked(at=clock.monotonic(), now=now))
            if (left := core.wish.paused_until - clock.monotonic()) > 0 and not now:
                yield Progress(clock.monotonic() - began, f"rotations are paused for {left:.0f} s more")
            while True:
                notice = await notices.get()
                yield Progress(clock.monotonic() - began, notice.text)
                if notice.epoch in core.epochs and core.epochs[notice.epoch].revision != wanted:
                    continue  # of what was wanted before
                if (outcome := _outcome(notice, first)) is not None:
                    yield outcome
                    return

    async def _load_program(self) -> str:
        try:
            await self._agent.programs.load()
        except BadInput as error:
            return str(error)
        return ""

    # A new agent

    async def upgrade(self) -> AsyncIterator[Progress | OperationResult]:
        """Try the program on disk on a copy of what there is; if it can take over, become it."""
        began = clock.monotonic()
        if (shortage := MemoryCheck().shortage(os.getpid(), "agent")) is not None:
            reason = f"there is no memory to try the new program beside this one: {shortage}; free some and ask again"
            yield OperationResult("refused", reason=reason)
            return
        try:
            code, said = await _try_program()
        except MachineError as error:
            yield OperationResult("refused", reason=str(error))
            return
        lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
        if code != 0:
            yield OperationResult("refused", reason=f"the new program cannot take over: {lines[-1]}")
            return
        yield Progress(clock.monotonic() - began, lines[-1])
        yield OperationResult("executing")
        self.executes = True
        self.leave("upgrade")

    def leave(self, who: str) -> None:
        """Go, and leave the epochs to whoever comes next. Signals wait from now on: nobody may hear them in between."""
        signal.pthread_sigmask(signal.SIG_BLOCK, WAITING_SIGNALS)
        how = "becomes its program on disk" if self.executes else "leaves its epochs to the next one"
        log_event(logging.INFO, "agent.leaving", f"{who}: the agent {how}")
        self.leaves = True
        self._agent.post(on.TimePassed(at=clock.monotonic()))

    # The end

    async def drain(self) -> str:
        """Drain everything, and stay; who asks again waits for the same drain."""
        self._agent.post(on.DrainAsked(at=clock.monotonic()))
        await self._drained.wait()
        return "drained"

    async def stop(self) -> None:
        """As by SIGTERM."""
        self._agent.stop("asked to stop")

    # Pauses

    async def pause(self, seconds: float) -> None:
        """Hold rotations."""
        now = clock.monotonic()
        self._agent.post(on.PauseAsked(at=now, until=now + seconds))

    async def resume(self) -> None:
        """Hold them no longer."""
        now = clock.monotonic()
        self._agent.post(on.PauseAsked(at=now, until=now))

    # Questions

    async def ready(self, wait: float) -> str:
        """Why it is not ready."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), wait)
        return self._not_ready

    async def state(self) -> Mapping[str, object]:
        """What was recorded last."""
        return self._agent.state()

    def overview(self) -> Status:
        """Everything that can be shown."""
        return self._agent.overview()

    async def request(self, method: str, target: str, epoch: int | None) -> Response:
        """Pass on what an epoch's console answers."""
        stage = self._agent.stage
        living = stage.serving if epoch is None else stage.living.get(epoch)
        if living is None:
            alive = ", ".join(map(str, sorted(stage.living))) or "none"
            which = "no epoch serves" if epoch is None else f"there is no epoch {epoch}"
            return Response(404, f"{which}; alive: {alive}\n".encode())
        return await Forwarder.to(living.console.place).answer(Request(method, target))

    def note_readiness(self, reason: str) -> None:
        """Something may have changed: tell whoever waits for it."""
        if self._agent.core.stopping and not self._agent.core.epochs:
            self._drained.set()
        self._not_ready = reason
        if reason:
            self._ready.clear()
        else:
            self._ready.set()


def _outcome(notice: LogEvent, first: int) -> OperationResult | None:
    """Whether this notice ends the attempt whose first epoch has this number, or a higher one."""
    if notice.event == "epoch.serving" and notice.epoch is not None and notice.epoch >= first:
        return OperationResult("serving", notice.epoch)
    if notice.event in _ENDINGS:
        return OperationResult(_ENDINGS[notice.event], reason=notice.text)
    return None


async def _try_program() -> tuple[int, str]:
    """Run this agent's own command line once more, to say only whether it could take over."""
    own = {name: value for name, value in os.environ.items() if name.startswith("AGENT_")}
    environment = {**own, upgrade_check.VARIABLE: "1"}
    interpreter = os.open(sys.executable, os.O_RDONLY | os.O_CLOEXEC)
    try:
        command = Command(interpreter, sys.orig_argv, environment=environment, executable=sys.executable)
        return await run(command, _TRIAL_TIMEOUT)
    finally:
        os.close(interpreter)
