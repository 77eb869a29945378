"""The loop: wait for what happens, let the core decide, act, record."""

import asyncio
import concurrent.futures.thread  # noqa: F401  # asyncio's, at its first thread: by then an upgrade may have replaced it
import logging
import random
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack

from agent import __version__
from agent.core import effects as do
from agent.core import events as on
from agent.core.epochs import State
from agent.core.errors import MachineError
from agent.core.events import Event
from agent.core.reconciler import Reconciler
from agent.core.triggers import Trigger
from agent.host import clock
from agent.host.binaries import find
from agent.host.clock_steps import ClockSteps
from agent.host.inherited_sockets import pass_on_exec, take_inherited
from agent.host.log import log_event, tell
from agent.host.processes import owner_of
from agent.host.reaper import Reaper, become_reaper
from agent.host.run_directory import RunDirectory
from agent.host.tasks import Tasks
from agent.host.termination import TerminationLog
from agent.http.message import Request, Response
from agent.inputs.programs import Programs
from agent.inputs.revisions import RevisionStore
from agent.inputs.settings import Settings
from agent.inputs.watch import InputWatcher
from agent.metrics.registry import Metrics
from agent.metrics.scrape import Epochs, Scraper
from agent.processes.adoption import Adoption
from agent.processes.bisection import Bisection
from agent.processes.epoch_process import EpochProcess
from agent.processes.hang_detector import HangDetector
from agent.processes.stage import ProcessTable
from agent.processes.state_file import StateFile
from agent.status.control import Control
from agent.status.health import Health
from agent.status.model import Status
from agent.status.routes import Routes
from agent.status.statistics import Statistics
from agent.supervisor.chronicle import Chronicle
from agent.supervisor.director import Executor
from agent.supervisor.endpoints import STATUS, Endpoints
from agent.supervisor.event_log import EventLog
from agent.supervisor.history import History
from agent.supervisor.kubernetes_events import KubernetesEvents
from agent.supervisor.operations import Operations
from agent.supervisor.signals import install_signal_handlers
from agent.supervisor.status_builder import StatusBuilder
from agent.supervisor.systemd import SystemdNotifier

EXECUTE = -1
"""What `run` returns instead of an exit code where this process is to become the agent's program as it is on disk."""

_ENDING = {State.DRAINING, State.LEAVING}
_WRITE_AGAIN = 1.0  # seconds until the state is written again that the disk did not take


class Supervisor:
    """One agent, from its start to its exit code. To be made inside a running loop."""

    def __init__(self, settings: Settings, directory: RunDirectory) -> None:
        self._settings = settings
        self._directory = directory
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks = Tasks()
        self._storeroom = RevisionStore()
        self._bulletin = EventLog()
        self._journal = StateFile(directory)
        self._core = Reconciler(settings.policy, jitter=random.random, first_epoch=self._journal.first_epoch)
        self._stage = ProcessTable(settings, directory, self._storeroom, self._events.put_nowait, self._record)
        self._programs = Programs(find(settings.proxy), settings.user)
        self._disk = InputWatcher(settings, self._programs, self._storeroom, self._events.put_nowait)
        self._disk.spoke = self._record
        self._stage.accuser = Bisection(settings, self._disk.intake, self._storeroom)
        self._history = History(self._core.epochs, directory, lambda each: self._storeroom[each].outcome.leaves)
        self._lookout = StatusBuilder(self, settings.policy, __version__)
        self._metrics = Metrics(self.overview, beside_application=settings.application is not None)
        self._chronicle = Chronicle(self._history, self._stage, self._metrics, proves=settings.prove)
        self._orders = Operations(self)
        self._scraping = self._make_scraping()
        if settings.status_port:
            self._stage.last_look = self._scraping.last_look
        self._doors = self._make_doors()
        self._rewriting: asyncio.TimerHandle | None = None
        self._front = Endpoints(self._doors, settings.status_names)
        self._control = Control(self._orders, _note_order)
        self._orphans = Reaper(owner_of, loop=asyncio.get_running_loop())
        self._service = SystemdNotifier(self._core, self._stage, self._disk.intake)
        self._announcer = KubernetesEvents(self._service.standing)
        self._last_words = TerminationLog()
        self._watch = HangDetector(
            self._stage.ports.vault, lambda: self._stage.serving, self._hangs, self._replace, settings.replace_hung
        )
        self._stage.handed_over, self._stage.followed = self._handed_over, self._followed
        self._director = Executor(self._core, self._stage, self._disk, self._storeroom, self._front, self._bulletin)
        self._director.post = self.post

    # What the orders and the status look at

    @property
    def core(self) -> Reconciler:
        """Who decides."""
        return self._core

    @property
    def bulletin(self) -> EventLog:
        """What is said."""
        return self._bulletin

    @property
    def disk(self) -> InputWatcher:
        """What is looked at."""
        return self._disk

    @property
    def programs(self) -> Programs:
        """What epochs run."""
        return self._programs

    @property
    def stage(self) -> ProcessTable:
        """The epochs alive."""
        return self._stage

    @property
    def history(self) -> History:
        """What has happened."""
        return self._history

    @property
    def hung(self) -> bool:
        """Whether what serves answers nobody."""
        return self._watch.hung

    def overview(self) -> Status:
        """Everything that can be shown."""
        return self._lookout.overview()

    def sentence(self) -> str:
        """What goes on."""
        return self._service.sentence()

    def post(self, event: Event) -> None:
        """Let something have happened."""
        self._events.put_nowait(event)

    def state(self) -> dict[str, object]:
        """The state as it was recorded last."""
        return self._journal.last

    async def run(self) -> int:
        """Supervise until the end; return the exit code, or `EXECUTE`. Raises `AgentError` if it cannot even begin."""
        asyncio.get_running_loop().set_exception_handler(tell)
        heirs = take_inherited()
        self._stage.ports.inherit(heir for heir in heirs if heir.name != STATUS)
        install_signal_handlers(self)
        if self._settings.kubernetes_events:
            self._announcer.begin()
        await self._adopt()
        self._reap_orphans()
        self._clock_steps = ClockSteps(self._clock_stepped, asyncio.get_running_loop())
        self._record()
        await self._open_doors(next((heir.descriptor for heir in heirs if heir.name == STATUS), None))
        disk = self._tasks.spawn(self._disk.watch(), "disk")
        try:
            return await self._turn()
        finally:
            disk.cancel()
            await self._close()

    async def _close(self) -> None:
        """Close everything; what cannot be closed is said, and keeps nothing else from it."""
        try:
            await self._close_all()
        except OSError as error:
            log_event(logging.WARNING, "agent.uncleared", f"something of this agent is left behind: {error}")
        finally:
            if self._rewriting is not None:  # last: to end an epoch is recorded as well
                self._rewriting.cancel()

    async def _close_all(self) -> None:
        async with AsyncExitStack() as rest:
            rest.push_async_callback(self._announcer.close)
            for part in (self._service, self._clock_steps, self._orphans):
                rest.callback(part.close)
            rest.push_async_callback(self._disk.close)
            rest.push_async_callback(self._tasks.close)
            if not self._orders.leaves:
                rest.push_async_callback(self._stage.close)
            for closing in (self._scraping, self._chronicle, self._watch, self._director, self._front, self._control):
                rest.push_async_callback(closing.close)

    def _make_scraping(self) -> Scraper:
        settings, stage = self._settings, self._stage
        epochs = Epochs(
            living=stage.living.values,
            serving=lambda: None if stage.serving is None else stage.serving.number,
            counted=stage.counting.read,
            gauges=stage.counting.gauges,
        )
        return Scraper(self._metrics, epochs, self._directory, settings.application, merge=settings.merge_metrics)

    def _make_doors(self) -> Routes:
        health, statistics = Health(self.why_not_ready), Statistics(self._stage.counting.read)
        actions = self._orders if self._settings.http_actions else None
        return Routes(self.overview, health, statistics, self._tell_metrics, actions, _note_order)

    async def _tell_metrics(self, request: Request) -> Response:
        self._chronicle.count_overflows()
        return await self._scraping.answer(request)

    async def _open_doors(self, status: int | None) -> None:
        """Answer whoever asks; `status` is a listener that was here before."""
        if self._settings.status_port:
            await self._front.open_status(self._settings.status_host, self._settings.status_port, status)
        try:
            await self._control.open(self._directory.path)
        except MachineError as error:
            log_event(logging.WARNING, "control.unavailable", f"{error}; the agent takes no orders")

    def _reap_orphans(self) -> None:
        if (why := become_reaper()) is not None:
            log_event(logging.WARNING, "orphans.elsewhere", f"what the proxies leave behind is not reaped here: {why}")
        self._orphans.start()

    async def _adopt(self) -> None:
        """Go on where an earlier agent stopped."""
        self._stage.served_since = self._journal.served_since or self._stage.served_since
        adoption = Adoption(self._journal, self._directory, self._storeroom, self._stage.counting)
        for found, material in adoption.epochs():
            try:
                await self._stage.adopt(found, material)
            except (MachineError, OSError) as error:
                log_event(logging.WARNING, "epoch.not_adopted", f"epoch {found.number}: {error}")
                continue
            self._programs.adopt(material.program)
            event = on.EpochAdopted(
                at=clock.monotonic(), epoch=found.number, revision=material.revision, pid=found.pid, state=found.state
            )
            self._take(event)
        adoption.sweep(frozenset(self._stage.living))

    # What signals ask for

    def stop(self, who: str) -> None:
        """Drain and end; the second time, hurry."""
        log_event(logging.INFO, "agent.stopping", f"{who}: {'hurrying' if self._core.stopping else 'draining'}")
        self._service.stopping()
        self.post(on.StopAsked(at=clock.monotonic()))

    def restart(self, who: str) -> None:
        """Make a new epoch of what is on the disk."""
        log_event(logging.INFO, "agent.restarting", f"{who}: a new epoch is wanted")
        self._service.restarting()
        self._disk.intake.forgive()
        self._disk.look_soon()
        self.post(on.RestartAsked(at=clock.monotonic()))

    def leave(self, who: str) -> None:
        """Go, and let the epochs be."""
        self._orders.leave(who)

    def pass_on(self, number: signal.Signals) -> None:
        """Send a signal to every epoch."""
        for living in self._stage.living.values():
            living.signal(number)

    def tell_state(self) -> None:
        """Write the state to the log."""
        log_event(logging.INFO, "agent.state", self._service.sentence(), None, **self.state())

    # The loop

    async def _turn(self) -> int:
        while True:
            event = await self._next_event()
            if self._orders.leaves:
                return self._leave()
            try:
                finish = self._take(event)
            except Exception as error:  # noqa: BLE001  # a bug: it is told whole, and what serves goes on serving
                log_event(
                    logging.ERROR, "bug", f"{type(event).__name__} was not taken: please report this", error=error
                )
                continue
            if finish is not None:
                level = logging.ERROR if finish.code else logging.INFO
                self._bulletin.say(level, "agent.gone", finish.reason, code=finish.code)
                if finish.code:
                    self._last_words.leave(finish.reason)
                return finish.code

    def _leave(self) -> int:
        """Go, and let the epochs be; a successor in this process finds the listening sockets open."""
        if not self._orders.executes:
            return 0
        self._service.executing()
        pass_on_exec({**self._stage.ports.bequest(), **self._front.bequest()})
        return EXECUTE

    def _take(self, event: Event) -> do.Finish | None:
        """Decide about one event, and act."""
        if isinstance(event, on.RevisionReady) and event.revision != self._disk.intake.newest:
            return None  # its files may be closed; the event of the newer one follows
        self._say_end(event)
        effects = self._core.handle(event)
        self._chronicle.enter(event, effects, stopping=self._core.stopping)
        for effect in effects:
            if isinstance(effect, do.Finish):
                self._record()
                return effect
            self._director.act(effect)
        if isinstance(event, on.EpochExited):
            self._stage.bury(event.epoch)
            self._scraping.retire(event.epoch)
            self._watch.follow()
        self._record()
        self._forget_unused()
        return None

    def _say_end(self, event: Event) -> None:
        """Say how an epoch ended whose end was wanted; that of any other is part of what the core decides about it."""
        if not isinstance(event, on.EpochExited):
            return
        epoch = self._core.epochs.get(event.epoch)
        if epoch is not None and epoch.state in _ENDING:
            self._bulletin.say(logging.INFO, "epoch.gone", event.failure.reason, epoch=event.epoch)

    async def _next_event(self) -> Event:
        deadline = self._core.deadline
        try:
            async with asyncio.timeout_at(deadline):
                return await self._events.get()
        except TimeoutError:
            now = clock.monotonic()
            if deadline is not None:
                self._metrics.lagged(max(0.0, now - deadline))
            return on.TimePassed(at=now)

    # What happens besides

    def _handed_over(self, living: EpochProcess) -> None:
        self._chronicle.handed_over(living)
        self._watch.follow()
        self._doors.changed()

    def _followed(self) -> None:
        self._watch.follow()
        self._record()

    def _clock_stepped(self) -> None:
        log_event(logging.INFO, "clock.stepped", "the clock was set: what depends on the date is worked out anew")
        self._director.clock_stepped()

    def _hangs(self, hangs: bool, text: str) -> None:
        level, event = (logging.ERROR, "service.hung") if hangs else (logging.INFO, "service.answers")
        self._bulletin.say(level, event, text)
        self._record()

    def _replace(self, why: str) -> None:
        self._bulletin.say(logging.ERROR, "service.replaced", f"{why}: another one takes its place")
        self.post(on.RestartAsked(at=clock.monotonic(), now=True, trigger=Trigger.HUNG))

    # Records

    def _record(self) -> None:
        self._write_state()
        self._service.tell()
        reason = self.why_not_ready()
        self._orders.note_readiness(reason)
        if not self._core.stopping:
            self._last_words.leave(reason or "; ".join(self._service.complaints()))
        self._lookout.note()
        self._doors.changed()

    def _write_state(self) -> None:
        """Write it now; where the disk does not take it, and nothing else happens, again in a while."""
        stage = self._stage
        self._journal.write(self._core, stage.living.values(), stage.served_since, stage.segments.spare)
        if self._rewriting is not None:
            self._rewriting.cancel()
        self._rewriting = None
        if self._journal.behind:
            self._rewriting = asyncio.get_running_loop().call_later(_WRITE_AGAIN, self._write_state)

    def _forget_unused(self) -> None:
        wish = self._core.wish
        known = {epoch.revision for epoch in self._core.epochs.values()}
        known |= {each for each in (wish.wanted, wish.last_good, self._disk.intake.newest) if each is not None}
        known |= {living.material.revision for living in self._stage.living.values()}
        self._storeroom.keep_only(known)
        self._programs.forget_unused({self._storeroom[each].program.binary.descriptor for each in known})

    def why_not_ready(self) -> str:
        """Empty if it is."""
        if self._core.stopping:
            return "the agent is stopping"
        if self._core.serving is not None:
            return self._stage.unserved
        return f"no epoch serves: {'; '.join(self._why_none_serves())}"

    def _why_none_serves(self) -> Iterator[str]:
        candidate = self._core.candidate
        if candidate is not None:
            yield f"epoch {candidate.number} starts" + (f": {candidate.awaits}" if candidate.awaits else "")
        elif self._core.last_failure is None:
            yield self._disk.missing
        yield from self._service.complaints()


def _note_order(text: str) -> None:
    log_event(logging.INFO, "control.asked", text)
