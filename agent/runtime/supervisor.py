"""The loop: wait for what happens, let the core decide, act, record."""

import asyncio
import logging
import random
import signal
from typing import assert_never

from agent.core import effects as do
from agent.core import events as on
from agent.core.effects import Effect, Topic
from agent.core.epochs import Epoch, State
from agent.core.errors import MachineError
from agent.core.events import Event
from agent.core.reconciler import Reconciler
from agent.core.revision import Revision
from agent.host import clock
from agent.host.binaries import find
from agent.host.limits import WAITING_SIGNALS
from agent.host.log import say
from agent.host.run_directory import RunDirectory
from agent.host.service_manager import ServiceManager
from agent.host.watching import Watcher
from agent.runtime.adoption import Adoption
from agent.runtime.front import Front
from agent.runtime.intake import Intake, Look, wait_for_change
from agent.runtime.journal import Journal
from agent.runtime.living import Living
from agent.runtime.material import Material, Storeroom
from agent.runtime.programs import Programs
from agent.runtime.settings import Settings
from agent.runtime.stage import Stage
from agent.runtime.tasks import Tasks

_LOOK_AGAIN = 1.0  # seconds until the disk is looked at again after the machine refused something
_URGENT_SHARE = 10  # a leaf with less than a tenth of its life left makes a rotation urgent
_ENDING = {State.DRAINING, State.LEAVING}
_LEVELS = {Topic.REFUSED: logging.ERROR, Topic.DOWN: logging.ERROR, Topic.RETRY: logging.WARNING}


class Supervisor:
    """One agent, from its start to its exit code. To be made inside a running loop."""

    def __init__(self, settings: Settings, directory: RunDirectory) -> None:
        self._settings = settings
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._tasks = Tasks()
        self._storeroom = Storeroom()
        self._newest: Revision | None = None  # made, but perhaps not yet heard of by the core
        self._directory = directory
        self._journal = Journal(directory)
        self._core = Reconciler(settings.policy, jitter=random.random, first_epoch=self._journal.first_epoch)
        self._stage = Stage(settings, directory, self._storeroom, self._events.put_nowait, self._record)
        self._programs = Programs(find(settings.proxy), settings.user)
        self._watcher = Watcher(
            lambda _: self._changed.set(),
            notice=lambda text: say(logging.WARNING, "watch.degraded", text),
            loop=asyncio.get_running_loop(),
        )
        self._intake = Intake(settings, self._programs, self._storeroom, self._watcher)
        self._front = Front(self._why_not_ready, self._stage.counting.read)
        self._service_manager = ServiceManager()

    async def run(self) -> int:
        """Supervise until the end; return the exit code. Raises `AgentError` if it cannot even begin."""
        self._hear_signals()
        await self._adopt()
        self._record()
        if self._settings.status_port:
            await self._front.open_status(self._settings.status_host, self._settings.status_port)
        disk = self._tasks.spawn(self._watch_disk(), "disk")
        try:
            return await self._turn()
        finally:
            disk.cancel()
            await self._front.close()
            await self._stage.close()
            await self._tasks.close()
            self._watcher.close()

    async def _adopt(self) -> None:
        """Go on where an earlier agent stopped."""
        self._stage.served_since = self._journal.served_since or self._stage.served_since
        adoption = Adoption(self._journal, self._directory, self._storeroom, self._stage.counting)
        for found, material in adoption.epochs():
            try:
                await self._stage.adopt(found, material)
            except (MachineError, OSError) as error:
                say(logging.WARNING, "epoch.not_adopted", f"epoch {found.number}: {error}")
                continue
            self._programs.adopt(material.program)
            event = on.EpochAdopted(
                at=clock.monotonic(), epoch=found.number, revision=material.revision, pid=found.pid, state=found.state
            )
            self._take(event)
        adoption.sweep(frozenset(self._stage.living))

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._restart)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING_SIGNALS)

    def _stop(self, number: signal.Signals) -> None:
        say(logging.INFO, "agent.stopping", f"{number.name}: {'hurrying' if self._core.stopping else 'draining'}")
        self._service_manager.stopping()
        self._events.put_nowait(on.StopAsked(at=clock.monotonic()))

    def _restart(self) -> None:
        say(logging.INFO, "agent.restarting", "SIGHUP: a new epoch is wanted")
        self._intake.forgive()
        self._changed.set()
        self._events.put_nowait(on.RestartAsked(at=clock.monotonic()))

    # The loop

    async def _turn(self) -> int:
        while True:
            event = await self._next_event()
            try:
                finish = self._take(event)
            except Exception as error:  # noqa: BLE001  # a bug: it is told whole, and what serves goes on serving
                say(logging.ERROR, "bug", f"{type(event).__name__} was not taken: please report this", error=error)
                continue
            if finish is not None:
                say(logging.ERROR if finish.code else logging.INFO, "agent.gone", finish.reason, code=finish.code)
                return finish.code

    def _take(self, event: Event) -> do.Finish | None:
        """Decide about one event, and act."""
        self._say_end(event)
        for effect in self._core.handle(event):
            if isinstance(effect, do.Finish):
                self._record()
                return effect
            self._act(effect)
        if isinstance(event, on.EpochExited):
            self._stage.bury(event.epoch)
        self._record()
        self._forget_unused()
        return None

    def _say_end(self, event: Event) -> None:
        """Say how an epoch ended whose end was wanted; that of any other is part of what the core decides about it."""
        if not isinstance(event, on.EpochExited):
            return
        epoch = self._core.epochs.get(event.epoch)
        if epoch is not None and epoch.state in _ENDING:
            say(logging.INFO, "epoch.gone", event.failure.reason)

    async def _next_event(self) -> Event:
        try:
            async with asyncio.timeout_at(self._core.deadline):
                return await self._events.get()
        except TimeoutError:
            return on.TimePassed(at=clock.monotonic())

    def _act(self, effect: Effect) -> None:  # noqa: C901  # one line for each kind of effect
        match effect:
            case do.StartEpoch():
                say(logging.INFO, "epoch.starting", f"epoch {effect.epoch} starts from revision {effect.revision.name}")
                self._stage.start(effect.epoch, effect.revision, validate=effect.validate)
            case do.JudgeEpoch():
                self._stage.judge(effect.epoch)
            case do.OpenGate():
                self._stage.open_gate(effect.epoch)
            case do.DropEpoch():
                say(logging.INFO, "epoch.dropped", f"epoch {effect.epoch} is dropped: {effect.reason}")
                self._stage.drop(effect.epoch)
            case do.CommitEpoch():
                self._commit(effect.epoch)
            case do.DrainEpoch():
                say(logging.INFO, "epoch.draining", f"epoch {effect.epoch} drains")
                self._stage.drain(effect.epoch, stopping=self._core.stopping)
            case do.EndEpoch():
                self._stage.end(effect.epoch)
            case do.KillEpoch():
                say(logging.WARNING, "epoch.killed", f"epoch {effect.epoch} did not exit when asked: it is killed")
                self._stage.kill(effect.epoch)
            case do.RefuseClients():
                say(logging.ERROR, "service.refused", "nothing serves yet: clients are refused until something does")
                self._stage.refuse_clients()
            case do.Note():
                say(_LEVELS.get(effect.topic, logging.INFO), effect.topic.value, effect.text)
                self._heed(effect.topic)
            case do.Finish():
                raise AssertionError(effect)  # handled by the loop
            case _:
                assert_never(effect)

    def _heed(self, topic: Topic) -> None:
        """What the proxy refused is known to the intake before it looks at the disk again."""
        refused = self._core.wish.refused
        if topic is Topic.REFUSED and refused is not None:
            self._intake.refuse(self._storeroom[refused.revision])
            self._changed.set()

    def _commit(self, number: int) -> None:
        epoch = self._core.epochs[number]
        serving = self._stage.commit(number)
        self._intake.serves(serving.material)
        self._tasks.spawn(self._front.lead_to(serving), "console")
        self._foresee_expiry(serving.material)
        say(logging.INFO, "epoch.serving", _describe(epoch, serving))

    def _foresee_expiry(self, material: Material) -> None:
        """Tell the core when the first of the leaves that serve now grows old; it decides with monotonic time only."""
        now, at = clock.calendar(), clock.monotonic()
        leaves = material.outcome.leaves.values()
        ends = [
            ((leaf.not_after - now).total_seconds(), (leaf.not_after - leaf.not_before).total_seconds())
            for leaf in leaves
        ]
        expires_at = min((at + left for left, _ in ends), default=None)
        urgent_at = min((at + left - life / _URGENT_SHARE for left, life in ends), default=None)
        self._events.put_nowait(on.ExpiryForeseen(at=at, urgent_at=urgent_at, expires_at=expires_at))

    # The disk

    async def _watch_disk(self) -> None:
        said_strays = False
        while True:
            self._changed.clear()
            look = await self._look()
            if look.material is not None:
                self._newest = look.material.revision
                self._events.put_nowait(on.RevisionReady(at=clock.monotonic(), revision=self._newest))
            elif look.missing:
                missing = ", ".join(look.missing)
                if self._settings.policy.wait:
                    self._intake.reports.once("files.awaited", f"waiting for {missing}")
                self._events.put_nowait(on.RevisionMissing(at=clock.monotonic(), what=missing))
            if not said_strays and look.material is not None:
                said_strays = True
                await self._intake.report_strays()
            await wait_for_change(self._changed, look.again_at)

    async def _look(self) -> Look:
        """Look at the disk; where even that fails, say it once and look again in a while."""
        reports = self._intake.reports
        try:
            look = await self._intake.look()
        except (MachineError, OSError) as error:
            reports.once("disk.unusable", f"{error}; what serves goes on serving", logging.ERROR)
            return Look(None, again_at=clock.monotonic() + _LOOK_AGAIN)
        reports.once("disk.unusable", "")
        return look

    # Records

    def _record(self) -> None:
        self._journal.write(self._core, self._stage.living.values(), self._stage.served_since)
        ready = self._core.serving is not None and not self._core.stopping
        self._service_manager.status(_sentence(list(self._core.epochs.values())), ready=ready)

    def _forget_unused(self) -> None:
        known = {epoch.revision for epoch in self._core.epochs.values()}
        known |= {
            each for each in (self._core.wish.wanted, self._core.wish.last_good, self._newest) if each is not None
        }
        known |= {living.material.revision for living in self._stage.living.values()}
        self._storeroom.keep_only(known)
        self._programs.forget_unused({self._storeroom[each].program.binary.descriptor for each in known})

    def _why_not_ready(self) -> str:
        if self._core.stopping:
            return "the agent is stopping"
        if self._core.serving is not None:
            return ""
        failure = self._core.last_failure
        return "no epoch serves" if failure is None else f"no epoch serves: {failure.reason}"


def _describe(epoch: Epoch, serving: Living) -> str:
    leaves = [
        f"serial {leaf.serial_hex} until {leaf.not_after:%Y-%m-%d %H:%M}Z"
        for leaf in serving.material.outcome.leaves.values()
    ]
    shown = "; ".join(leaves[:2]) + (f" and {len(leaves) - 2} more" if len(leaves) > 2 else "")
    took = f"{(clock.monotonic() - epoch.started_at) * 1000:.0f} ms after its start"
    how = "adopted from an earlier agent" if serving.is_adopted() else took
    return f"epoch {epoch.number} (pid {epoch.pid}) serves, {how}" + (f"; {shown}" if shown else "")


def _sentence(epochs: list[Epoch]) -> str:
    """What `systemctl status` shows."""
    parts = [f"epoch {epoch.number} is {epoch.state.word}" for epoch in epochs if epoch.state is not State.GONE]
    return "; ".join(parts) or "no epoch"
