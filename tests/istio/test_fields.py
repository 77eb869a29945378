"""Typed access to JSON and YAML."""

from typing import cast

import pytest

from agent.core.errors import UsageError
from agent.istio import fields
from agent.istio.fields import Fields


def test_json_yaml_and_nothing_are_mappings() -> None:
    assert fields.loaded('{"a": 1}', "it") == {"a": 1}
    assert fields.loaded("a: 1\n", "it") == {"a": 1}
    assert fields.loaded("", "it") == {}


@pytest.mark.parametrize("text", ["[1]", "a: [", "just text", "\x00", "a: 1\na: {", "!!python/object:os.system x"])
def test_another_document_is_refused_without_its_content(text: str) -> None:
    with pytest.raises(UsageError, match=r"^cannot read PROXY_CONFIG") as caught:
        fields.loaded(text, "PROXY_CONFIG")
    assert "text" not in str(caught.value)
    assert "python" not in str(caught.value)


def test_both_spellings_of_a_key_are_read() -> None:
    given = Fields({"drain_duration": "45s", "statusPort": 15020}, "it")
    assert (given.duration("drainDuration"), given.port("statusPort")) == (45.0, 15020)
    assert given.keys == {"drainDuration", "statusPort"}


def test_a_missing_or_null_key_is_none() -> None:
    given = Fields({"a": None}, "it")
    assert (given.text("a"), given.text("b"), given.fields("c").text("d")) == (None, None, None)


def test_texts_may_be_written_as_numbers_and_booleans() -> None:
    given = Fields({"a": 1, "b": True, "c": 1.5, "d": ["x", 2], "e": {"f": 3}}, "it")
    assert (given.text("a"), given.text("b"), given.text("c")) == ("1", "true", "1.5")
    assert (given.texts("d"), given.texts_by_name("e")) == (("x", "2"), {"f": "3"})


@pytest.mark.parametrize(
    ("key", "reader"),
    [
        ("text", "text"), ("duration", "duration"), ("port", "port"), ("count", "count"), ("texts", "texts"),
        ("mapping", "mapping"), ("texts", "texts_by_name"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_names_its_key(key: str, reader: str) -> None:
    values = {"text": [], "duration": "5", "port": "x", "count": -1, "texts": "a", "mapping": []}
    with pytest.raises(UsageError, match=f"^cannot use {key} of ProxyConfig: "):
        getattr(Fields(values, "ProxyConfig"), reader)(key)


def test_an_enumeration_may_be_a_number_but_no_boolean() -> None:
    words: dict[object, str] = {"NONE": "NONE", 0: "NONE", 1: "MUTUAL_TLS", "MUTUAL_TLS": "MUTUAL_TLS"}
    assert Fields({"a": 1}, "it").choice("a", words) == "MUTUAL_TLS"
    for value in cast("list[object]", [True, "mutual", 7, []]):
        with pytest.raises(UsageError, match="it is not one of NONE, MUTUAL_TLS"):
            Fields({"a": value}, "it").choice("a", words)
