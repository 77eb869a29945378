import math
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from agent.metrics.aggregate import Sources, combined, summed
from agent.metrics.parser import Exposition, Family, Kind, parse, read
from agent.metrics.totals import EpochTotals
from agent.metrics.writer import format_families, wants_openmetrics

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]

AWKWARD = 'a "quoted" \\ back\\nslash\nline, le="1"} #{é'


def text_of(exposition: Exposition, *, openmetrics: bool = False) -> str:
    """Format all metrics."""
    return b"".join(format_families(exposition.families.values(), openmetrics=openmetrics)).decode()


def as_read_by_prometheus(text: str, *, openmetrics: bool = False) -> Values:
    """Parse with the library of Prometheus, which raises an error for invalid text; creation times are omitted."""
    families = openmetrics_families(text) if openmetrics else text_families(text)  # type: ignore[no-untyped-call]
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples if not s.name.endswith("_created")}


def of(*lines: str, openmetrics: bool = False) -> Exposition:
    """Parse lines."""
    return read("".join(f"{line}\n" for line in lines).encode(), openmetrics=openmetrics)


def same(one: Values, other: Values) -> bool:
    """Compare values, some of which may be NaN."""
    nan = {key for key in one if math.isnan(one[key])}
    rest = one.keys() - nan
    return (
        one.keys() == other.keys()
        and all(math.isnan(other[key]) for key in nan)
        and all(one[key] == other[key] for key in rest)
    )


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


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a{} ",
        "{} 1",
        "1a 1",
        "a 1x",
        "a 1_000",
        "a 0x10",
        "a 1 2 3",
        "a 1 x",
        'a 1 # {b="c"} 1',
        'a{b="c} 1',
        'a{b="c"',
        'a{b="c"d="e"} 1',
        'a{b="\\x"} 1',
        "a{b='c'} 1",
        "a{b=c} 1",
        'a{"b"="c"} 1',
        "a-b 1",
        "a 1\r",
        "# TYPE a nothing",
        "<html>",
        "\x00",
    ],
)
def test_a_broken_line_costs_itself_only(line: str) -> None:
    told = of("before 1", line, "after 2")
    assert told.broken == 1
    assert [name for name, family in told.families.items() if family.samples] == ["before", "after"]


@pytest.mark.parametrize("line", ["a_total -1", "a_total NaN", 'h_bucket{le="1"} -1', "h_count nan"])
def test_what_counts_is_a_number_and_not_below_0(line: str) -> None:
    assert of("# TYPE a_total counter", "# TYPE h histogram", line).broken == 1


def test_of_a_duplicate_series_the_first_is_used() -> None:
    told = of("a 1", "a 2", 'a{b="c"} 3')
    assert (told.broken, told.families["a"].samples) == (1, {"a": "1", 'a{b="c"}': "3"})


def test_a_family_is_declared_once_and_before_its_samples() -> None:
    told = of("# TYPE a gauge", "# TYPE a counter", "a 1", "b 1", "# TYPE b gauge", "# TYPE c histogram", "c_sum 1")
    assert told.broken == 2
    assert [family.kind for family in told.families.values()] == [Kind.GAUGE, Kind.UNTYPED, Kind.HISTOGRAM]
    assert list(told.families["c"].samples) == ["c_sum"]


def test_what_is_no_utf_8_spoils_nothing_else() -> None:
    told = read(b'a{b="\xff"} 1\nb 2\n')
    assert told.families["b"].samples == {"b": "2"}
    assert as_read_by_prometheus(text_of(told))


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


def test_a_hostile_line_is_read_in_time_that_grows_with_its_length() -> None:
    for hostile in (
        'a{b="' + '\\"' * 200_000,
        "a{" + 'b="c",' * 60_000,
        " " * 400_000 + "x",
        "a" * 400_000,
        "-" * 400_000,
    ):
        steps = sum(1 for _ in parse(Exposition(), hostile.encode()))
        assert steps == 1


# OpenMetrics


def test_a_counter_keeps_its_name_and_its_type_where_that_is_valid() -> None:
    told = of(
        "# TYPE a_total counter", "a_total 1", "# TYPE b counter", "b 2", "# TYPE c counter", "c 3",
        "# TYPE c_total counter", "c_total 4",
    )  # fmt: skip
    text = text_of(told, openmetrics=True)
    assert [line for line in text.splitlines() if line.startswith("# TYPE")] == [
        "# TYPE a counter",
        "# TYPE b unknown",
        "# TYPE c unknown",
        "# TYPE c_total unknown",
    ]
    assert as_read_by_prometheus(text, openmetrics=True) == as_read_by_prometheus_untyped(told)


@pytest.mark.parametrize(
    "told",
    [
        of("# TYPE a_total counter", "a_total 1", "# TYPE a_created gauge", "a_created 1.7e9"),
        of("# TYPE a counter", "a_total 1", "a_created 1.7e9", "# EOF", openmetrics=True),
    ],
)
def test_times_of_creation_are_left_out_of_openmetrics(told: Exposition) -> None:
    assert told.broken == 0
    assert text_of(told, openmetrics=True) == "# TYPE a counter\na_total 1\n# EOF\n"


def test_a_counter_whose_name_resembles_a_creation_time_is_exposed() -> None:
    told = of("# TYPE a_total counter", "a_total 1", "# TYPE a_created counter", "a_created 2")
    text = text_of(told, openmetrics=True)
    assert "a_created 2\n" in text
    as_read_by_prometheus(text, openmetrics=True)


def as_read_by_prometheus_untyped(told: Exposition) -> Values:
    """Return the values under their original names: the older parser adds `_total` to those of counters."""
    families = [Family(each.name, Kind.UNTYPED, "", each.samples) for each in told.families.values()]
    return as_read_by_prometheus(b"".join(format_families(families, openmetrics=False)).decode())


def test_bounds_are_written_as_openmetrics_wants_them() -> None:
    told = of("# TYPE h histogram", 'h_bucket{a="x,le=",le="1"} 1', 'h_bucket{a="x,le=",le="+Inf"} 1')
    assert 'h_bucket{a="x,le=",le="1.0"} 1\n' in text_of(told, openmetrics=True)
    assert 'h_bucket{a="x,le=",le="1"} 1\n' in text_of(told)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text; version=0.0.1; q=0.5, text/plain;version=0.0.4;q=0.75", False),
        ("Application/OpenMetrics-Text;Q=0.3", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=x;" * 10, True),
    ],
)
def test_openmetrics_is_for_who_would_rather_have_it(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


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


def histogram(buckets: dict[str, int], labels: str = "") -> list[str]:
    """Return a histogram's lines."""
    lines = [f'h_bucket{{{labels}le="{bound}"}} {count}' for bound, count in buckets.items()]
    rest = labels.rstrip(",")
    return ["# TYPE h histogram", *lines, f"h_sum{{{rest}}} 1.5", f"h_count{{{rest}}} {buckets['+Inf']}"]


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


# Exited epochs


def counter(value: int, name: str = "a") -> Exposition:
    """Return one counter."""
    return of(f"# TYPE {name} counter", f"{name} {value}")


def total(lineage: EpochTotals, serving: int | None = None, answered: Iterable[int] = ()) -> float:
    """Return the value of one counter."""
    family = summed(lineage.parts(serving, set(answered))).families.get("a")
    return 0 if family is None else float(family.samples["a"])


lives = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["see", "reset", "retire", "return"]), st.integers(0, 9)), max_size=30
)


@given(lives)
@settings(max_examples=60)
def test_totals_never_fall_and_miss_nothing_that_was_seen(steps: list[tuple[int, str, int]]) -> None:
    lineage, seen, gone, before, counted = EpochTotals(), dict[int, int](), set[int](), 0.0, 0
    for epoch, step, grown in steps:
        if step == "retire":
            lineage.retire(epoch)
            gone.add(epoch)
        elif step == "return":
            lineage = EpochTotals.from_state(lineage.to_state())
        else:
            value = min(grown, seen.get(epoch, 0)) if step == "reset" else seen.get(epoch, 0) + grown
            if epoch not in gone:
                counted += value if value < seen.get(epoch, 0) else value - seen.get(epoch, 0)
                seen[epoch] = value
            lineage.see(epoch, counter(value))
        now = total(lineage, epoch, {epoch})
        assert now >= before
        assert now == counted
        before = now


def test_a_series_that_disappears_keeps_its_total() -> None:
    lineage = EpochTotals()
    lineage.see(1, of("# TYPE a counter", "a 1", 'a{b="c"} 2', *histogram({"1": 1, "+Inf": 2})))
    lineage.see(1, counter(3))
    sums = summed(lineage.parts(1, {1}))
    assert sums.families["a"].samples == {"a": 3, 'a{b="c"}': 2}
    assert sums.families["h"].samples["h_count{}"] == 2


def test_gauges_of_the_gone_are_gone() -> None:
    lineage = EpochTotals()
    lineage.see(1, of("# TYPE x_cx_active gauge", "x_cx_active 1", "# TYPE g gauge", "g 1"))
    assert set(summed(lineage.parts(1, {1})).families) == {"x_cx_active", "g"}
    assert not summed(lineage.parts(1, ())).families
    lineage.retire(1)
    assert not summed(lineage.parts(2, ())).families


def test_what_the_gone_counted_is_bounded() -> None:
    lineage = EpochTotals(limit=2_100)
    for epoch in range(1, 31):
        lineage.see(epoch, counter(1, f"a{epoch % 20}"))
        lineage.retire(epoch)
    sums = summed(lineage.parts(None, ()))
    assert len(sums.families) == 10
    assert sums.families["a1"].samples == {"a1": 2}
    assert lineage.dropped == 20 - 10


@pytest.mark.parametrize(
    "state",
    [{}, {"gone": [], "live": {}, "retired": []}, {"gone": {"a": ["counter", {"a": "1"}]}, "live": {}, "retired": []}],
)
def test_a_state_that_makes_no_sense_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot restore"):
        EpochTotals.from_state(state)


# Several sources


def test_a_family_belongs_to_the_first_that_has_it() -> None:
    first = of("# TYPE a gauge", "a 1", "# TYPE h histogram", *histogram({"+Inf": 1})[1:])
    other = of("# TYPE a counter", "a 2", "# TYPE h_count gauge", "h_count 7", "b 1")
    families, short = combined([("first", first), ("other", other), ("third", of("c 1"))])
    assert [family.name for family in families] == ["a", "h", "b", "c"]
    assert short == {"other"}


def test_reading_goes_by_steps(tmp_path: Path) -> None:
    text = b"".join(b'a{b="%d"} 1\n' % number for number in range(20_000))
    exposition = Exposition()
    assert sum(1 for _ in parse(exposition, text)) > 3
    assert len(exposition.families["a"].samples) == 20_000
    assert exposition.broken == 0
