import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.redact import field_name, without_quotes

KEY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcw"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", ""),
        ("could not find expected ':'", "could not find expected ':'"),
        ("found '%' that cannot start any token", "found '%' that cannot start any token"),
        (f"could not find anchor '{KEY}'", "could not find anchor …"),
        (f'no field named "{KEY}" here', "no field named … here"),
        (f"found `{KEY}` and `{KEY}`", "found … and …"),
        (f"found '{KEY}", "found …"),
        (f"found '{KEY}\n{KEY}' here", "found … here"),
        (f"found '{KEY}\n{KEY}", "found …"),
        (f"""found '{KEY}"{KEY}' here""", "found … here"),
        (f"""found "{KEY}'{KEY}" here""", "found … here"),
        ("found ''", "found ''"),
        ("found 'abcd'", "found 'abcd'"),
        ("found 'abcde'", "found …"),
        ("one\n  two\tthree ", "one two three"),
        ("found '\n\n'", "found ' '"),
    ],
)
def test_a_quote_of_more_than_four_characters_is_left_out(text: str, left: str) -> None:
    assert without_quotes(text) == left


@given(
    st.sampled_from("'\"`"),
    st.text(st.characters(categories=("L", "N"), include_characters="+/= \n"), min_size=20),
    st.booleans(),
)
def test_nothing_of_a_longer_quote_is_left_closed_or_not(mark: str, quoted: str, closed: bool) -> None:
    assert without_quotes(f"found {mark}{quoted}{mark if closed else ''}") == "found …"


@pytest.mark.parametrize("key", ["name", "a", "_", "typed_config", "x" * 40])
def test_what_looks_like_a_field_name_is_shown(key: str) -> None:
    assert field_name(key, "a key") == key


@pytest.mark.parametrize(
    "key", ["", "x" * 41, "Name", KEY, "name\n", "na me", "n4me", "ä", "-----BEGIN PRIVATE KEY-----", "a.b", "name "]
)
def test_any_other_key_is_not_shown(key: str) -> None:
    assert field_name(key, "a key") == "a key"
