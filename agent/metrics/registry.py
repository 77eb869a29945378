"""The agent's own metrics: counted events, and gauges from the status at each scrape.

Labels have closed sets of values, except for the names of certificate groups and the addresses of listeners, which are
as many as are configured.
"""

import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import StrEnum

from agent.core.attempts import AttemptResult
from agent.core.triggers import Trigger
from agent.host.own_process import own_use
from agent.metrics.instruments import Counter, Histogram, Values, escaped, labelled, single
from agent.metrics.parser import Family, Kind
from agent.metrics.writer import format_families
from agent.status.model import AttemptView, Blocked, CertificateSet, Exit, Status

PREFIX = "proxy_agent"

TRIGGERS = tuple(trigger.value for trigger in Trigger)
OUTCOMES = tuple(outcome.value for outcome in AttemptResult if outcome is not AttemptResult.RUNNING)
PHASES = ("launch", "start", "judge", "open", "handover", "drain")
STATES = ("candidate", "serving", "draining")
WATCHES = ("inotify", "polling")
OTHER = "other"
"""The label value for a word outside these sets."""

_FAILURES = (AttemptResult.REFUSED.value, AttemptResult.FAILED.value, AttemptResult.SHORT.value)
_UNNAMED = ("configuration", "program", "proxy")  # reasons of rejections that concern no certificate
_PHASE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
_PUSH_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Cut(StrEnum):
    """Why open connections were closed."""

    DRAIN_DEADLINE = "drain_deadline"
    STOP_DEADLINE = "stop_deadline"
    RESTART_NOW = "restart_now"
    STOP_HURRIED = "stop_hurried"


class Source(StrEnum):
    """The sources that are scraped."""

    EPOCH = "epoch"
    APPLICATION = "application"


class Metrics:
    """Counts events and renders all metrics of the agent; calls `overview` at each scrape.

    `beside_application`: the output includes an application's metrics. Its `process_…` metrics keep their names, and
    the agent's own are named `proxy_agent_process_…`.
    """

    def __init__(self, overview: Callable[[], Status], *, beside_application: bool = False) -> None:
        self._overview = overview
        self._counts = _Counts()
        self._last_success: datetime | None = None
        self._process = f"{PREFIX}_process" if beside_application else "process"

    def families(self) -> Iterator[Family]:
        """Yield all metric families, as of now."""
        shown = self._overview()
        yield from self._counts.families()
        yield from _status(shown, self._last_success or _last_success(shown))
        yield from process_families(self._process)
        yield from certificate_families(shown.certificates)

    def expose(self, *, openmetrics: bool) -> bytes:
        """Return all metrics as text, as OpenMetrics or in the older Prometheus format."""
        return b"".join(format_families(self.families(), openmetrics=openmetrics))

    # Events

    def attempt_ended(self, attempt: AttemptView) -> None:
        """Count a finished attempt and its finished phases; `phase_ended` counts the drain."""
        outcome = _known(attempt.outcome, OUTCOMES)
        self._counts.rotations.add(_known(attempt.trigger, TRIGGERS), outcome)
        phases = [phase for phase in attempt.phases if phase.name != "drain"]
        for phase in phases:
            self.phase_ended(phase.name, phase.seconds)
        if outcome in _FAILURES:
            self._counts.failures.add(_failed_in(phases[-1].name if phases else ""), outcome)
        if outcome == AttemptResult.SERVING:
            self._last_success = attempt.served_at

    def push_ended(self, push: AttemptView) -> None:
        """Count a finished push, and how long it took until it was verified."""
        result = _PUSH_RESULTS.get(push.outcome, PushResult.FAILED)
        self._counts.pushes.add(result.value)
        if result is PushResult.SERVED:
            self._counts.push_seconds.observe(sum(phase.seconds for phase in push.phases))
            self._last_success = push.served_at

    def phase_ended(self, phase: str, seconds: float) -> None:
        """Record the duration of a finished phase."""
        self._counts.phases.observe(seconds, _known(phase, PHASES))

    def epoch_exited(self, state: str, cause: Exit) -> None:
        """Count the exit of a proxy that was in this state: candidate, serving or draining."""
        self._counts.exits.add(_known(state, STATES), cause.value)

    def connections_closed(self, cause: Cut, count: int) -> None:
        """Count connections that were cut."""
        self._counts.cut.add(cause.value, count=count)

    def held(self, seconds: float) -> None:
        """Add time during which nothing served and clients were queued in the socket store."""
        self._counts.hold.add(count=seconds)

    def overflowed(self, count: int) -> None:
        """Count clients that the kernel rejected since the last call because a queue was full."""
        self._counts.overflows.add(count=count)

    def scrape_failed(self, source: Source) -> None:
        """Count a source that did not answer in time or of which some data was unusable."""
        self._counts.scrapes.add(source.value)

    def lagged(self, seconds: float) -> None:
        """Record how late the event loop ran."""
        self._counts.lag.observe(seconds)


class PushResult(StrEnum):
    """How a push ended, as a metric label."""

    SERVED = "served"
    REFUSED = "refused"
    FAILED = "failed"


_PUSH_RESULTS = {
    AttemptResult.SERVING.value: PushResult.SERVED,
    AttemptResult.REFUSED.value: PushResult.REFUSED,
}


class _Counts:
    """The counters and histograms; every possible series exists from the start, at 0."""

    def __init__(self) -> None:
        self.rotations = _counter("rotations", "Completed attempts at a new epoch.", "trigger", "outcome")
        self.failures = _counter("rotation_failures", "Failed attempts, by phase and reason.", "phase", "reason")
        text = "Duration of each phase of an attempt."
        self.phases = _histogram("rotation_phase_duration_seconds", text, _PHASE_BUCKETS, "phase")
        self.pushes = _counter("pushes", "Pushes of certificates into a running epoch.", "result")
        text = "Time until a push was applied and verified."
        self.push_seconds = _histogram("push_duration_seconds", text, _PUSH_BUCKETS)
        self.exits = _counter("proxy_exits", "Proxies that exited.", "state", "cause")
        self.cut = _counter("connections_closed", "Connections that were cut before their end.", "cause")
        self.hold = _counter("hold_seconds", "Time in which no epoch served and clients waited.")
        self.overflows = _counter("listener_overflows", "Clients rejected by the kernel: the accept queue was full.")
        self.scrapes = _counter("scrape_failures", "Sources missing from a scrape, wholly or partly.", "source")
        self.lag = _histogram("event_loop_lag_seconds", "Delay of due timers in the agent's event loop.", _LAG_BUCKETS)
        self._begin()

    def families(self) -> Iterator[Family]:
        """Yield each of them."""
        for each in (
            self.rotations,
            self.failures,
            self.phases,
            self.pushes,
            self.push_seconds,
            self.exits,
            self.cut,
            self.hold,
            self.overflows,
            self.scrapes,
            self.lag,
        ):
            yield each.family()

    def _begin(self) -> None:
        for trigger in TRIGGERS:
            for outcome in OUTCOMES:
                self.rotations.begin(trigger, outcome)
        for phase in PHASES:
            self.phases.begin(phase)
            for reason in _FAILURES:
                self.failures.begin(phase, reason)
        for result in PushResult:
            self.pushes.begin(result.value)
        for state in STATES:
            for cause in Exit:
                self.exits.begin(state, cause.value)
        for cut in Cut:
            self.cut.begin(cut.value)
        for source in Source:
            self.scrapes.begin(source.value)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"{PREFIX}_{name}_total", text, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"{PREFIX}_{name}", text, labels, buckets)


def _status(overview: Status, last_success: datetime | None) -> Iterator[Family]:
    """Yield the gauges derived from a status, but for those of certificates."""
    yield from _agent(overview)
    yield from _epochs(overview)
    if last_success is not None:
        text = "Time of the last attempt that served."
        yield _gauge("last_rotation_success_timestamp_seconds", text, last_success.timestamp())
    yield from _synchrony(overview)
    yield _listeners(overview)


def _gauge(name: str, text: str, value: float) -> Family:
    return single(f"{PREFIX}_{name}", Kind.GAUGE, text, value)


def _labelled(name: str, text: str, labels: tuple[str, ...], values: Values) -> Family:
    return labelled(f"{PREFIX}_{name}", Kind.GAUGE, text, labels, values)


def process_families(prefix: str) -> Iterator[Family]:
    """Yield the standard metrics of a process, for the agent's own."""
    if (use := own_use()) is None:
        return

    def gauge(name: str, text: str, value: float) -> Family:
        return single(f"{prefix}_{name}", Kind.GAUGE, text, value)

    yield gauge("virtual_memory_bytes", "Virtual memory size in bytes.", use.virtual)
    yield gauge("resident_memory_bytes", "Resident memory size in bytes.", use.resident)
    yield gauge("start_time_seconds", "Start time of the process since unix epoch in seconds.", use.started_at)
    text = "Total user and system CPU time spent in seconds."
    yield single(f"{prefix}_cpu_seconds_total", Kind.COUNTER, text, use.processor)
    yield gauge("open_fds", "Number of open file descriptors.", use.descriptors)
    yield gauge("max_fds", "Maximum number of open file descriptors.", use.descriptor_limit)


def _agent(overview: Status) -> Iterator[Family]:
    build: Values = {(overview.version, sys.version.split()[0]): 1.0}
    yield _labelled("build_info", "The agent's version, and its Python's.", ("version", "python"), build)
    yield _gauge("ready", "Whether an epoch serves and the agent is not draining.", overview.ready)
    watches: Values = {(mode,): float(overview.watch == mode) for mode in WATCHES}
    yield _labelled("watch_mode", "How files are watched.", ("mode",), watches)


def _epochs(overview: Status) -> Iterator[Family]:
    yield _gauge("epoch", "Number of the serving epoch, 0 if none serves.", overview.epoch or 0)
    tally = Tally(epoch.state for epoch in overview.epochs)
    counts: Values = {(state,): float(tally[state]) for state in STATES}
    yield _labelled("epochs", "Running epochs.", ("state",), counts)
    memory: Values = dict.fromkeys(counts, 0.0)
    for epoch in overview.epochs:
        memory[epoch.state,] = memory.get((epoch.state,), 0.0) + (epoch.memory or 0)
    yield _labelled("proxy_resident_memory_bytes", "Resident memory of the epochs.", ("state",), memory)
    yield _gauge("proxy_hung", "Whether the serving proxy hangs.", overview.hung)


def _synchrony(overview: Status) -> Iterator[Family]:
    since = overview.out_of_sync_since
    text = "Time since which the files on disk differ from the served ones; 0 while they do not."
    yield _gauge("out_of_sync_since_timestamp_seconds", text, 0 if since is None else since.timestamp())
    blocked: Values = {(reason.value,): float(reason in overview.blocked) for reason in Blocked}
    yield _labelled("rotation_blocked", "Reasons why the files on disk are not served yet.", ("reason",), blocked)
    refused: Values = {("", reason): 0.0 for reason in _UNNAMED}
    for each in overview.refused:
        key = (each.set or "", each.reason)
        refused[key] = refused.get(key, 0.0) + 1
    yield _labelled("files_refused", "Files on disk that are refused.", ("set", "reason"), refused)


def certificate_families(sets: tuple[CertificateSet, ...]) -> tuple[Family, Family, Family]:
    """Return the certificate families; a proxy may have thousands of certificates."""
    text = "Start of a certificate's validity."
    begins = Family(f"{PREFIX}_certificate_not_before_timestamp_seconds", Kind.GAUGE, text)
    text = "Expiry of a certificate; of a bundle, of the first authority that expires."
    ends = Family(f"{PREFIX}_certificate_not_after_timestamp_seconds", Kind.GAUGE, text)
    text = "Whether the certificate on disk is the served one."
    in_sync = Family(f"{PREFIX}_certificate_in_sync", Kind.GAUGE, text)
    for each in sets:
        name = escaped(each.name)
        for source, leaf in (("disk", each.disk), ("served", each.served)):
            if leaf is not None:
                labels = f'{{role="leaf",set="{name}",source="{source}"}}'
                begins.samples[begins.name + labels] = leaf.not_before.timestamp()
                ends.samples[ends.name + labels] = leaf.not_after.timestamp()
        if bundles := [bundle.not_after.timestamp() for bundle in each.bundles if bundle.not_after is not None]:
            ends.samples[f'{ends.name}{{role="authorities",set="{name}",source="served"}}'] = min(bundles)
        in_sync.samples[f'{in_sync.name}{{set="{name}"}}'] = int(each.in_sync)
    return begins, ends, in_sync


def _listeners(overview: Status) -> Family:
    queues: Values = {}
    for listener in overview.listeners:
        if listener.queue is not None:
            key = (_address(listener.address),)
            queues[key] = queues.get(key, 0.0) + listener.queue
    return _labelled("listener_queue_length", "Clients waiting in the accept queue.", ("address",), queues)


def _address(address: str) -> str:
    """Return a listener's address as a label; paths are not allowed as labels."""
    return "unix" if address.startswith("unix:") else address


def _last_success(overview: Status) -> datetime | None:
    """Return the last success in the attempt history, which outlives an agent."""
    return next((each.served_at for each in overview.rotations if each.outcome == AttemptResult.SERVING), None)


def _failed_in(last: str) -> str:
    """Return the phase in which an attempt failed, from its last finished phase."""
    if last not in PHASES:
        return "launch"
    return PHASES[min(PHASES.index(last) + 1, len(PHASES) - 1)]


def _known(word: str, words: tuple[str, ...]) -> str:
    return word if word in words else OTHER
