import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.utils import floatToGoString

from agent.metrics.parser import Exposition, Family, Kind, Number
from agent.metrics.writer import OPENMETRICS, STEP, TEXT, format_families, in_go, wants_openmetrics
from tests.metrics.expositions import Values, as_read_by_prometheus, of, text_of

# Text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345678901234567890, "12345678901234567890"),
        (1.0, "1.0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (12345678.0, "1.2345678e+07"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
        ("1e5", "1e5"),
        ("007", "007"),
    ],
)
@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_text_value_stays_and_a_number_is_written_as_go_does(
    value: Number | str, text: str, openmetrics: bool
) -> None:
    told = Exposition({"a": Family("a", Kind.GAUGE, "", {"a": value})})
    assert f"\na {text}\n" in text_of(told, openmetrics=openmetrics)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_without_families_only_the_end_is_written(openmetrics: bool) -> None:
    assert list(format_families((), openmetrics=openmetrics)) == [b"# EOF\n" if openmetrics else b""]


def test_a_family_has_its_help_and_its_type_before_its_samples() -> None:
    told = of('# HELP a It\'s "a".', "# TYPE a gauge", 'a{b="c"} 1', "# TYPE b summary", "b_sum 2")
    assert text_of(told) == '# HELP a It\'s "a".\n# TYPE a gauge\na{b="c"} 1\n# TYPE b summary\nb_sum 2\n'
    assert text_of(told, openmetrics=True) == (
        '# HELP a It\'s \\"a\\".\n# TYPE a gauge\na{b="c"} 1\n# TYPE b summary\nb_sum 2\n# EOF\n'
    )


@pytest.mark.parametrize("openmetrics", [False, True])
def test_writing_goes_by_steps_of_whole_families(openmetrics: bool) -> None:
    big = Family("a", Kind.GAUGE, "", {f'a{{b="{number}"}}': number for number in range(STEP)})
    almost = Family("b", Kind.GAUGE, "", {f'b{{b="{number}"}}': number for number in range(STEP - 2)})
    small = [Family(name, Kind.GAUGE, "", {name: 1}) for name in ("c", "d")]
    parts = list(format_families([big, almost, *small], openmetrics=openmetrics))
    assert [part.count(b"# TYPE") for part in parts] == [1, 2, 1]
    assert [part.count(b"\n") for part in parts] == [1001, 1001, 3 if openmetrics else 2]


def test_a_time_is_rounded_to_the_millisecond_in_the_older_format() -> None:
    samples: dict[str, Number | str] = {"a": 1, 'a{b=""}': 2}
    told = Exposition({"a": Family("a", Kind.GAUGE, "", samples, {"a": ("-1.0006", "# {} 1")})})
    assert text_of(told) == '# TYPE a gauge\na 1 -1001\na{b=""} 2\n'
    assert text_of(told, openmetrics=True) == '# TYPE a gauge\na 1 -1.0006\na{b=""} 2\n# EOF\n'


@pytest.mark.parametrize(
    ("kind", "series", "is_kept"),
    [
        (Kind.COUNTER, "a_total", True),
        (Kind.HISTOGRAM, 'a_total_bucket{le="1.0"}', True),
        (Kind.HISTOGRAM, "a_total_count", False),
        (Kind.HISTOGRAM, "a_total_sum", False),
        (Kind.SUMMARY, 'a_total{quantile="0.5"}', False),
        (Kind.GAUGE, "a_total", False),
        (Kind.UNTYPED, "a_total", False),
    ],
)
def test_an_exemplar_is_written_where_openmetrics_allows_one(kind: Kind, series: str, is_kept: bool) -> None:
    family = Family("a_total", kind, "", {series: 1}, {series: ("", '# {b="c"} 1')})
    text = text_of(Exposition({"a_total": family}), openmetrics=True)
    assert ("# {" in text) is is_kept


def test_the_content_types_name_their_versions() -> None:
    assert (TEXT.split("; ")[:2], OPENMETRICS.split("; ")[:2]) == (
        ["text/plain", "version=0.0.4"], ["application/openmetrics-text", "version=1.0.0"],
    )  # fmt: skip


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


def test_a_counter_whose_name_ends_like_a_creation_time_is_written() -> None:
    told = of("# TYPE a_total counter", "a_total 1", "# TYPE a_created counter", "a_created 2")
    text = text_of(told, openmetrics=True)
    assert "a_created 2\n" in text
    as_read_by_prometheus(text, openmetrics=True)


def as_read_by_prometheus_untyped(told: Exposition) -> Values:
    """The values under the names they were told by: the older parser adds `_total` to those of counters."""
    families = [Family(each.name, Kind.UNTYPED, "", each.samples) for each in told.families.values()]
    return as_read_by_prometheus(b"".join(format_families(families, openmetrics=False)).decode())


def test_a_bound_within_another_labels_value_stays() -> None:
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
        ("application/openmetrics-text, text/plain", True),
        ("text/plain, application/openmetrics-text", True),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.501", False),
        ("application/openmetrics-text;q=.5, text/plain;q=0.4", True),
        ("application/openmetrics-text ; q = 0.5 , text/plain ; q = 0.75", False),
        ("application/openmetrics-text;q=0.2, application/openmetrics-text;q=0.9, text/plain;q=0.5", True),
        ("text/plain;q=0.9, text/plain;q=0.1, application/openmetrics-text;q=0.5", False),
        ("application/openmetrics-text;q=0.0", False),
        ("application/openmetrics-text;q=0.0, text/plain;q=0", False),
        ("application/openmetrics-text;version=1.0.0", True),
        ('application/openmetrics-text; version = "0.0.1"', True),
        ("application/openmetrics-text;version=2.0.0, application/openmetrics-text;version=1.0.0;q=0.1", True),
        ('application/openmetrics-text;version="2.1"', False),
        ("application/openmetrics-text;versions=2", True),
        ("application/openmetrics-text;version", False),
        ("application/openmetrics-text;q=0.3;q=1, text/plain;q=0.5", False),
        ("application/openmetrics-textual", False),
        (";,;q=,", False),
    ],
)
def test_openmetrics_is_written_for_clients_that_prefer_it(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ('h_bucket{le="5"}', 'h_bucket{le="5.0"}'),
        ('h_bucket{le="1e3",a="b"}', 'h_bucket{le="1000.0",a="b"}'),
        ('h_bucket{a="b",le="+inf"}', 'h_bucket{a="b",le="+Inf"}'),
        ('h_bucket{le="x"}', 'h_bucket{le="x"}'),
        ('h_bucket{file="5",le="0.50"}', 'h_bucket{file="5",le="0.5"}'),
        ("h_bucket", "h_bucket"),
        (r'h_bucket{a="\",le=\"5\"",le="5"}', r'h_bucket{a="\",le=\"5\"",le="5.0"}'),
    ],
)
def test_a_bound_is_written_as_a_double(written: str, canonical: str) -> None:
    assert f"{canonical} 1\n" in text_of(of("# TYPE h histogram", f"{written} 1"), openmetrics=True)


def test_a_quantile_is_a_bound_and_a_label_of_other_kinds_is_none() -> None:
    told = of("# TYPE s summary", 's{quantile="1"} 1', "# TYPE g gauge", 'g{le="1",quantile="1"} 1')
    text = text_of(told, openmetrics=True)
    assert 's{quantile="1.0"} 1\n' in text
    assert 'g{le="1",quantile="1"} 1\n' in text


@pytest.mark.parametrize(
    ("beside", "is_left_out"),
    [
        ("# TYPE a counter", False),
        ("# TYPE a gauge", False),
        ("# TYPE a histogram", True),
        ("# TYPE a summary", True),
        ("# TYPE a_total counter", True),
        ("# TYPE a_total gauge", False),
        ("# TYPE b histogram", False),
    ],
)
def test_a_gauge_of_creation_times_is_left_out_beside_its_family(beside: str, is_left_out: bool) -> None:
    told = of(beside, "# TYPE a_created gauge", "a_created 7")
    assert ("a_created" in text_of(told, openmetrics=True)) is not is_left_out
    assert "a_created 7\n" in text_of(told)


@pytest.mark.parametrize("kind", ["counter", "untyped"])
def test_what_is_called_like_creation_times_costs_a_counter_its_type(kind: str) -> None:
    text = text_of(
        of(f"# TYPE a_created {kind}", "a_created 7", "# TYPE a_total counter", "a_total 1"), openmetrics=True
    )
    assert "# TYPE a_total unknown\na_total 1\n" in text
    assert "a_created 7\n" in text
    as_read_by_prometheus(text, openmetrics=True)


def test_a_histogram_that_is_called_like_creation_times_is_left_out_only_beside_its_family() -> None:
    told = of("# TYPE b_created histogram", 'b_created_bucket{le="+Inf"} 1', "b_created_sum 1", "b_created_count 1")
    assert "# TYPE b_created histogram" in text_of(told, openmetrics=True)


@given(st.floats())
def test_a_number_is_written_as_by_prometheus_own_library(value: float) -> None:
    assert in_go(value) == floatToGoString(value)  # type: ignore[no-untyped-call]  # the library has no annotations
