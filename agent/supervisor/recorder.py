"""Records events and effects: history with evidence, a log line per rotation, and metrics."""

import logging
from collections.abc import Iterable

from agent.core import effects as do
from agent.core import events as on
from agent.core.attempts import AttemptResult
from agent.core.effects import Effect, LogTopic
from agent.core.epochs import State
from agent.core.errors import MachineError
from agent.core.events import Event
from agent.host import clock, listen_counters
from agent.host.log import log_event
from agent.host.processes import describe_exit
from agent.host.tasks import Tasks
from agent.metrics.registry import Cut, Metrics
from agent.processes.draining import connections_left
from agent.processes.epoch_process import EpochProcess
from agent.processes.process_table import ProcessTable
from agent.processes.verify_served import verify_served
from agent.status.model import AttemptView, End, Evidence, Exit, ProbeResult, to_json
from agent.supervisor.history import History

_SERIAL = 12  # digits of a serial in a log line
_SHOWN_CHANGES = 3  # changed certificates in a log line


class Recorder:
    """Records every event. `proves`: verify with a TLS client what each new epoch serves."""

    def __init__(self, history: History, processes: ProcessTable, metrics: Metrics, *, proves: bool) -> None:
        self._history = history
        self._processes = processes
        self._metrics = metrics
        self._proves = proves
        self._tasks = Tasks()
        self._held_since: float | None = None
        self._queued = 0  # clients queued when the last gate opened
        self._counters = listen_counters.read()

    async def close(self) -> None:
        """Cancel the running verifications."""
        await self._tasks.close()

    def enter(self, event: Event, effects: Iterable[Effect], *, stopping: bool) -> None:
        """Record an event and its effects before these are executed."""
        effects = list(effects)
        for attempt in self._history.enter(event, effects):
            if attempt.push:
                self._pushed(attempt)
            elif attempt.outcome != AttemptResult.SERVING.value:
                self._metrics.attempt_ended(attempt)
        if isinstance(event, on.EpochExited):
            self._exited(event)
        for effect in effects:
            self._see(effect, event, stopping=stopping)

    def _see(self, effect: Effect, event: Event, *, stopping: bool) -> None:
        match effect:
            case do.LogMessage(topic=LogTopic.DRAIN_CUT, epoch=int(epoch)):
                self._cut(epoch, Cut.STOP_DEADLINE if stopping else Cut.DRAIN_DEADLINE)
            case do.EndEpoch() if isinstance(event, on.EpochServes):
                self._cut(effect.epoch, Cut.RESTART_NOW)
            case do.EndEpoch() if isinstance(event, on.StopAsked):
                self._cut(effect.epoch, Cut.STOP_HURRIED)
            case do.LogMessage(topic=LogTopic.DOWN | LogTopic.REPLACED):
                self._held_since = event.at
            case do.RefuseClients():
                self._held_until(event.at)
            case do.OpenGate():
                store = self._processes.listeners.store
                self._queued = sum(map(store.queued, store.places()))
            case do.CommitEpoch():
                self._held_until(event.at)
                self._history.committed(effect.epoch, self._queued)
            case _:
                pass

    def _pushed(self, view: AttemptView) -> None:
        self._metrics.push_ended(view)
        if view.outcome == AttemptResult.SERVING.value:
            text = _line(view, f"epoch {view.epoch} serves push {view.push}")
            log_event(logging.INFO, "certificate.pushed", text, stated=_facts(view), epoch=view.epoch)

    def _held_until(self, at: float) -> None:
        if self._held_since is not None:
            self._metrics.held(at - self._held_since)
        self._held_since = None

    # Exits

    def _cut(self, number: int, cause: Cut) -> None:
        process = self._processes.epochs.get(number)
        left = None
        if process is not None:
            counted = connections_left(process)
            left = process.clients = process.clients if counted is None else counted
        self._history.cut(number, left)
        self._metrics.connections_closed(cause, left or 0)

    def _exited(self, event: on.EpochExited) -> None:
        process = self._processes.epochs.get(event.epoch)
        if process is None or process.pid is None:
            return
        state, cause = self._state(process), _cause(process, event)
        self._metrics.epoch_exited(state, cause)
        if process.has_served:
            self._history.exited(event.epoch, self._end(process, event, state, cause))
        if (seconds := self._history.drained(event.epoch)) is not None:
            self._metrics.phase_ended("drain", seconds)

    def _end(self, process: EpochProcess, event: on.EpochExited, state: str, cause: Exit) -> End:
        view = self._history.view(process.number)
        now = clock.calendar()
        served = 0.0 if view is None else (now - view.served_at).total_seconds()
        return End(now, cause.value, describe_exit(event.code), round(max(0.0, served), 3), state)

    def _state(self, process: EpochProcess) -> str:
        """Return its state before its shutdown began."""
        if not process.has_served:
            return State.STARTING.word
        return (State.DRAINING if process.drains else State.SERVING).word

    # A rotation

    def handed_over(self, process: EpochProcess) -> None:
        """Record that an epoch took over from its predecessor, and start verifying what it serves."""
        self._history.handed_over(process.number)
        if (view := self._history.view(process.number)) is not None:
            self._metrics.attempt_ended(view)
        self._tasks.spawn(self._conclude(process), f"check of certificates of {process.number}")

    async def _conclude(self, process: EpochProcess) -> None:
        seen: tuple[ProbeResult, ...] = ()
        if self._proves:
            try:
                named = [each.place for each in process.loaded.configuration.listeners]
                seen = await verify_served(process.admin, process.loaded.selection.served_leaves, named)
            except MachineError as error:
                log_event(logging.DEBUG, "rotation.unproved", str(error))
        self._history.proved(process.number, seen)
        view = self._history.view(process.number)
        if view is not None:
            level = logging.INFO if all(each.matches for each in seen) else logging.WARNING
            text = _line(view, f"epoch {view.epoch} took over")
            log_event(level, "rotation.done", text, stated=_facts(view), epoch=process.number)

    # Kernel counters

    def count_overflows(self) -> None:
        """Add the listen-queue overflows since the last call to the metrics."""
        now = listen_counters.read()
        if now is not None and self._counters is not None:
            self._metrics.overflowed((now - self._counters).overflows)
        self._counters = now


def _cause(process: EpochProcess, event: on.EpochExited) -> Exit:
    if process.was_killed:
        return Exit.KILLED
    if process.was_starved:
        return Exit.MEMORY
    if process.was_asked or (process.drains and event.code == 0):  # some proxies exit when their drain is complete
        return Exit.ASKED
    return Exit.SIGNAL if event.code is not None and event.code < 0 else Exit.CODE


def _line(view: AttemptView, what: str) -> str:
    """Return a rotation or a push as one log line, which begins with `what`."""
    changes = [f"{each.set} {_short(each.before)} -> {_short(each.after)}" for each in view.changes]
    if (hidden := len(changes) - _SHOWN_CHANGES) > 1:  # all of them are attributes
        changes[_SHOWN_CHANGES:] = [f"and {hidden} more"]
    phases = [f"{each.name} {each.seconds:.3f}" for each in view.phases]
    told = [f"by {view.trigger}", *changes, ", ".join(phases), *_evidence(view.evidence)]
    total = _duration(view)
    return f"{what} after {total:.3f} s ({'; '.join(told)})"


def _duration(view: AttemptView) -> float:
    """Return how long a rotation took until the predecessor stopped accepting, in seconds."""
    return sum(each.seconds for each in view.phases if each.name != "drain")


def _facts(view: AttemptView) -> dict[str, object]:
    """Return a rotation as attributes of its log event."""
    evidence = {} if view.evidence is None else to_json(view.evidence)
    return {
        "trigger": view.trigger,
        "revision": view.revision,
        "duration": round(_duration(view), 6),
        "phases": {each.name: each.seconds for each in view.phases},
        "changes": to_json(view.changes),
        "since_change": None if view.reaction is None else round(view.reaction, 3),
        **evidence,
    }


def _short(serial: str | None) -> str:
    return "none" if serial is None else serial[:_SERIAL]


def _evidence(evidence: Evidence | None) -> list[str]:
    if evidence is None:
        return []
    lost = f", {evidence.drops} lost by the kernel" if evidence.drops else ""
    told = [f"{evidence.queued} clients waited{lost}"]
    right = sum(each.matches for each in evidence.seen)
    if evidence.seen:
        told.append(f"verified at {right} of {len(evidence.seen)} listeners")
    wrong = [f"{each.address}: {each.error or f'serial {each.serial}'}" for each in evidence.seen if not each.matches]
    return [*told, *wrong]
