"""What an edit takes away from a text is recorded, and put back byte for byte."""

from typing import Any

import pytest

from agent.injection import records
from agent.injection.edits import Append, Edit, Remove, Set
from agent.injection.positions import NotEditable
from agent.injection.splices import Splicer
from agent.injection.yaml_tree import parse


def splicer(text: str) -> Splicer:
    root = parse(text)
    assert root is not None
    return Splicer(text, root)


@pytest.mark.parametrize(
    ("text", "edit", "record"),
    [
        ("a: 'x' # c\n", Set(("a",), "y"), [" 'x'"]),
        ("a:   x\n", Set(("a",), "y"), ["   x"]),
        ("a: >-\n  x\n\nb: 1\n", Set(("a",), "y"), [" >-\n  x\n"]),
        ("{a: 'x', b: 1}\n", Set(("a",), "y"), ["'x'"]),
        ("a: ~ # c\n", Set(("a",), {"b": 1}), [" ~"]),
        ("p:\n  a: 1\n  # c\n\n  b: 2 # d\n  e: 3\n", Remove(("p", "b")), ["\n  b: 2 # d", 1, 2, 1]),
        ("p:\n  # c\n  b:\n    x: 1\n  e: 3\n", Remove(("p", "b")), ["\n  b:\n    x: 1", 0, 1, 0]),
        ("p:\n  a:\n    x: 1\n    y: 2\n  b: 2\n  e: 3\n", Remove(("p", "b")), ["\n  b: 2", 1, 0, 0]),
        ("p: {a: 1, b: 2, c: 3}\n", Remove(("p", "b")), ["b: 2, ", 1]),
        ("p: {a: 1, b: 2 }\n", Remove(("p", "b")), [", b: 2", 1]),
    ],
)
def test_a_record_restores_the_text(text: str, edit: Edit, record: list[Any]) -> None:
    before = splicer(text)
    assert records.record(before, edit) == record
    after = splicer(before.edited(edit))
    assert records.restored(after, edit.path, record) == text


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("a: x # c\n", Set(("a",), "y")), ("a: 8080\n", Set(("a",), 1)), ('{"a": "x"}', Set(("a",), "y")),
        ("a: 1\n", Set(("b",), 2)), ("a: [1]\n", Append(("a",), 2)), ("a: [1]\n", Remove(("a", 0))),
        ("a:\n", Set(("a",), {"b": 1})),
    ],
)  # fmt: skip
def test_nothing_is_recorded_where_the_reverse_writes_the_same(text: str, edit: Edit) -> None:
    assert records.record(splicer(text), edit) is None


@pytest.mark.parametrize("record", [[5], [None, 1, 0, 0]])
def test_what_is_no_record_is_refused(record: list[Any]) -> None:
    with pytest.raises(NotEditable, match="has a record that is none"):
        records.restored(splicer("a: 1\n"), ("a",), record)


def test_comments_that_are_no_longer_there_are_not_replaced() -> None:
    with pytest.raises(NotEditable, match="has changed since the injection"):
        records.restored(splicer("p:\n  a: 1\n  c: 3\n"), ("p", "b"), ["\n  b: 2 # d", 1, 0, 1])
