"""A document that edits change step by step, and a record of these edits."""

import copy
from collections.abc import Iterable, Mapping

from agent.injection.edits import Append, Edit, Insert, JsonValue, Path, Set


class Draft:
    """A copy of a document, and the edits that it has had."""

    def __init__(self, document: Mapping[str, JsonValue]) -> None:
        self.document = copy.deepcopy({**document})
        self.edits: list[Edit] = []

    def add(self, *edits: Edit) -> None:
        """Apply edits."""
        for edit in edits:
            _apply(self.document, edit)
            self.edits.append(edit)


def applied(document: Mapping[str, JsonValue], edits: Iterable[Edit]) -> dict[str, JsonValue]:
    """Return a copy of the document with the edits."""
    draft = Draft(document)
    draft.add(*edits)
    return draft.document


def value_at(document: JsonValue, path: Path) -> JsonValue:
    """Return the value at a path. Raises KeyError or IndexError."""
    for key in path:
        document = _child(document, key)
    return document


def _child(value: JsonValue, key: str | int) -> JsonValue:
    if isinstance(value, dict) and isinstance(key, str):
        return value[key]
    assert isinstance(value, list), "the path of an edit leads through mappings and lists"
    assert isinstance(key, int), "an index leads into a list"
    return value[key]


def _apply(document: JsonValue, edit: Edit) -> None:
    if isinstance(edit, Append):
        _list(value_at(document, edit.path)).append(copy.deepcopy(edit.value))
        return
    *parents, last = edit.path
    parent = value_at(document, tuple(parents))
    if isinstance(edit, Insert):
        assert isinstance(last, int), "an index ends the path of an insertion"
        _list(parent).insert(last, copy.deepcopy(edit.value))
    elif isinstance(edit, Set):
        _set(parent, last, copy.deepcopy(edit.value))
    else:
        _remove(parent, last)


def _list(value: JsonValue) -> list[JsonValue]:
    assert isinstance(value, list), "there is a list at the path"
    return value


def _set(parent: JsonValue, key: str | int, value: JsonValue) -> None:
    if isinstance(parent, dict) and isinstance(key, str):
        parent[key] = value
        return
    assert isinstance(key, int), "an index leads into a list"
    _list(parent)[key] = value


def _remove(parent: JsonValue, key: str | int) -> None:
    if isinstance(parent, dict) and isinstance(key, str):
        del parent[key]
        return
    assert isinstance(key, int), "an index leads into a list"
    del _list(parent)[key]
