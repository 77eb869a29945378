"""The instruments, compared with those of Prometheus' own library."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client import Counter as TheirCounter
from prometheus_client import Histogram as TheirHistogram

from agent.metrics.instruments import Counter, Histogram, escaped, labelled, single
from agent.metrics.parser import Family, Kind
from agent.metrics.writer import format_families

_BOUNDS = (0.5, 1, 2.5)
_TEXT = "A text\nof \\ lines."
_values = st.floats(0, 1e12)
_words = st.text(st.sampled_from('a"\\\né'), max_size=3)

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotations


def written(family: Family) -> str:
    """Write one family in the older format."""
    return b"".join(format_families([family], openmetrics=False)).decode()


def theirs(registry: CollectorRegistry) -> str:
    """Write what their library has counted."""
    return generate_latest(registry).decode()


@given(st.lists(st.tuples(_words, _words, _values)))
def test_a_counter_is_written_as_by_their_library(added: Sequence[tuple[str, str, float]]) -> None:
    registry = CollectorRegistry()
    ours, other = Counter("a_total", _TEXT, ("z", "b")), TheirCounter("a", _TEXT, ("z", "b"), registry=registry)
    for one, two, count in added:
        ours.add(one, two, count=count)
        other.labels(one, two).inc(count)
    assert written(ours.family()) == theirs(registry)


@given(st.lists(st.tuples(_words, st.sampled_from([0, 0.5, 0.7, 1, 2.5, 2.6, 1e9]) | _values)))
def test_a_histogram_is_written_as_by_their_library(observed: Sequence[tuple[str, float]]) -> None:
    registry = CollectorRegistry()
    ours = Histogram("h", _TEXT, ("m",), _BOUNDS)
    other = TheirHistogram("h", _TEXT, ("m",), buckets=_BOUNDS, registry=registry)
    for label, value in observed:
        ours.observe(value, label)
        other.labels(label).observe(value)
    assert written(ours.family()) == theirs(registry)


def test_without_labels_a_series_exists_from_the_start() -> None:
    registry = CollectorRegistry()
    counter, histogram = Counter("a_total", "a", ()), Histogram("h", "h", (), _BOUNDS)
    TheirCounter("a", "a", registry=registry)
    TheirHistogram("h", "h", buckets=_BOUNDS, registry=registry)
    assert written(counter.family()) + written(histogram.family()) == theirs(registry)


def test_with_labels_a_series_can_begin_without_a_value() -> None:
    counter, histogram = Counter("a_total", "a", ("b",)), Histogram("h", "h", ("b",), (1,))
    assert (counter.family().samples, histogram.family().samples) == ({}, {})
    counter.begin("c")
    histogram.begin("c")
    assert counter.family().samples == {'a_total{b="c"}': 0}
    assert histogram.family().samples == {
        'h_bucket{b="c",le="1.0"}': 0,
        'h_bucket{b="c",le="+Inf"}': 0,
        'h_count{b="c"}': 0,
        'h_sum{b="c"}': 0,
    }


def test_by_default_one_is_added() -> None:
    counter = Counter("a_total", "a", ())
    counter.add()
    counter.add()
    assert counter.family().samples == {"a_total": 2}


def test_a_label_too_few_or_too_many_is_a_bug() -> None:
    counter, histogram = Counter("a_total", "a", ("b",)), Histogram("h", "h", ("b",), _BOUNDS)
    counter.add("c", "d")
    histogram.observe(1, "c", "d")
    for each in (counter, histogram):
        with pytest.raises(ValueError, match="longer"):
            each.family()


def test_gauges() -> None:
    assert single("g", Kind.GAUGE, _TEXT, True).samples == {"g": 1.0}
    family = labelled("g", Kind.GAUGE, _TEXT, ("b", "a"), {("1", "2"): 3.0})
    assert written(family) == '# HELP g A text\\nof \\\\ lines.\n# TYPE g gauge\ng{a="2",b="1"} 3.0\n'
    assert escaped('"\\\n') == '\\"\\\\\\n'
