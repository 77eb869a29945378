"""Applies edits to the text of a document; every other byte stays.

Where an edit replaces or removes a text that its reverse would not write in the same way, that text is recorded. The
status annotation keeps the records (`text`), so that a later removal restores the document byte for byte. Each edit is
checked: the new text must have the value of the old one with the edit.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from agent.injection import records as texts
from agent.injection import yaml_tree
from agent.injection.annotations import STATUS
from agent.injection.draft import applied, value_at
from agent.injection.edits import Edit, JsonValue, Path, Set
from agent.injection.objects import PodTemplate
from agent.injection.positions import NotEditable
from agent.injection.records import Record
from agent.injection.splices import Splicer
from agent.injection.status import pointer, text_of
from agent.injection.yaml_tree import Unreadable

_KEY = "text"
Records = dict[str, Record]
"""By pointer to the value, from the object."""


def injected(text: str, edits: Iterable[Edit], below: Path = ()) -> str:
    """Return the text with the edits that inject the object at a path. Raises `NotEditable`."""
    document = _Document(text, below)
    for edit in edits:
        document.inject(edit)
    return document.text


def uninjected(text: str, edits: Iterable[Edit], below: Path = ()) -> str:
    """Return the text with the edits that remove an injection. Raises `NotEditable`."""
    document = _Document(text, below)
    records = _recorded(document.object)
    for edit in edits:
        document.uninject(edit, records)
    return document.text


class _Document:
    """A text and its tree."""

    def __init__(self, text: str, below: Path) -> None:
        self._below = below
        self._records: Records = {}
        self._read(text)

    def _read(self, text: str) -> None:
        root = yaml_tree.parse(text)
        whole = None if root is None else yaml_tree.value(root)
        if root is None or not isinstance(whole, dict):
            raise Unreadable(1, "it is no object")
        self.text, self._root, self._whole = text, root, whole
        self._splicer = Splicer(text, root)

    @property
    def object(self) -> JsonValue:
        """The value of the object."""
        return value_at(self._whole, self._below)

    def inject(self, edit: Edit) -> None:
        """Apply an edit, and record what it takes away."""
        whole = replace(edit, path=(*self._below, *edit.path))
        record = texts.record(self._splicer, whole)
        if record is not None:
            self._records[_pointer(edit.path)] = record
        if isinstance(edit, Set) and isinstance(whole, Set) and self._records:
            whole = replace(whole, value=_with_records(edit.path, edit.value, self._records))
        self._take(self._edited(whole), whole)

    def uninject(self, edit: Edit, records: Records) -> None:
        """Apply an edit; a record is used if it has the value of the edit."""
        whole = replace(edit, path=(*self._below, *edit.path))
        record = records.get(_pointer(edit.path))
        if isinstance(edit, Set) and record is not None:
            with suppress(ValueError, IndexError, TypeError):
                self._take(texts.restored(self._splicer, whole.path, record), whole)
                return
        self._take(self._edited(whole), whole)

    def _edited(self, edit: Edit) -> str:
        try:
            return self._splicer.edited(edit)
        except NotEditable:
            raise
        except (ValueError, IndexError):
            raise self._not_editable(edit) from None

    def _not_editable(self, edit: Edit) -> NotEditable:
        return NotEditable(self._splicer.place(edit.path), "is written in a way that cannot be edited; use block style")

    def _take(self, text: str, edit: Edit) -> None:
        before = self.text
        wanted = applied(self._whole, [edit])
        with suppress(Unreadable):
            self._read(text)
            if self._whole == wanted:
                return
        self._read(before)
        raise self._not_editable(edit)


def _pointer(path: Path) -> str:
    return pointer(*map(str, path))


def _recorded(document: JsonValue) -> Records:
    """Return the records in the status of an object; none if they are not readable."""
    assert isinstance(document, dict), "edits are of an object"
    status = PodTemplate(document).annotations.values.get(STATUS)
    with suppress(ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {name: [*record] for name, record in json.loads(str(status))[_KEY].items()}
    return {}


def _with_records(path: Path, value: JsonValue, records: Records) -> JsonValue:
    """Return the value of an edit, with the records in the status if that is in it."""
    if path[-1] == STATUS:
        return text_of({**json.loads(str(value)), _KEY: records})
    if path[-1] in {"metadata", "annotations"} and isinstance(value, dict):
        return {key: _with_records((*path, key), each, records) for key, each in value.items()}
    return value
