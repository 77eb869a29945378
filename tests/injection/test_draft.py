"""Edits apply in order, each to the result of the ones before, and leave the document itself alone."""

import copy
from typing import Any

import pytest

from agent.injection.draft import Draft, applied, value_at
from agent.injection.edits import Append, Edit, Insert, Remove, Set

DOCUMENT: dict[str, Any] = {"a": [1, {"b": 2}], "c": {}}


@pytest.mark.parametrize(
    ("edits", "result"),
    [
        ([Append(("a",), 3)], {"a": [1, {"b": 2}, 3], "c": {}}),
        ([Insert(("a", 0), 0), Insert(("a", 2), 9)], {"a": [0, 1, 9, {"b": 2}], "c": {}}),
        ([Set(("c", "d"), []), Append(("c", "d"), 1)], {"a": [1, {"b": 2}], "c": {"d": [1]}}),
        ([Set(("a", 0), "x"), Set(("a", 1, "b"), None)], {"a": ["x", {"b": None}], "c": {}}),
        ([Remove(("a", 0)), Remove(("a", 0, "b")), Remove(("c",))], {"a": [{}]}),
    ],
)
def test_each_edit_applies_to_the_result_of_those_before(edits: list[Edit], result: dict[str, Any]) -> None:
    before = copy.deepcopy(DOCUMENT)
    assert applied(DOCUMENT, edits) == result
    assert before == DOCUMENT


def test_a_draft_keeps_its_edits_and_shares_no_value_with_them() -> None:
    value: dict[str, Any] = {}
    draft = Draft(DOCUMENT)
    draft.add(Set(("c", "d"), value), Set(("c", "d", "e"), 1))
    assert (value, draft.edits) == ({}, [Set(("c", "d"), {}), Set(("c", "d", "e"), 1)])


def test_a_path_that_is_not_there_is_an_error() -> None:
    assert value_at(DOCUMENT, ("a", 1, "b")) == 2
    with pytest.raises(KeyError):
        value_at(DOCUMENT, ("c", "x"))
    with pytest.raises(AssertionError):
        applied(DOCUMENT, [Append(("c",), 1)])
