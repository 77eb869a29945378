"""The event loop: receive an event, decide, execute the effects, record the state."""

import asyncio
import concurrent.futures.thread  # noqa: F401  # asyncio's first thread imports it, maybe after an upgrade replaced it
import logging
import random
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

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
from agent.host.service_manager import ServiceManager
from agent.host.tasks import Tasks
from agent.host.termination_log import TerminationLog
from agent.http.hosts import Handler
from agent.http.message import Request, Response
from agent.inputs.programs import Programs
from agent.inputs.revisions import RevisionStore
from agent.inputs.settings import Settings
from agent.inputs.watch import InputWatcher
from agent.metrics.registry import Metrics
from agent.metrics.scrape import Epochs, Scraper
from agent.metrics.shared_counters import SharedCounters
from agent.processes.adoption import Adoption
from agent.processes.bisection import Bisection
from agent.processes.epoch_process import EpochProcess
from agent.processes.hang_detector import HangDetector
from agent.processes.process_table import Callbacks, ProcessTable
from agent.processes.state_file import StateFile
from agent.status.control import Control
from agent.status.health import Health
from agent.status.model import Status
from agent.status.routes import Routes
from agent.status.statistics import Statistics
from agent.supervisor.endpoints import STATUS, Endpoints
from agent.supervisor.executor import Executor
from agent.supervisor.history import History
from agent.supervisor.kubernetes_events import KubernetesEvents
from agent.supervisor.operations import Operations
from agent.supervisor.recorder import Recorder
from agent.supervisor.service import Service
from agent.supervisor.signals import SignalHandlers, install_signal_handlers
from agent.supervisor.status_builder import StatusBuilder
from agent.supervisor.summary import Summary
from agent.supervisor.systemd import SystemdNotifier, SystemdSocketStore

EXECUTE = -1
"""Returned by `run` instead of an exit code: this process is to execute the new program."""

_ENDING = {State.DRAINING, State.TERMINATING}
_WRITE_AGAIN = 1.0  # seconds until a failed write of the state file is retried


@dataclass(frozen=True, slots=True)
class Parts:
    """The classes of the parts that reach the disk, processes, the kernel or a cluster."""

    inputs: type[InputWatcher] = InputWatcher
    processes: type[ProcessTable] = ProcessTable
    adoption: type[Adoption] = Adoption
    hang_detector: type[HangDetector] = HangDetector
    kubernetes_events: type[KubernetesEvents] = KubernetesEvents
    termination_log: type[TerminationLog] = TerminationLog
    clock_steps: type[ClockSteps] = ClockSteps
    reaper: type[Reaper] = Reaper


class Supervisor:
    """One agent, from start to exit code. Create it inside a running loop."""

    def __init__(self, settings: Settings, directory: RunDirectory, parts: Parts | None = None) -> None:
        self._parts = parts = parts or Parts()
        self._settings = settings
        self._directory = directory
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._post = self._events.put_nowait
        self._tasks = Tasks()
        self._rewriting: asyncio.TimerHandle | None = None
        self._state_file = StateFile(directory)
        self._core = Reconciler(settings.policy, jitter=random.random, first_epoch=self._state_file.first_epoch)
        self._revisions = RevisionStore()
        self._programs = Programs(find(settings.proxy), settings.kind, settings.user)
        self._inputs = parts.inputs(settings, self._programs, self._revisions, self._post, self._record)
        self._metrics = Metrics(self._status, beside_application=settings.application is not None)
        self._shared_counters = SharedCounters(directory)
        self._scraper = Scraper(
            self._metrics, self._scraped(), directory, settings.application, merge=settings.merge_metrics
        )
        manager = ServiceManager()
        store = SystemdSocketStore(manager)
        bisection = Bisection(settings, self._inputs.loader, self._revisions)
        callbacks = Callbacks(
            post=self._post,
            record=self._record,
            handed_over=self._handed_over,
            followed=self._followed,
            final_scrape=self._scraper.final_scrape if settings.status_port else None,
        )
        self._processes = parts.processes(
            settings, directory, self._revisions, self._shared_counters, store, bisection, callbacks
        )
        self._hang_detector = parts.hang_detector(
            store, lambda: self._processes.serving, self._hangs, self._replace, settings.replace_hung
        )
        service = Service(self._core, self._processes, self._inputs)
        self._summary = Summary(service)
        self._systemd = SystemdNotifier(self._core, manager, store, self._summary)
        self._kubernetes_events = parts.kubernetes_events(self._summary.rejections)
        self._termination_log = parts.termination_log()
        self._history = History(self._core.epochs, directory, lambda each: self._revisions[each].selection.leaves)
        self._recorder = Recorder(self._history, self._processes, self._metrics, proves=settings.prove)
        self._status_builder = StatusBuilder(service, self._history, self._summary, self._hang_detector, __version__)
        self._operations = Operations(service, self._state_file, self._post, self._status, self._stop)
        self._control = Control(self._operations, _log_operation)
        self._routes = self._make_routes()
        self._endpoints = Endpoints(self._routes, settings.kind, settings.status_names)
        self._executor = Executor(service, self._revisions, self._endpoints, self._post)
        self._reaper = parts.reaper(owner_of, loop=asyncio.get_running_loop())

    def _scraped(self) -> Epochs:
        """Return the functions by which the scraper reads the current epochs."""

        def epochs() -> Iterable[EpochProcess]:
            return self._processes.epochs.values()

        def serving() -> int | None:
            return None if self._processes.serving is None else self._processes.serving.number

        return Epochs(
            all=epochs,
            serving=serving,
            counted=self._shared_counters.read,
            gauges=self._shared_counters.gauges,
        )

    def _make_routes(self) -> Routes:
        health, statistics = Health(self._summary.why_not_ready), Statistics(self._shared_counters.read)
        actions = self._operations if self._settings.http_actions else None
        probes = self._app_probes()
        return Routes(self._status, health, statistics, self._answer_metrics, actions, _log_operation, probes)

    def _app_probes(self) -> Handler | None:
        settings = self._settings
        if not settings.app_probes:
            return None
        from agent.status.app_probes import AppProbes  # noqa: PLC0415  # an agent without probes does not hold it

        return AppProbes(settings.app_probes, settings.app_address, settings.status_port).answer

    async def _answer_metrics(self, request: Request) -> Response:
        self._recorder.count_overflows()
        return await self._scraper.answer(request)

    def _status(self) -> Status:
        return self._status_builder.build()

    async def run(self) -> int:
        """Supervise until shutdown; return the exit code or `EXECUTE`.

        Raises `AgentError` if it cannot start.
        """
        asyncio.get_running_loop().set_exception_handler(tell)
        inherited = take_inherited()
        self._processes.listeners.inherit(each for each in inherited if each.name != STATUS)
        install_signal_handlers(self._signal_handlers())
        if self._settings.kubernetes_events:
            self._kubernetes_events.begin()
        await self._adopt()
        self._reap_orphans()
        self._clock_steps = self._parts.clock_steps(self._clock_stepped, asyncio.get_running_loop())
        self._record()
        await self._open_endpoints(next((each.descriptor for each in inherited if each.name == STATUS), None))
        watching = self._tasks.spawn(self._inputs.watch(), "inputs")
        try:
            return await self._turn()
        finally:
            watching.cancel()
            await self._close()

    async def _close(self) -> None:
        """Close everything; log a failure and close the rest."""
        try:
            await self._close_all()
        except OSError as error:
            log_event(logging.WARNING, "agent.uncleared", f"the agent's files are not all removed: {error}")
        finally:
            if self._rewriting is not None:  # last, since ending an epoch records the state too
                self._rewriting.cancel()

    async def _close_all(self) -> None:
        async with AsyncExitStack() as rest:
            rest.push_async_callback(self._kubernetes_events.close)
            for part in (self._systemd, self._clock_steps, self._reaper):
                rest.callback(part.close)
            rest.push_async_callback(self._inputs.close)
            rest.push_async_callback(self._tasks.close)
            if not self._operations.leaves:
                rest.push_async_callback(self._processes.close)
            first = (self._scraper, self._recorder, self._hang_detector)
            for closing in (*first, self._executor, self._endpoints, self._control):
                rest.push_async_callback(closing.close)

    async def _open_endpoints(self, status: int | None) -> None:
        """Open the status address, on an inherited listener if there is one, and the control socket."""
        if self._settings.status_port:
            await self._endpoints.open_status(self._settings.status_host, self._settings.status_port, status)
        try:
            await self._control.open(self._directory.path)
        except MachineError as error:
            log_event(logging.WARNING, "control.unavailable", f"{error}; the agent accepts no commands")

    def _reap_orphans(self) -> None:
        if (why := become_reaper()) is not None:
            log_event(logging.WARNING, "orphans.elsewhere", f"cannot become subreaper: {why}; orphans are not reaped")
        self._reaper.start()

    async def _adopt(self) -> None:
        """Adopt the epochs of an earlier agent."""
        self._processes.served_since = self._state_file.served_since or self._processes.served_since
        adoption = self._parts.adoption(
            self._settings.kind, self._state_file, self._directory, self._revisions, self._shared_counters
        )
        for found, loaded in adoption.epochs():
            try:
                await self._processes.adopt(found, loaded)
            except (MachineError, OSError) as error:
                log_event(logging.WARNING, "epoch.not_adopted", f"epoch {found.number}: {error}")
                continue
            self._programs.adopt(loaded.program)
            event = on.EpochAdopted(
                at=clock.monotonic(),
                epoch=found.number,
                revision=loaded.revision,
                pid=found.pid,
                state=found.state,
                takes_pushes=self._processes.epochs[found.number].takes_pushes,
                is_torn=found.pushed is not None and found.pushed.is_torn,
            )
            self._take(event)
        adoption.remove_stale(frozenset(self._processes.epochs))

    # Signals

    def _signal_handlers(self) -> SignalHandlers:
        return SignalHandlers(
            stop=self._stop,
            restart=self._restart,
            leave=self._operations.leave,
            reopen_logs=self._reopen_logs,
            log_state=self._log_state,
        )

    def _stop(self, who: str, *, now: bool = False) -> None:
        """Drain and terminate; a second call, or one with `now`, ends the drain at once."""
        how = "without a drain" if now else "ending the drain" if self._core.stopping else "draining"
        log_event(logging.INFO, "agent.stopping", f"{who}: {how}")
        self._systemd.stopping()
        self._post(on.StopAsked(at=clock.monotonic(), now=now))

    def _restart(self, who: str) -> None:
        """Start a new epoch from the files on disk."""
        log_event(logging.INFO, "agent.restarting", f"{who}: a new epoch is requested")
        self._systemd.restarting()
        self._inputs.loader.forgive()
        self._inputs.reload_soon()
        self._post(on.RestartAsked(at=clock.monotonic()))

    def _reopen_logs(self) -> None:
        """Pass SIGUSR1 on to every epoch: proxies may log to files, the agent does not."""
        log_event(logging.INFO, "logs.reopened", "SIGUSR1: passed on to every epoch")
        for process in self._processes.epochs.values():
            process.link.reopen_logs()

    def _log_state(self) -> None:
        log_event(logging.INFO, "agent.state", self._summary.sentence(), None, **self._state_file.last)

    # The loop

    async def _turn(self) -> int:
        while True:
            event = await self._next_event()
            if self._operations.leaves:
                return self._leave()
            try:
                finish = self._take(event)
            except Exception as error:  # noqa: BLE001  # a bug: log it with its traceback, and keep serving
                text = f"{type(event).__name__} was not processed: please report this"
                log_event(logging.ERROR, "bug", text, error=error)
                continue
            if finish is not None:
                level = logging.ERROR if finish.code else logging.INFO
                log_event(level, "agent.gone", finish.reason, code=finish.code)
                if finish.code:
                    self._termination_log.leave(finish.reason)
                return finish.code

    def _leave(self) -> int:
        """Exit and keep the epochs running; pass the listening sockets on if executing a successor."""
        if not self._operations.executes:
            return 0
        self._systemd.executing()
        pass_on_exec({**self._processes.listeners.bequest(), **self._endpoints.bequest()})
        return EXECUTE

    def _take(self, event: Event) -> do.Finish | None:
        """Let the reconciler handle one event, and execute its effects."""
        if isinstance(event, on.RevisionReady) and event.revision != self._inputs.loader.newest:
            return None  # its files may be closed; an event for the newer revision follows
        self._log_end(event)
        effects = self._core.handle(event)
        self._recorder.enter(event, effects, stopping=self._core.stopping)
        for effect in effects:
            if isinstance(effect, do.Finish):
                self._record()
                return effect
            self._executor.execute(effect)
        if isinstance(event, on.EpochExited):
            self._processes.cleanup(event.epoch)
            self._scraper.retire(event.epoch)
            self._hang_detector.follow()
        self._record()
        self._forget_unused()
        return None

    def _log_end(self, event: Event) -> None:
        """Log the exit of an epoch that was ending; effects log any other exit."""
        if not isinstance(event, on.EpochExited):
            return
        epoch = self._core.epochs.get(event.epoch)
        if epoch is not None and epoch.state in _ENDING:
            log_event(logging.INFO, "epoch.gone", event.failure.reason, epoch=event.epoch)

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

    # Callbacks

    def _handed_over(self, process: EpochProcess) -> None:
        self._recorder.handed_over(process)
        self._hang_detector.follow()
        self._routes.changed()

    def _followed(self) -> None:
        self._hang_detector.follow()
        self._record()

    def _clock_stepped(self) -> None:
        log_event(logging.INFO, "clock.stepped", "the clock was set: schedules and expiry dates are recomputed")
        self._executor.clock_stepped()

    def _hangs(self, hangs: bool, text: str) -> None:
        level, event = (logging.ERROR, "service.hung") if hangs else (logging.INFO, "service.answers")
        log_event(level, event, text)
        self._record()

    def _replace(self, why: str) -> None:
        log_event(logging.ERROR, "service.replaced", f"{why}: a new epoch replaces it")
        self._post(on.RestartAsked(at=clock.monotonic(), now=True, trigger=Trigger.HUNG))

    # Records

    def _record(self) -> None:
        self._write_state()
        self._systemd.tell()
        reason = self._summary.why_not_ready()
        self._operations.note_readiness(reason)
        if not self._core.stopping:
            self._termination_log.leave(reason or "; ".join(self._summary.complaints()))
        self._status_builder.note()
        self._routes.changed()

    def _write_state(self) -> None:
        """Write the state file; after a failed write, retry unless another write comes first."""
        processes = self._processes
        self._state_file.write(self._core, processes.epochs.values(), processes.served_since, processes.segments)
        if self._rewriting is not None:
            self._rewriting.cancel()
        self._rewriting = None
        if self._state_file.behind:
            self._rewriting = asyncio.get_running_loop().call_later(_WRITE_AGAIN, self._write_state)

    def _forget_unused(self) -> None:
        """Close the programs and the revisions' files that are no longer used."""
        desired = self._core.desired
        used = {epoch.revision for epoch in self._core.epochs.values()}
        used |= {epoch.pushing for epoch in self._core.epochs.values() if epoch.pushing is not None}
        used |= {each for each in (desired.wanted, desired.last_good, self._inputs.loader.newest) if each is not None}
        used |= {process.loaded.revision for process in self._processes.epochs.values()}
        self._revisions.keep_only(used)
        self._programs.forget_unused({self._revisions[each].program.binary.descriptor for each in used})


def _log_operation(text: str) -> None:
    log_event(logging.INFO, "control.asked", text)
