import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from agent.metrics.aggregate import STEP, Sources, aggregate, combined, summed
from agent.metrics.parser import Exposition, Family, Kind, read
from agent.metrics.writer import format_families
from tests.metrics.expositions import as_read_by_prometheus, histogram, of, same, text_of

AWKWARD = 'a "quoted" \\ back\\nslash\nline, le="1"} #{é'


def rich() -> CollectorRegistry:
    """One metric of each kind, with difficult labels, help texts and values."""
    registry = CollectorRegistry()
    counter = Counter("seen", AWKWARD, ["what"], registry=registry)
    counter.labels(AWKWARD).inc(1e300)
    counter.labels("").inc(3, {"trace": "x y"})
    gauge = Gauge("at", "Where.", ["what"], registry=registry)
    for what, value in (("nan", math.nan), ("inf", math.inf), ("below", -math.inf), ("small", -1e-9)):
        gauge.labels(what).set(value)
    histogram = Histogram("took_seconds", "How long.", ["what"], registry=registry, buckets=(0.5, 1, 1_000_000))
    for what in ("a", AWKWARD):
        histogram.labels(what).observe(0.7, {"trace": "y"})
    Summary("size_bytes", "How much.", registry=registry).observe(12)
    Info("build", "Which.", registry=registry).info({"version": "1"})
    return registry


# Parsing and writing


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_what_prometheus_reads_is_the_same_before_and_after(told: bool, wanted: bool) -> None:
    source = (generate_openmetrics if told else generate_latest)(rich())
    exposition = read(source, openmetrics=told)
    assert exposition.broken == 0
    before = as_read_by_prometheus(source.decode(), openmetrics=told)
    after = as_read_by_prometheus(text_of(exposition, openmetrics=wanted), openmetrics=wanted)
    assert same(after, before)


def test_exemplars_and_times_survive_where_they_may_be() -> None:
    lines = ('a_total{b="c"} 1 12.5 # {trace="x"} 0.5 11', "# EOF")
    told = of("# TYPE a counter", *lines, openmetrics=True)
    assert text_of(told, openmetrics=True) == "# TYPE a counter\n" + "".join(f"{line}\n" for line in lines)
    assert text_of(told) == '# TYPE a_total counter\na_total{b="c"} 1 12500\n'
    older = of("# TYPE a_total counter", 'a_total{b="c"} 1 -12005')
    assert text_of(older, openmetrics=True) == '# TYPE a counter\na_total{b="c"} 1 -12.005\n# EOF\n'


@given(st.text(alphabet='ab{}",\\=# \n1.eEnN+-\té', max_size=60), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_whatever_is_read_what_is_written_is_valid(text: str, told: bool, wanted: bool) -> None:
    exposition = read(text.encode(), openmetrics=told)
    families, _ = combined([("source", exposition)])
    out = b"".join(format_families(families, openmetrics=wanted)).decode()
    as_read_by_prometheus(out, openmetrics=wanted)


label = st.dictionaries(
    st.sampled_from("abc"), st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3
)


@given(st.lists(st.tuples(label, st.floats()), min_size=1, max_size=6))
@settings(max_examples=20)
def test_labels_and_values_are_what_prometheus_takes_them_for(samples: list[tuple[dict[str, str], float]]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("g", "h", ["a", "b", "c"], registry=registry)
    for labels, value in samples:
        gauge.labels(*(labels.get(name, "") for name in "abc")).set(value)
    source = generate_latest(registry)
    exposition = read(source)
    assert exposition.broken == 0
    assert same(as_read_by_prometheus(text_of(exposition)), as_read_by_prometheus(source.decode()))


# Several epochs


def test_counters_are_summed_and_gauges_are_of_the_first() -> None:
    first = of("# TYPE a counter", "a{} 1", 'a{b="c"} 2', "# TYPE g gauge", "g 1", "u 1")
    other = of("# TYPE a counter", 'a{b="c"} 3', 'a{b="d"} 4', "# TYPE g gauge", "g 2", "# TYPE k gauge", "k 1", "u 2")
    sums = summed(Sources(first, (other,)))
    assert sums.families["a"].samples == {"a{}": "1", 'a{b="c"}': 5, 'a{b="d"}': "4"}
    assert sums.families["g"].samples == {"g": "1"}
    assert sums.families["u"].samples == {"u": "1"}
    assert "k" not in sums.families


def test_labels_in_another_order_are_the_same_series() -> None:
    first, other = (of("# TYPE a counter", line) for line in ('a{b="1,x",c="2"} 1', 'a{c="2",b="1,x"} 2'))
    assert summed(Sources(first, (other,))).families["a"].samples == {'a{b="1,x",c="2"}': 3}


@pytest.mark.parametrize(
    ("name", "all_of_them"),
    [
        ("envoy_http_downstream_cx_active", True),
        ("envoy_http_downstream_rq_active", True),
        ("envoy_http_downstream_cx_ssl_active", True),
        ("envoy_http_downstream_cx_rx_bytes_buffered", True),
        ("envoy_cluster_upstream_rq_pending_active", True),
        ("envoy_udp_downstream_sess_active", True),
        ("envoy_listener_worker_downstream_cx_active", True),
        ("envoy_server_total_connections", True),
        ("envoy_cluster_manager_active_clusters", False),
        ("envoy_listener_manager_total_listeners_active", False),
        ("envoy_cluster_membership_healthy", False),
        ("envoy_cluster_lb_subsets_active", False),
        ("envoy_server_live", False),
        ("envoy_server_memory_allocated", False),
        ("envoy_server_uptime", False),
        ("envoy_runtime_admin_overrides_active", False),
    ],
)
def test_gauges_of_what_is_there_at_the_moment_are_of_all_epochs(name: str, all_of_them: bool) -> None:
    first, other, silent = (of(f"# TYPE {name} gauge", f"{name} {value}") for value in (1, 2, 4))
    sums = summed(Sources(first, (other,), (silent,)))
    assert float(sums.families[name].samples[name]) == (3 if all_of_them else 1)


def test_a_family_is_of_the_kind_that_the_first_gives_it() -> None:
    first, other = of("# TYPE a counter", "a 1"), of("# TYPE a gauge", "a 7")
    assert summed(Sources(first, (other,))).families["a"].samples == {"a": "1"}


def test_histograms_with_the_same_bounds_are_summed() -> None:
    first, other = of(*histogram({"1": 1, "+Inf": 2})), of(*histogram({"1": 3, "+Inf": 4}))
    sums = summed(Sources(first, (other,))).families["h"].samples
    assert sums == {'h_bucket{le="1"}': 4, 'h_bucket{le="+Inf"}': 6, "h_sum{}": 3.0, "h_count{}": 6}


@given(st.lists(st.dictionaries(st.sampled_from([1, 5, 10, 50]), st.integers(0, 9)), min_size=1, max_size=4))
@settings(max_examples=20)
def test_histograms_of_whatever_bounds_make_a_valid_one(parts: list[dict[int, int]]) -> None:
    expositions, total = [], 0
    for part in parts:
        reached, buckets = 0, {}
        for bound in sorted(part):
            reached += part[bound]
            buckets[str(bound)] = reached
        buckets["+Inf"] = reached + 1
        total += reached + 1
        expositions.append(of(*histogram(buckets, 'a="b",'), *histogram({"2": 0, "+Inf": 1})[1:]))
    sums = summed(Sources(expositions[0], tuple(expositions[1:])))
    found = as_read_by_prometheus(text_of(sums, openmetrics=True), openmetrics=True)
    assert found["h_count", (("a", "b"),)] == total


def test_of_summaries_the_quantiles_are_those_of_the_first() -> None:
    first, other = (of("# TYPE s summary", f's{{quantile="0.5"}} {n}', f"s_sum {n}", f"s_count {n}") for n in (1, 2))
    sums = summed(Sources(first, (other,))).families["s"].samples
    assert sums == {'s{quantile="0.5"}': "1", "s_sum": 3, "s_count": 3}


def test_the_loop_gets_its_turn_after_each_two_thousand_samples() -> None:
    sizes = {"a": STEP - 1, "b": 1, "c": STEP, "d": STEP - 1, "e": 1, "f": 1}
    families = {
        name: Family(name, Kind.COUNTER, "", {f'{name}{{n="{number}"}}': 1 for number in range(size)})
        for name, size in sizes.items()
    }
    sums = Exposition()
    assert ["".join(sums.families) for _ in aggregate(sums, Sources(Exposition(families)))] == [
        "ab",
        "abc",
        "abcde",
    ]
    assert list(sums.families) == list(sizes)


# Sources side by side


def test_a_family_without_samples_takes_no_name_from_a_later_source() -> None:
    first, other = of("# TYPE a gauge", "b 1"), of("# TYPE a counter", "a 2")
    families, short = combined([("first", first), ("other", other)])
    assert [(family.name, family.samples) for family in families] == [("b", {"b": "1"}), ("a", {"a": "2"})]
    assert short == set()


def test_a_family_belongs_to_the_first_that_has_it() -> None:
    first = of("# TYPE a gauge", "a 1", "# TYPE h histogram", *histogram({"+Inf": 1})[1:])
    other = of("# TYPE a counter", "a 2", "# TYPE h_count gauge", "h_count 7", "b 1")
    families, short = combined([("first", first), ("other", other), ("third", of("c 1"))])
    assert [family.name for family in families] == ["a", "h", "b", "c"]
    assert short == {"other"}
