"""JSON as protobuf reads it: what is accepted beyond the standard, and that nothing else is."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.proxies.envoy.lenient_json import Pairs, loads


def plain(value: object) -> Any:  # noqa: ANN401  # any JSON value
    """Convert objects to dicts."""
    if isinstance(value, Pairs):
        return {key: plain(inner) for key, inner in value}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text("aß\"'\\\n:,{}[]$ "),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("aß\"'\\:, ", max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=30)
@given(values)
def test_strict_json_means_what_it_always_means(value: object) -> None:
    assert plain(loads(json.dumps(value))) == value


@settings(max_examples=30)
@given(values)
def test_a_comma_at_the_end_of_everything_changes_nothing(value: object) -> None:
    """In texts there may be brackets and commas, too: those are no marks."""
    text = json.dumps([value], indent=1)
    assert text.endswith("\n]")
    assert plain(loads(text[:-2] + " ,\n]")) == [value]


@settings(max_examples=30)
@given(values)
def test_keys_without_quotes_and_texts_in_single_quotes_are_the_same(value: object) -> None:
    quoted = json.dumps(json.dumps(value)).replace("'", "\\'").replace('\\"', '"')
    assert plain(loads(f"{{key: '{quoted[1:-1]}', 'other': {json.dumps(value)}}}")) == {
        "key": json.dumps(value),
        "other": value,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,}', {"a": 1}),
        ("[1, 2 , ]", [1, 2]),
        ("[[1,],{a:1,},]", [[1], {"a": 1}]),
        ("{a: 1}", {"a": 1}),
        ("{_a$9 : 1}", {"_a$9": 1}),
        ("{$: {b: {c: 1}}}", {"$": {"b": {"c": 1}}}),
        ("{true: true, null: null}", {"true": True, "null": None}),
        ("{'a': 'b'}", {"a": "b"}),
        ("""{'a"b': "c'd"}""", {'a"b': "c'd"}),
        (r"""['\'', '\"', '\\', '\n', '\u00e9', '"']""", ["'", '"', "\\", "\n", "é", '"']),
        ("['']", [""]),
        ("['a,]', 'b,}']", ["a,]", "b,}"]),
        ('["a\tb", "c\nd", "\x01\x1f"]', ["a\tb", "c\nd", "\x01\x1f"]),
        ("['a\tb\nc']", ["a\tb\nc"]),
        ("\t\r\n [ ] ", []),
        ("{}", {}),
        ("'word'", "word"),
        ("7", 7),
        ("[-1.5e+3, 0]", [-1500.0, 0]),
        ('"\\ud83d\\ude00"', "😀"),
        ("['\\uD83D\\uDE00']", ["😀"]),
        ('"\\\\ud83d"', "\\ud83d"),
    ],
)
def test_what_protobuf_accepts_is_accepted(text: str, expected: object) -> None:
    assert plain(loads(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "[1",
        "[1 2]",
        "[1,,]",
        "[1],",
        "{a}",
        "{a: b}",
        "{a: 1 b: 2}",
        "{9a: 1}",
        "{a-b: 1}",
        "{a.b: 1}",
        "{é: 1}",
        "{1: 2}",
        "[a]",
        "a: 1",
        "# no\n[1]",
        "// no\n[1]",
        "[1] /* no */",
        "[NaN]",
        "[Infinity]",
        "[-Infinity]",
        "[NaN,]",
        "[01]",
        "[+1]",
        "[.5]",
        "[1.]",
        "[0x1F]",
        "['a]",
        '["a]',
        "['a\\']",
        '["a\\q"]',
        "['a\\q']",
        "[\"a']",
        "['a\" ]",
        "[\x0b1,]",
        "[\u00a01]",
        "[\ufeff1]",
        "\ufeff{}",
        "['\\u12']",
        "[1}",
        "{]",
        "['\\",
        "'",
        '"',
    ],
)
def test_what_protobuf_does_not_accept_is_an_error_with_a_place(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        loads(text)


@pytest.mark.parametrize(
    "text", ['"\\ud83d"', '"\\uDE00"', '{"\\ud83d": 1}', "['\\ud83d',]", '["\\ud83d\\ud83d"]', '"\\ude00\\ud83d"']
)
def test_half_of_a_surrogate_pair_is_an_error(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        loads(text)


def test_the_error_has_the_place_in_the_text_as_it_was_written() -> None:
    with pytest.raises(json.JSONDecodeError) as failure:
        loads('{\n  "a": 1,\n  "b" 2\n}')
    assert (failure.value.lineno, failure.value.colno) == (3, 7)


def test_the_error_of_a_text_that_is_lenient_elsewhere_is_that_of_a_strict_parser() -> None:
    with pytest.raises(json.JSONDecodeError) as failure:
        loads("{'a': 1,\n'b' 2}")
    assert (failure.value.lineno, failure.value.colno) == (1, 2)


def test_every_pair_of_an_object_is_kept_in_order() -> None:
    assert loads('{"b": 1, "a": 2, "b": {"c": 3}}') == [("b", 1), ("a", 2), ("b", [("c", 3)])]
    assert isinstance(loads("{a: 1, a: 2,}"), Pairs)
    assert not isinstance(loads("[1]"), Pairs)


@pytest.mark.parametrize("opening", ['{"a": "', "{a: '", "[1, '", '{"a": "b", c: "'])
def test_a_text_that_breaks_off_within_a_string_of_many_escapes_fails_soon(opening: str) -> None:
    """A file that is being written: with the time of a search for each escape, it would take hours."""
    with pytest.raises(json.JSONDecodeError):
        loads(opening + "\\\"\\'" * 50_000)


@pytest.mark.parametrize("text", ["[" * 5_000, "{a:" * 5_000, "[1," * 5_000])
def test_endless_nesting_is_an_error_that_the_reader_knows(text: str) -> None:
    with pytest.raises((RecursionError, json.JSONDecodeError)):
        loads(text)


@settings(max_examples=30)
@given(st.text("{}[]:,'\"\\ a1$\n", max_size=40))
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    try:
        loads(text)
    except json.JSONDecodeError:
        return
