import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from agent.metrics.registry import OTHER, Cut, Metrics, Source
from agent.status.model import AttemptView, Blocked, Exit, ListenerView, Phase, RejectedFile, Status
from tests.status.sample import NOW, ago, overview

Tell = Callable[[Metrics], None]


def told(metrics: Metrics) -> dict[str, float]:
    """Return every sample by its formatted series, with sorted labels."""
    found = {}
    for family in text_families(metrics.expose(openmetrics=False).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[sample.name.removeprefix("proxy_agent_") + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def of(shown: Status) -> dict[str, float]:
    """Return the metrics of a status."""
    return told(Metrics(lambda: shown))


def attempt(outcome: str, *phases: str, trigger: str = "certificate") -> AttemptView:
    """Return a completed attempt, with phases of two seconds each."""
    return AttemptView(7, trigger, outcome, "why", ago(60), "a", "b", phases=tuple(Phase(name, 2.0) for name in phases))


def test_both_formats_are_valid_and_contain_the_same_values() -> None:
    metrics = Metrics(overview)
    text = [family.name for family in text_families(metrics.expose(openmetrics=False).decode())]
    families = openmetrics_families(metrics.expose(openmetrics=True).decode())  # type: ignore[no-untyped-call]
    assert [family.name for family in families] == text


def test_all_metrics() -> None:
    names = {family.name for family in text_families(Metrics(overview).expose(openmetrics=False).decode())}
    ours = {name.removeprefix("proxy_agent_") for name in names if name.startswith("proxy_agent_")}
    assert ours == {
        "build_info", "ready", "epoch", "epochs", "pushes", "push_duration_seconds",
        "rotations", "rotation_failures", "rotation_phase_duration_seconds",
        "last_rotation_success_timestamp_seconds", "out_of_sync_since_timestamp_seconds", "rotation_blocked",
        "certificate_not_before_timestamp_seconds", "certificate_not_after_timestamp_seconds", "certificate_in_sync",
        "files_refused", "watch_mode",
        "listener_queue_length", "listener_overflows", "connections_closed", "proxy_exits", "hold_seconds",
        "proxy_resident_memory_bytes", "proxy_hung", "event_loop_lag_seconds", "scrape_failures",
    }  # fmt: skip
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= names


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        (
            "rotations_total",
            "trigger",
            {"start", "certificate", "configuration", "operator", "crash", "memory", "hung", "adoption"},
        ),
        ("rotations_total", "outcome", {"serving", "refused", "failed", "dropped", "short"}),
        ("rotation_failures_total", "phase", {"launch", "start", "judge", "open", "handover", "drain"}),
        ("rotation_failures_total", "reason", {"refused", "failed", "short"}),
        ("rotation_phase_duration_seconds_count", "phase", {"launch", "start", "judge", "open", "handover", "drain"}),
        ("proxy_exits_total", "state", {"candidate", "serving", "draining"}),
        ("proxy_exits_total", "cause", {"asked", "killed", "code", "signal", "memory"}),
        ("connections_closed_total", "cause", {"drain_deadline", "stop_deadline", "restart_now", "stop_hurried"}),
        ("scrape_failures_total", "source", {"epoch", "application"}),
        ("watch_mode", "mode", {"inotify", "polling"}),
        ("epochs", "state", {"candidate", "serving", "draining"}),
        ("proxy_resident_memory_bytes", "state", {"candidate", "serving", "draining"}),
        ("files_refused", "reason", {"configuration", "program", "proxy", "mismatch"}),
    ],
)
def test_each_value_of_a_label_is_a_series_from_the_start(name: str, label: str, values: set[str]) -> None:
    families = text_families(Metrics(overview).expose(openmetrics=False).decode())
    samples = [each for family in families for each in family.samples if each.name == f"proxy_agent_{name}"]
    assert {sample.labels[label] for sample in samples} == values


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        (
            "rotation_phase_duration_seconds",
            [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900],
        ),
        ("event_loop_lag_seconds", [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5]),
    ],
)
def test_the_bounds_of_a_histogram_stay_since_sums_over_agents_need_equal_ones(name: str, bounds: list[float]) -> None:
    families = text_families(Metrics(overview).expose(openmetrics=False).decode())
    buckets = {
        each.labels["le"]: None
        for family in families
        for each in family.samples
        if each.name == f"proxy_agent_{name}_bucket"
    }
    assert [float(bound) for bound in buckets] == [*bounds, float("inf")]


def test_the_build_is_a_series_of_value_one_with_both_versions() -> None:
    assert of(overview())[f"build_info{{python={platform.python_version()},version=0.1.0}}"] == 1


def test_no_label_names_an_epoch_a_process_a_serial_or_a_path() -> None:
    text = Metrics(overview).expose(openmetrics=False).decode()
    labels = {name: value for family in text_families(text) for s in family.samples for name, value in s.labels.items()}
    assert not labels.keys() & {"epoch", "pid", "serial", "path", "revision"}
    values = {value for family in text_families(text) for sample in family.samples for value in sample.labels.values()}
    assert not [value for value in values if "/run" in value or "/etc" in value or "1f02" in value]


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ("ready", 1),
        ("epoch", 7),
        ("epochs{state=candidate}", 1),
        ("epochs{state=serving}", 1),
        ("epochs{state=draining}", 2),
        ("proxy_resident_memory_bytes{state=draining}", 45 << 20),
        ("proxy_resident_memory_bytes{state=candidate}", 0),
        ("proxy_hung", 0),
        ("watch_mode{mode=inotify}", 1),
        ("watch_mode{mode=polling}", 0),
        ("out_of_sync_since_timestamp_seconds", ago(30).timestamp()),
        ("rotation_blocked{reason=refused_files}", 1),
        ("rotation_blocked{reason=drains}", 0),
        ("files_refused{reason=mismatch,set=api}", 1),
        ("files_refused{reason=proxy,set=}", 0),
        ("certificate_in_sync{set=web}", 1),
        ("certificate_in_sync{set=api}", 0),
        (
            "certificate_not_after_timestamp_seconds{role=leaf,set=api,source=served}",
            (NOW + timedelta(days=3)).timestamp(),
        ),
        (
            "certificate_not_before_timestamp_seconds{role=leaf,set=api,source=served}",
            (NOW - timedelta(days=87)).timestamp(),
        ),
        (
            "certificate_not_after_timestamp_seconds{role=leaf,set=api,source=disk}",
            (NOW + timedelta(days=90)).timestamp(),
        ),
        (
            "certificate_not_after_timestamp_seconds{role=authorities,set=web,source=served}",
            (NOW + timedelta(days=900)).timestamp(),
        ),
        ("listener_queue_length{address=tcp://0.0.0.0:15443}", 3),
        ("rotations_total{outcome=dropped,trigger=hung}", 0),
        ("rotation_failures_total{phase=launch,reason=refused}", 0),
        ("scrape_failures_total{source=application}", 0),
        ("connections_closed_total{cause=drain_deadline}", 0),
        ("proxy_exits_total{cause=memory,state=serving}", 0),
        ("hold_seconds_total", 0),
    ],
)
def test_an_overview_in_numbers(series: str, value: float) -> None:
    assert of(overview())[series] == value


def test_the_name_of_a_set_may_be_awkward() -> None:
    (web, _) = overview().certificates
    awkward = replace(overview(), certificates=(replace(web, name='a "b"\\ é\nc'),))
    assert of(awkward)['certificate_in_sync{set=a "b"\\ é\nc}'] == 1


def test_nothing_serves() -> None:
    found = of(replace(overview(), ready=False, epoch=None, hung=True, out_of_sync_since=None, rotations=()))
    assert (found["ready"], found["epoch"], found["proxy_hung"]) == (0, 0, 1)
    assert found["out_of_sync_since_timestamp_seconds"] == 0
    assert "last_rotation_success_timestamp_seconds" not in found


def test_each_way_to_be_blocked_is_a_series() -> None:
    found = of(replace(overview(), blocked=tuple(Blocked)))
    assert [found[f"rotation_blocked{{reason={reason.value}}}"] for reason in Blocked] == [1] * len(Blocked)


def test_a_socket_in_a_directory_is_labelled_without_its_path() -> None:
    sockets = tuple(ListenerView(f"unix:///run/{name}", 1, 2) for name in "ab")
    assert of(replace(overview(), listeners=sockets))["listener_queue_length{address=unix}"] == 4


def test_refusals_of_one_kind_are_counted() -> None:
    refused = (
        *overview().refused,
        RejectedFile("/etc/certs/api/tls.key", "mismatch", "", "api"),
        RejectedFile("x", "proxy", ""),
    )
    found = of(replace(overview(), refused=refused))
    assert found["files_refused{reason=mismatch,set=api}"] == 2
    assert found["files_refused{reason=proxy,set=}"] == 1


def test_the_last_success_outlives_the_agent_that_saw_it() -> None:
    assert of(overview())["last_rotation_success_timestamp_seconds"] == pytest.approx(ago(61).timestamp() + 0.092)


@pytest.mark.parametrize(
    ("tell", "series", "value"),
    [
        (lambda m: m.attempt_ended(attempt("serving")), "rotations_total{outcome=serving,trigger=certificate}", 1),
        (
            lambda m: m.attempt_ended(attempt("new", trigger="x")),
            f"rotations_total{{outcome={OTHER},trigger={OTHER}}}",
            1,
        ),
        (lambda m: m.attempt_ended(attempt("failed")), "rotation_failures_total{phase=launch,reason=failed}", 1),
        (
            lambda m: m.attempt_ended(attempt("refused", "launch", "start")),
            "rotation_failures_total{phase=judge,reason=refused}",
            1,
        ),
        (
            lambda m: m.attempt_ended(attempt("serving", "launch", "start", "drain")),
            "rotation_phase_duration_seconds_sum{phase=start}",
            2,
        ),
        (
            lambda m: m.attempt_ended(attempt("serving", "launch", "drain")),
            "rotation_phase_duration_seconds_count{phase=drain}",
            0,
        ),
        (
            lambda m: m.attempt_ended(attempt("serving", "launch", "start", "handover", "drain")),
            "last_rotation_success_timestamp_seconds",
            ago(56).timestamp(),
        ),
        (lambda m: m.phase_ended("drain", 12), "rotation_phase_duration_seconds_bucket{le=30.0,phase=drain}", 1),
        (lambda m: m.epoch_exited("serving", Exit.SIGNAL), "proxy_exits_total{cause=signal,state=serving}", 1),
        (lambda m: m.connections_closed(Cut.STOP_HURRIED, 7), "connections_closed_total{cause=stop_hurried}", 7),
        (lambda m: m.held(0.25), "hold_seconds_total", 0.25),
        (lambda m: m.overflowed(3), "listener_overflows_total", 3),
        (lambda m: m.scrape_failed(Source.EPOCH), "scrape_failures_total{source=epoch}", 1),
        (lambda m: m.lagged(0.02), "event_loop_lag_seconds_bucket{le=0.025}", 1),
    ],
)
def test_what_happens_is_counted(tell: Tell, series: str, value: float) -> None:
    metrics = Metrics(overview)
    tell(metrics)
    assert told(metrics)[series] == value


def test_an_attempt_that_was_dropped_is_no_failure() -> None:
    metrics = Metrics(overview)
    metrics.attempt_ended(attempt("dropped", "launch"))
    assert not [series for series, value in told(metrics).items() if series.startswith("rotation_failures") and value]


def test_beside_an_application_its_process_keeps_the_standard_names() -> None:
    text = Metrics(overview, beside_application=True).expose(openmetrics=False)
    assert b"\nprocess_" not in text
    assert b"\nproxy_agent_process_open_fds " in text
