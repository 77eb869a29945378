import math

import pytest

from agent.metrics.parser import STEP, Exposition, Family, Kind, is_openmetrics, number, parse, read
from tests.metrics.expositions import as_read_by_prometheus, of, text_of

# Lines


@pytest.mark.parametrize(
    ("line", "series", "value"),
    [
        ("a 1", "a", "1"),
        ("a:b_9 1", "a:b_9", "1"),
        (":a 1", ":a", "1"),
        ("_ 1", "_", "1"),
        ("a\t1\t", "a", "1"),
        ("  a  1  ", "a", "1"),
        ("a{} 1", "a{}", "1"),
        ("a{ } 1", "a{}", "1"),
        ('a{b="c",} 1', 'a{b="c",}', "1"),
        ('a{b="c", d = "e f" } 1', 'a{b="c",d="e f"}', "1"),
        ('a{\tb="c"} 1', 'a{b="c"}', "1"),
        ('a{b=" c\t"} 1', 'a{b=" c\t"}', "1"),
        ('a{b="} 1"} 2', 'a{b="} 1"}', "2"),
        (r'a{b="\\",c="\"",d="\n"} 1', r'a{b="\\",c="\"",d="\n"}', "1"),
        ('a{b="c=",d="b=\u00e9"} 1', 'a{b="c=",d="b=\u00e9"}', "1"),
        ('a{b="__name__"} 1', 'a{b="__name__"}', "1"),
        ("a -0", "a", "-0"),
        ("a +1.", "a", "+1."),
        ("a .5", "a", ".5"),
        ("a 1E+5", "a", "1E+5"),
        ("a .5e-3", "a", ".5e-3"),
        ("a -Inf", "a", "-Inf"),
        ("a +infinity", "a", "+infinity"),
        ("a NAN", "a", "NAN"),
        ("a 1e-400", "a", "1e-400"),
        ("a 1e308", "a", "1e308"),
        ("a 12345678901234567890", "a", "12345678901234567890"),
        ("a 1 5", "a", "1"),
    ],
)
def test_a_line_is_a_series_and_a_value(line: str, series: str, value: str) -> None:
    told = of(line)
    assert told.broken == 0
    assert [family.samples for family in told.families.values()] == [{series: value}]


@pytest.mark.parametrize(
    "line", ["", " ", "\t", "#", "# a comment", "#TYPE a gauge", "# UNIT a s", "  # HELP", "# EOF"]
)
def test_comments_and_blank_lines_are_no_fault(line: str) -> None:
    assert of(line, "a 1").broken == 0


@pytest.mark.parametrize("labels", ['{b="c", d="e"}', '{b="c",d="e"}'])
def test_series_that_differ_in_blanks_only_are_the_same(labels: str) -> None:
    told = of('a{b="c",d="e"} 1', f"a{labels} 2", f"b{labels} 3", f"b{labels} 4")
    assert told.broken == 2
    assert [each.samples for each in told.families.values()] == [{'a{b="c",d="e"}': "1"}, {'b{b="c",d="e"}': "3"}]


def test_every_line_of_a_series_with_blanks_is_written_without_them() -> None:
    """OpenMetrics allows no blank among labels, and Prometheus refuses the whole text for one."""
    told = of(*(f'{name}{{b="c", d="e"}} {value}' for value, name in enumerate("xyz")))
    assert [*text_of(told, openmetrics=True).splitlines()][1::2] == [
        'x{b="c",d="e"} 0', 'y{b="c",d="e"} 1', 'z{b="c",d="e"} 2',
    ]  # fmt: skip


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
        "a \u0663",
        "a 1 \u0663",
        "a \u0131nf",
        "\u00e4 1",
        'a{\u00e4="b"} 1',
        "a -nan",
        "a +NaN",
        "a 1e400",
        "a -1e400",
        "a " + "9" * 400,
        "a 1.5.2",
        "a e5",
        "a .",
        "a +",
        "a --1",
        "a infinit",
        "a 1 1234567890123456789",
        "a 1 +5",
        "a 1 5.0",
        "a 1 --5",
        'a{b="c",b="d"} 1',
        'a{b="c",d="e",b="c"} 1',
        'a{__name__="b"} 1',
        "a{,} 1",
        'a{b="c",,} 1',
        'a{b="c"}} 1',
        'a{1b="c"} 1',
        "a1",
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
        "# TYPE a",
        "# TYPE a info",
        "# TYPE a counter gauge",
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


def test_of_a_series_that_is_told_twice_the_first_is_taken() -> None:
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


def test_reading_goes_by_steps() -> None:
    text = b"".join(b'a{b="%d"} 1\n' % number for number in range(20_000))
    exposition = Exposition()
    assert sum(1 for _ in parse(exposition, text)) > 3
    assert len(exposition.families["a"].samples) == 20_000
    assert exposition.broken == 0


def test_a_text_without_a_last_line_end_is_read_to_its_end() -> None:
    assert read(b"a 1\nb 2").families["b"].samples == {"b": "2"}


def test_an_empty_text_has_nothing_and_takes_no_step() -> None:
    exposition = Exposition()
    assert list(parse(exposition, b"")) == []
    assert exposition == Exposition({}, 0)


def test_a_step_ends_with_the_last_whole_line_in_it() -> None:
    line = b"a" * 99 + b"%05d 1\n"
    text = b"".join(line % number for number in range(2_000))
    exposition = Exposition()
    seen = [len(exposition.families) for _ in parse(exposition, text)]
    assert seen == [612, 1224, 1836, 2000]
    assert exposition.broken == 0


def test_a_line_longer_than_a_step_is_read_whole() -> None:
    long = 'a{b="' + "x" * (3 * STEP) + '"}'
    exposition = Exposition()
    assert sum(1 for _ in parse(exposition, f"z 0\n{long} 1\nc 2\n".encode())) == 3
    assert exposition.families["a"].samples == {long: "1"}
    assert exposition.families["c"].samples == {"c": "2"}


def test_a_count_of_broken_lines_spans_the_steps() -> None:
    assert read(b"?\n" * STEP).broken == STEP


def test_the_fast_path_accepts_nothing_that_the_slow_one_refuses() -> None:
    told = of('a{b="c"} 1', 'd{b="c"} 1', 'd{b="c"} 2', 'a{b="c"} \u0663', 'a{b="x"c} 2', 'e{b="c"} 5', 'e{b="c"} x')
    assert told.broken == 4
    assert {name: family.samples for name, family in told.families.items()} == {
        "a": {'a{b="c"}': "1"}, "d": {'d{b="c"}': "1"}, "e": {'e{b="c"}': "5"},
    }  # fmt: skip


# Families


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("counter", ("a",)),
        ("gauge", ("a",)),
        ("untyped", ("a",)),
        ("unknown", ("a",)),
        ("histogram", ("a_bucket", "a_sum", "a_count")),
        ("summary", ("a", "a_sum", "a_count")),
    ],
)
def test_a_family_has_the_samples_of_its_kind(kind: str, names: tuple[str, ...]) -> None:
    told = of("# HELP a What it is.", f"# TYPE a {kind}", *(f"{name} 1" for name in names), "b 1")
    family = told.families["a"]
    assert told.broken == 0
    assert family.kind == ("untyped" if kind == "unknown" else kind)
    assert (family.help, tuple(family.samples), family.names()) == ("What it is.", names, names)
    assert list(told.families) == ["a", "b"]


@pytest.mark.parametrize("kind", ["histogram", "gauge"])
def test_a_sample_that_its_family_does_not_have_leaves_the_family_alone(kind: str) -> None:
    told = of(f"# TYPE a {kind}", "a 5", "a_bucket 1", "a_sum 2", "a_count 3")
    assert told.broken == (1 if kind == "histogram" else 0)
    names = ["a_bucket", "a_sum", "a_count"] if kind == "histogram" else ["a"]
    assert (told.families["a"].kind, list(told.families["a"].samples)) == (kind, names)


def test_a_declaration_after_a_sample_of_the_name_leaves_the_sample() -> None:
    told = of("a 5", "# TYPE a histogram", "a_count 3")
    assert told.broken == 1
    assert {name: family.samples for name, family in told.families.items()} == {
        "a": {"a": "5"}, "a_count": {"a_count": "3"},
    }  # fmt: skip


def test_a_declaration_over_the_samples_of_another_is_refused() -> None:
    told = of("# TYPE a_sum gauge", "a_sum 1", "# TYPE a histogram", "a_count 2")
    assert told.broken == 1
    assert {name: family.kind for name, family in told.families.items()} == {"a_sum": "gauge", "a_count": "untyped"}


@pytest.mark.parametrize("line", ["a 1 x", "a 1e400", 'a{b="",b=""} 1', "a -nan"])
def test_a_broken_line_does_not_declare_its_family(line: str) -> None:
    told = of(line, "# TYPE a gauge", "a 1")
    assert (told.broken, told.families["a"].kind) == (1, Kind.GAUGE)


@pytest.mark.parametrize(
    ("declared", "line", "is_valid"),
    [
        ("counter", "a -0", False),
        ("counter", "a nan", False),
        ("counter", "a +Inf", True),
        ("counter", "a -Inf", False),
        ("gauge", "a -1", True),
        ("gauge", "a NaN", True),
        ("histogram", "a_sum -1", True),
        ("histogram", 'a_bucket{le="1"} NaN', False),
        ("histogram", "a_count -1", False),
        ("summary", "a NaN", True),
        ("summary", "a_sum -1", True),
        ("summary", "a_count -1", False),
        ("untyped", "a -1", True),
    ],
)
def test_only_counts_cannot_be_negative(declared: str, line: str, is_valid: bool) -> None:
    told = of(f"# TYPE a {declared}", line)
    assert told.broken == (0 if is_valid else 1)
    assert bool(told.families["a"].samples) is is_valid


def test_a_family_whose_name_ends_like_a_part_is_no_part() -> None:
    assert of("# TYPE a_count summary", "a_count -1").broken == 0
    assert of("# TYPE a_count summary", "a_count_count -1").broken == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("# HELP a", ""),
        ("# HELP a ", ""),
        ("#  HELP\ta\tb  c ", "b  c "),
        (r'# HELP a \\ \n "x" \"', r'\\ \n "x" \"'),
    ],
)
def test_help_is_kept_as_written(line: str, told: str) -> None:
    assert of(line, "# TYPE a gauge", "a 1").families["a"].help == told


def test_help_counts_wherever_it_stands_and_only_once() -> None:
    told = of("# TYPE a gauge", "a 1", "# HELP a one", "# HELP a two", "# HELP b three", "c 1", "# HELP c four")
    assert {name: family.help for name, family in told.families.items()} == {"a": "one", "c": "four"}
    assert told.broken == 0


@pytest.mark.parametrize(("milliseconds", "seconds"), [("0", "0.000"), ("-5", "-0.005"), ("1234", "1.234"),
    ("-12345", "-12.345"), ("999999999999999999", "999999999999999.999")])  # fmt: skip
def test_times_of_the_older_format_become_seconds(milliseconds: str, seconds: str) -> None:
    assert of(f"a 1 {milliseconds} ").families["a"].extras == {"a": (seconds, "")}


# OpenMetrics


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/openmetrics-text", True),
        (" Application/OpenMetrics-Text; version=1.0.0", True),
        ("text/plain; version=0.0.4", False),
        ("text/plain; x=application/openmetrics-text", False),
        ("", False),
    ],
)
def test_openmetrics_is_known_by_its_content_type(content_type: str, expected: bool) -> None:
    assert is_openmetrics(content_type) is expected


@pytest.mark.parametrize(
    ("declared", "samples", "families"),
    [
        ("counter", ("a_total 1",), {"a_total": "counter"}),
        ("gauge", ("a 1",), {"a": "gauge"}),
        ("info", ('a_info{v="1"} 1',), {"a_info": "gauge"}),
        ("stateset", ('a{a="x"} 1',), {"a": "gauge"}),
        (
            "gaugehistogram",
            ('a_bucket{le="+Inf"} 1', "a_gsum -1", "a_gcount 1"),
            {"a_bucket": "gauge", "a_gsum": "gauge", "a_gcount": "gauge"},
        ),
        ("unknown", ("a 1",), {"a": "untyped"}),
        ("histogram", ('a_bucket{le="+Inf"} 1', "a_created 5"), {"a": "histogram"}),
        ("summary", ("a_sum 1", "a_created 5"), {"a": "summary"}),
        ("counter", ("a_total 1", "a_created 5"), {"a_total": "counter"}),
        ("gauge", ("a 1", "a_created 5"), {"a": "gauge", "a_created": "untyped"}),
    ],
)
def test_kinds_of_openmetrics_become_those_of_the_older_format(
    declared: str, samples: tuple[str, ...], families: dict[str, str]
) -> None:
    told = of("# HELP a What.", f"# TYPE a {declared}", *samples, "# EOF", openmetrics=True)
    assert told.broken == 0
    assert {name: family.kind for name, family in told.families.items()} == families
    assert all(family.help == "What." for name, family in told.families.items() if name != "a_created")
    assert sum(len(family.samples) for family in told.families.values()) == len(
        [each for each in samples if not (each.startswith("a_created") and declared != "gauge")]
    )


@pytest.mark.parametrize("kind", ["info", "stateset", "gaugehistogram"])
def test_kinds_of_openmetrics_are_unknown_to_the_older_format(kind: str) -> None:
    assert of(f"# TYPE a {kind}").broken == 1


def test_a_counter_of_the_older_format_keeps_its_name() -> None:
    assert list(of("# TYPE a counter", "a 1", "a_created 5").families) == ["a", "a_created"]


def test_a_declared_family_outranks_a_time_of_creation() -> None:
    lines = ("# TYPE a_created gauge", "a_created 7", "# TYPE a counter", "a_total 1")
    told = of(*lines, openmetrics=True)
    assert told.broken == 0
    assert told.families["a_created"].samples == {"a_created": "7"}


def test_help_of_openmetrics_loses_the_escape_of_quotes_only() -> None:
    told = of("# TYPE a gauge", r'# HELP a \"x\" \\ \n \\" end', "a 1", openmetrics=True)
    assert told.families["a"].help == r'"x" \\ \n \\" end'


EXEMPLAR = '# {trace="x y",b=""} 0.5'


@pytest.mark.parametrize(
    ("rest", "extras"),
    [
        ("", None),
        (" ", None),
        (" 12.5", ("12.5", "")),
        (" -3", ("-3", "")),
        (" 1.5e9", ("1.5e9", "")),
        (f" {EXEMPLAR}", ("", EXEMPLAR)),
        (f" {EXEMPLAR} 11.5", ("", f"{EXEMPLAR} 11.5")),
        (f" 12 {EXEMPLAR} 11 ", ("12", f"{EXEMPLAR} 11")),
        (" # {} 1", ("", "# {} 1")),
        (' # {a="b"} NaN', ("", '# {a="b"} NaN')),
    ],
)
def test_a_time_and_an_exemplar_of_openmetrics_are_kept_as_written(rest: str, extras: tuple[str, str] | None) -> None:
    told = of("# TYPE a counter", f"a_total 1{rest}", openmetrics=True)
    assert told.broken == 0
    assert told.families["a_total"].extras == ({} if extras is None else {"a_total": extras})


@pytest.mark.parametrize(
    "rest",
    [
        "nan",
        "inf",
        "-Inf",
        "1e300",
        "1e15",
        "-1e15",
        "12 13",
        "x",
        '{a="b"} 1',
        '#{a="b"} 1',
        '# {a="b"}',
        '# {a="b"}  1',
        '# {a="b", c="d"} 1',
        '# { a="b"} 1',
        '# {a="b"} 1 nan',
        '# {a="b"} 1 1e15',
        '# {a="b"} 1e400',
        '# {a="b"} 1 2 3',
        "# {a=b} 1",
        "# comment",
    ],
)
def test_a_sample_whose_time_or_exemplar_cannot_be_passed_on_is_left_out(rest: str) -> None:
    told = of("# TYPE a counter", f"a_total 1 {rest}", "a_total 2 999999999999.5", openmetrics=True)
    assert told.broken == 1
    assert told.families["a_total"].samples == {"a_total": "2"}
    assert text_of(told) == "# TYPE a_total counter\na_total 2 999999999999500\n"


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("007", 7),
        ("999999999999999999", 999_999_999_999_999_999),
        ("1.5", 1.5),
        ("-3", -3.0),
        ("1e3", 1000.0),
        ("+Inf", math.inf),
        (7, 7),
        (0.25, 0.25),
    ],
)
def test_a_value_is_a_number(text: str | float, value: float) -> None:
    assert number(text) == value
    assert type(number(text)) is type(value)


def test_a_whole_number_of_more_than_18_digits_is_a_double() -> None:
    assert number("1000000000000000001") == 1e18
    assert isinstance(number("1000000000000000001"), float)


def test_a_value_that_is_no_number_stays_none() -> None:
    assert math.isnan(number("NaN"))


def test_a_family_knows_its_names_without_samples() -> None:
    assert Family("a", Kind.SUMMARY).names() == ("a", "a_sum", "a_count")
