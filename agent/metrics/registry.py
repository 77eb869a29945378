"""The agent's own metrics: counted events, and gauges from the status at each scrape.

Labels have closed sets of values, except for the names of certificate groups and the addresses of listeners, which are
as many as are configured.
"""

import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.core.attempts import AttemptResult
from agent.core.triggers import Trigger
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

_Values = dict[tuple[str, ...], float]  # keyed by label values


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
        # They double the series, for a time that process_start_time_seconds already shows.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotations
        self._overview = overview
        self._registry = registry = CollectorRegistry()
        self._counts = _Counts(registry)
        self._gauges = _Gauges()
        registry.register(self._gauges)
        ProcessCollector(namespace=PREFIX if beside_application else "", registry=registry)

    def families(self) -> Iterator[Family]:
        """Yield all metric families, as of now."""
        shown = self._gauges.shown = self._overview()
        for metric in self._registry.collect():
            yield _family(metric)
        yield from _certificates(shown.certificates)

    def expose(self, *, openmetrics: bool) -> bytes:
        """Return all metrics as text, as OpenMetrics or in the older Prometheus format."""
        return b"".join(format_families(self.families(), openmetrics=openmetrics))

    # Events

    def attempt_ended(self, attempt: AttemptView) -> None:
        """Count a finished attempt and its finished phases; `phase_ended` counts the drain."""
        outcome = _known(attempt.outcome, OUTCOMES)
        self._counts.rotations.labels(_known(attempt.trigger, TRIGGERS), outcome).inc()
        phases = [phase for phase in attempt.phases if phase.name != "drain"]
        for phase in phases:
            self.phase_ended(phase.name, phase.seconds)
        if outcome in _FAILURES:
            self._counts.failures.labels(_failed_in(phases[-1].name if phases else ""), outcome).inc()
        if outcome == AttemptResult.SERVING:
            self._gauges.last_success = attempt.served_at

    def push_ended(self, push: AttemptView) -> None:
        """Count a finished push, and how long it took until it was verified."""
        result = _PUSH_RESULTS.get(push.outcome, PushResult.FAILED)
        self._counts.pushes.labels(result.value).inc()
        if result is PushResult.SERVED:
            self._counts.push_seconds.observe(sum(phase.seconds for phase in push.phases))
            self._gauges.last_success = push.served_at

    def phase_ended(self, phase: str, seconds: float) -> None:
        """Record the duration of a finished phase."""
        self._counts.phases.labels(_known(phase, PHASES)).observe(seconds)

    def epoch_exited(self, state: str, cause: Exit) -> None:
        """Count the exit of a proxy that was in this state: candidate, serving or draining."""
        self._counts.exits.labels(_known(state, STATES), cause.value).inc()

    def connections_closed(self, cause: Cut, count: int) -> None:
        """Count connections that were cut."""
        self._counts.cut.labels(cause.value).inc(count)

    def held(self, seconds: float) -> None:
        """Add time during which nothing served and clients were queued in the socket store."""
        self._counts.hold.inc(seconds)

    def overflowed(self, count: int) -> None:
        """Count clients that the kernel rejected since the last call because a queue was full."""
        self._counts.overflows.inc(count)

    def scrape_failed(self, source: Source) -> None:
        """Count a source that did not answer in time or of which some data was unusable."""
        self._counts.scrapes.labels(source.value).inc()

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

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=registry)

        self.rotations = counter("rotations", "Completed attempts at a new epoch.", "trigger", "outcome")
        self.failures = counter("rotation_failures", "Failed attempts, by phase and reason.", "phase", "reason")
        text = "Duration of each phase of an attempt."
        self.phases = histogram("rotation_phase_duration_seconds", text, _PHASE_BUCKETS, "phase")
        self.pushes = counter("pushes", "Pushes of certificates into a running epoch.", "result")
        text = "Time until a push was applied and verified."
        self.push_seconds = histogram("push_duration_seconds", text, _PUSH_BUCKETS)
        self.exits = counter("proxy_exits", "Proxies that exited.", "state", "cause")
        self.cut = counter("connections_closed", "Connections that were cut before their end.", "cause")
        self.hold = counter("hold_seconds", "Time in which no epoch served and clients waited.")
        self.overflows = counter("listener_overflows", "Clients rejected by the kernel: the accept queue was full.")
        self.scrapes = counter("scrape_failures", "Sources missing from a scrape, wholly or partly.", "source")
        self.lag = histogram("event_loop_lag_seconds", "Delay of due timers in the agent's event loop.", _LAG_BUCKETS)
        self._begin()

    def _begin(self) -> None:
        for trigger in TRIGGERS:
            for outcome in OUTCOMES:
                self.rotations.labels(trigger, outcome)
        for phase in PHASES:
            self.phases.labels(phase)
            for reason in _FAILURES:
                self.failures.labels(phase, reason)
        for result in PushResult:
            self.pushes.labels(result.value)
        for state in STATES:
            for cause in Exit:
                self.exits.labels(state, cause.value)
        for cut in Cut:
            self.cut.labels(cut.value)
        for source in Source:
            self.scrapes.labels(source.value)


class _Gauges(Collector):
    """Gauges derived from a status, the one in `shown`."""

    def __init__(self) -> None:
        self.shown: Status | None = None
        self.last_success: datetime | None = None

    def describe(self) -> list[Metric]:
        """Return nothing: otherwise the registry would collect before there is a status."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of the status."""
        if (overview := self.shown) is None:
            return
        yield from _agent(overview)
        yield from _epochs(overview)
        if (last := self.last_success or _last_success(overview)) is not None:
            text = "Time of the last attempt that served."
            yield _gauge("last_rotation_success_timestamp_seconds", text, last.timestamp())
        yield from _synchrony(overview)
        yield _listeners(overview)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value)


def _labelled(name: str, text: str, labels: tuple[str, ...], values: _Values) -> Metric:
    metric = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for each, value in values.items():
        metric.add_metric(each, value)
    return metric


def _agent(overview: Status) -> Iterator[Metric]:
    build: _Values = {(overview.version, platform.python_version()): 1.0}
    yield _labelled("build_info", "The agent's version, and its Python's.", ("version", "python"), build)
    yield _gauge("ready", "Whether an epoch serves and the agent is not draining.", overview.ready)
    watches: _Values = {(mode,): float(overview.watch == mode) for mode in WATCHES}
    yield _labelled("watch_mode", "How files are watched.", ("mode",), watches)


def _epochs(overview: Status) -> Iterator[Metric]:
    yield _gauge("epoch", "Number of the serving epoch, 0 if none serves.", overview.epoch or 0)
    tally = Tally(epoch.state for epoch in overview.epochs)
    counts: _Values = {(state,): float(tally[state]) for state in STATES}
    yield _labelled("epochs", "Running epochs.", ("state",), counts)
    memory: _Values = dict.fromkeys(counts, 0.0)
    for epoch in overview.epochs:
        memory[epoch.state,] = memory.get((epoch.state,), 0.0) + (epoch.memory or 0)
    yield _labelled("proxy_resident_memory_bytes", "Resident memory of the epochs.", ("state",), memory)
    yield _gauge("proxy_hung", "Whether the serving proxy hangs.", overview.hung)


def _synchrony(overview: Status) -> Iterator[Metric]:
    since = overview.out_of_sync_since
    text = "Time since which the files on disk differ from the served ones; 0 while they do not."
    yield _gauge("out_of_sync_since_timestamp_seconds", text, 0 if since is None else since.timestamp())
    blocked: _Values = {(reason.value,): float(reason in overview.blocked) for reason in Blocked}
    yield _labelled("rotation_blocked", "Reasons why the files on disk are not served yet.", ("reason",), blocked)
    refused: _Values = {("", reason): 0.0 for reason in _UNNAMED}
    for each in overview.refused:
        key = (each.set or "", each.reason)
        refused[key] = refused.get(key, 0.0) + 1
    yield _labelled("files_refused", "Files on disk that are refused.", ("set", "reason"), refused)


def _certificates(sets: tuple[CertificateSet, ...]) -> tuple[Family, Family, Family]:
    """Return the certificate families without the library: thirty times as fast for thousands."""
    text = "Start of a certificate's validity."
    begins = Family(f"{PREFIX}_certificate_not_before_timestamp_seconds", Kind.GAUGE, text)
    text = "Expiry of a certificate; of a bundle, of the first authority that expires."
    ends = Family(f"{PREFIX}_certificate_not_after_timestamp_seconds", Kind.GAUGE, text)
    text = "Whether the certificate on disk is the served one."
    in_sync = Family(f"{PREFIX}_certificate_in_sync", Kind.GAUGE, text)
    for each in sets:
        name = _escaped(each.name)
        for source, leaf in (("disk", each.disk), ("served", each.served)):
            if leaf is not None:
                labels = f'{{role="leaf",set="{name}",source="{source}"}}'
                begins.samples[begins.name + labels] = leaf.not_before.timestamp()
                ends.samples[ends.name + labels] = leaf.not_after.timestamp()
        if bundles := [bundle.not_after.timestamp() for bundle in each.bundles if bundle.not_after is not None]:
            ends.samples[f'{ends.name}{{role="authorities",set="{name}",source="served"}}'] = min(bundles)
        in_sync.samples[f'{in_sync.name}{{set="{name}"}}'] = int(each.in_sync)
    return begins, ends, in_sync


def _family(metric: Metric) -> Family:
    """Return the library's metric as a family; a counter's has the name of its samples."""
    kind = Kind(metric.type)
    name = f"{metric.name}_total" if kind is Kind.COUNTER else metric.name
    family = Family(name, kind, metric.documentation.replace("\\", "\\\\").replace("\n", "\\n"))
    for sample in metric.samples:
        labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(sample.labels.items()))
        family.samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = float(sample.value)
    return family


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _listeners(overview: Status) -> Metric:
    queues: _Values = {}
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
