"""Edits in the text of a document: one splice each, in block style and in flow style."""

import pytest
import yaml

from agent.injection.draft import applied
from agent.injection.edits import Append, Edit, Insert, Remove, Set
from agent.injection.positions import NotEditable
from agent.injection.splices import Splicer
from agent.injection.yaml_tree import parse


def edited(text: str, edit: Edit) -> str:
    root = parse(text)
    assert root is not None
    return Splicer(text, root).edited(edit)


@pytest.mark.parametrize(
    ("text", "edit", "result"),
    [
        ("a: 1 # c\n", Set(("a",), "x"), "a: x # c\n"),
        ("a: 1", Set(("b",), {"c": []}), "a: 1\nb:\n  c: []"),
        ("a:\r\n- 1\r\n", Append(("a",), {"b": 2}), "a:\r\n- 1\r\n- b: 2\r\n"),
        ("a:\n  - 1\n  # end\n", Append(("a",), 2), "a:\n  - 1\n  - 2\n  # end\n"),
        ("a: # c\n  # d\n  - 1\n", Insert(("a", 0), 0), "a: # c\n  - 0\n  # d\n  - 1\n"),
        ("a:\n- 1 # c\n- 3\n", Insert(("a", 1), 2), "a:\n- 1 # c\n- 2\n- 3\n"),
        ("a:\n- 1\n", Insert(("a", 1), 2), "a:\n- 1\n- 2\n"),
        ("a: []\n", Append(("a",), 1), "a: [1]\n"),
        ("a: [ 1 ]\n", Append(("a",), 2), "a: [ 1, 2 ]\n"),
        ("a: [1, ]\n", Append(("a",), 2), "a: [1, 2, ]\n"),
        ("a: [1]\n", Insert(("a", 0), {"b": 0}), 'a: [{"b": 0}, 1]\n'),
        ("[\n  1\n]\n", Append((), 2), "[\n  1,\n  2\n]\n"),
        ("{}\n", Set(("a",), 1), '{"a": 1}\n'),
        ("a: {b: 1}\n", Set(("a", "c"), "x"), 'a: {b: 1, "c": "x"}\n'),
        ("a: {b: 1, c: 2}\n", Set(("a", "b"), None), "a: {b: null, c: 2}\n"),
        ("a: ~ # c\n", Set(("a",), {"b": 1}), "a: # c\n  b: 1\n"),
        ("a:\nc: 1\n", Set(("a",), [1]), "a:\n  - 1\nc: 1\n"),
        ("a: # c\n  b: 1 # d\nc: 1\n", Set(("a",), None), "a: # c\nc: 1\n"),
        ("a: |\n  b\nc: 1\n", Set(("a",), "x"), "a: x\nc: 1\n"),
        ("a: [1, 2]\n", Set(("a", 1), 3), "a: [1, 3]\n"),
        ("kind: Pod\nspec: {}\n", Set(("metadata",), {"a": 1}), "kind: Pod\nmetadata:\n  a: 1\nspec: {}\n"),
        ("spec: 1\n", Set(("metadata",), {"a": 1}), "metadata:\n  a: 1\nspec: 1\n"),
        ("t:\n  spec: 1\n", Set(("t", "metadata"), {}), "t:\n  metadata: {}\n  spec: 1\n"),
        ("- spec: 1\n", Set((0, "metadata"), {}), "- metadata: {}\n  spec: 1\n"),
        ("a: 1\nb: 2 # c\nd: 3\n", Remove(("b",)), "a: 1\n# c\nd: 3\n"),
        ("a: 1\nb:\n  c: 2\n", Remove(("b",)), "a: 1\n"),
        ("a: 1\nb: 2\n", Remove(("a",)), "b: 2\n"),
        ("- a: 1\n  b: 2\n", Remove((0, "a")), "- b: 2\n"),
        ("a:\n- 1\n- 2\n", Remove(("a", 0)), "a:\n- 2\n"),
        ("a:\n- 1\n", Remove(("a", 0)), "a: []\n"),
        ("a:\n  b: 1\n", Remove(("a", "b")), "a: {}\n"),
        ("a: [1, 2, 3]\n", Remove(("a", 1)), "a: [1, 3]\n"),
        ("a: [1, 2]\n", Remove(("a", 1)), "a: [1]\n"),
        ("a: [1]\n", Remove(("a", 0)), "a: []\n"),
        ("- - 1\n  - 2\n", Remove((0, 0)), "- - 2\n"),
    ],
)
def test_each_edit_is_one_splice(text: str, edit: Edit, result: str) -> None:
    assert edited(text, edit) == result
    before, after = yaml.safe_load(text), yaml.safe_load(result)
    assert after == applied({"root": before}, [_below(edit)])["root"]


def _below(edit: Edit) -> Edit:
    """Return the edit of a document that is the value of a key."""
    return type(edit)(("root", *edit.path), *([] if isinstance(edit, Remove) else [edit.value]))


@pytest.mark.parametrize(
    ("text", "edit", "why", "line"),
    [
        ("a: &x [1]\nb: *x\n", Append(("a",), 2), "used more than once", 1),
        ("a: &x [1]\nb: *x\n", Append(("b",), 2), "used more than once", 2),
        ("a: &x {b: [1]}\nc:\n  <<: *x\n", Append(("c", "b"), 2), "merge key", 3),
        ("a: 1\n", Append(("a",), 2), "is not a list", 1),
        ("a: 1\n", Set(("a", "b"), 2), "is not a mapping", 1),
        ("a:\n  b: 1\n", Set(("a",), [1]), "cannot be replaced in block style", 2),
        ("- - 1\n", Insert((0, 0), 2), "list of lists", 1),
    ],
)
def test_what_cannot_be_edited_has_a_place(text: str, edit: Edit, why: str, line: int) -> None:
    with pytest.raises(NotEditable, match=why) as refused:
        edited(text, edit)
    assert text.count("\n", 0, refused.value.at) + 1 == line
