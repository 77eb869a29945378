"""Values as YAML: every parser reads what was written."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.injection import rendering, yaml_tree
from agent.injection.edits import JsonValue

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def both(text: str) -> object:
    """Return what PyYAML and our own parser read, which is the same."""
    node = yaml_tree.parse(text)
    assert node is not None
    value = yaml_tree.value(node)
    assert yaml.safe_load(text) == value
    return value


@given(VALUES)
def test_one_line_is_json_and_yaml(value: JsonValue) -> None:
    text = rendering.flow(value)
    assert "\n" not in text
    assert json.loads(text) == both(text) == value


@given(
    st.dictionaries(st.text(max_size=5).filter(lambda key: key != "<<"), VALUES, min_size=1), st.sampled_from([0, 2])
)
def test_block_style_is_read_as_it_was(value: dict[str, Any], offset: int) -> None:
    lines = rendering.Block(offset).mapping(value, 0)
    assert both("\n".join(lines)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("web", "web"), ("--a=b,c", "--a=b,c"), ("-p", "-p"), ("$(A).b", "$(A).b"), ("100m", "100m"), ("1Mi", "1Mi"),
        ("yes", '"yes"'), ("n", '"n"'), ("8080", '"8080"'), ("1e3", '"1e3"'), ("a:", '"a:"'), ("", '""'), ("*", '"*"'),
        ("a b", '"a b"'), ("it's", '"it\'s"'), ('{"a":1}', "'{\"a\":1}'"), ('"\'', "'\"'''"), (5, "5"), (True, "true"),
        ("a\n", '"a\\n"'), ("\x85", '"\\u0085"'), (None, "null"), ({}, "{}"), ([], "[]"),
    ],
)  # fmt: skip
def test_scalars_are_plain_where_that_is_a_text_for_everybody(value: JsonValue, text: str) -> None:
    assert rendering.scalar(value) == text
    assert both(text) == value


def test_the_dashes_are_where_the_document_has_them() -> None:
    value: dict[str, Any] = {"a": [{"b": [1, [2]]}, "c", {}]}
    assert rendering.Block(0).pair("x", value, 2) == [
        "  x:", "    a:", "    - b:", "      - 1", "      - - 2", "    - c", "    - {}",
    ]  # fmt: skip
    assert rendering.Block(2).pair("x", value, 0)[2:4] == ["    - b:", "        - 1"]
