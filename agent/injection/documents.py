"""Injects files: splits one into documents, and rewrites those with pod templates.

Separators, comments, empty documents and objects of other kinds are copied as they are.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.core.errors import BadInput
from agent.injection import planning, yaml_tree
from agent.injection.edits import JsonValue, Path
from agent.injection.objects import InjectionRefused, PodTemplate, has_template, objects
from agent.injection.options import InjectionOptions
from agent.injection.positions import NotEditable
from agent.injection.text import injected, uninjected
from agent.injection.yaml_tree import TreeNode, Unreadable

_MARKER = re.compile(r"^(?:---(?=\s|$)|\.\.\.[^\n]*(?:\n|$))", re.MULTILINE)
_BOM = "\ufeff"


@dataclass(slots=True)
class Rewritten:
    """The new text of a file; `notes` and `copied` are messages about objects."""

    text: str = ""
    notes: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)


def inject(text: str, name: str, options: InjectionOptions, namespace: str | None = None) -> Rewritten:
    """Return a file with its objects injected. Raises `BadInput` naming document and line."""

    def change(text: str, path: Path, found: dict[str, JsonValue]) -> tuple[str, tuple[str, ...]]:
        plan = planning.inject(found, options, namespace=namespace)
        if not plan.edits:
            return text, plan.notes
        removal = planning.cleaned(found, adopt=options.adopt)
        if not removal.edits:
            return injected(text, plan.edits, path), plan.notes
        text = uninjected(text, removal.edits, path)
        addition = planning.inject(_object_at(text, path), options, namespace=namespace)
        return injected(text, addition.edits, path), plan.notes

    return _rewritten(text, name, change)


def uninject(text: str, name: str) -> Rewritten:
    """Return a file without injections. Raises `BadInput` naming document and line."""

    def change(text: str, path: Path, found: dict[str, JsonValue]) -> tuple[str, tuple[str, ...]]:
        plan = planning.uninject(found)
        return uninjected(text, plan.edits, path), plan.notes

    return _rewritten(text, name, change)


_Change = Callable[[str, Path, dict[str, JsonValue]], tuple[str, tuple[str, ...]]]


def _object_at(text: str, path: Path) -> dict[str, JsonValue]:
    root = yaml_tree.parse(text)
    assert root is not None, "it has been parsed before"
    return next(found for where, found in objects(yaml_tree.value(root)) if where == path)


def _rewritten(text: str, name: str, change: _Change) -> Rewritten:
    rewritten = Rewritten(_BOM if text.startswith(_BOM) else "")
    line = 1
    for number, part in enumerate(split(text.removeprefix(_BOM)), 1):
        rewritten.text += _Part(part, f"{name}, document {number}", line).rewrite(change, rewritten)
        line += part.count("\n")
    return rewritten


def split(text: str) -> Iterator[str]:
    """Yield the documents of a stream, each with the marker and the directives before it."""
    start = 0
    for match in _MARKER.finditer(text):
        is_end = match[0].startswith("...")
        at = match.end() if is_end else match.start()
        before = text[start:at]
        if at > start and (is_end or not _is_prologue(before)):
            yield before
            start = at
    if start < len(text) or not text:
        yield text[start:]


def _is_prologue(text: str) -> bool:
    """Return whether the text is only directives, for the document after it."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return bool(lines) and all(line.startswith("%") for line in lines)


class _Part:
    """One document of a file."""

    def __init__(self, text: str, where: str, line: int) -> None:
        self._text, self._where, self._line = text, where, line

    def rewrite(self, change: _Change, rewritten: Rewritten) -> str:
        """Return the new text of the document."""
        try:
            root = yaml_tree.parse(self._text)
            document = None if root is None else yaml_tree.value(root)
        except Unreadable as error:
            raise self._unreadable(error.line, str(error)) from None
        except ValueError as error:
            raise self._unreadable(1, str(error)) from None
        text = self._text
        for path, found in objects(document):
            if not has_template(found):
                rewritten.copied.append(f"{self._where}: {_described(found)} has no pod template, and is copied")
                continue
            assert root is not None, "it has a value"
            self._check(root, found)
            text = self._changed(text, path, found, change, rewritten)
        return text

    def _check(self, root: TreeNode, found: dict[str, JsonValue]) -> None:
        """Raise `InjectionRefused` for a repeated key: which one counts depends on the reader."""
        key = yaml_tree.duplicate(root)
        if key is not None:
            line = self._line + self._text.count("\n", 0, key.start)
            why = f"line {line} repeats a key, or has one that is no text; correct it"
            message = f"cannot change {_described(found)} ({self._where}): {why}"
            raise InjectionRefused(message)

    def _changed(
        self, text: str, path: Path, found: dict[str, JsonValue], change: _Change, rewritten: Rewritten
    ) -> str:
        try:
            new, notes = change(text, path, found)
        except NotEditable as error:
            line = self._line + text.count("\n", 0, error.at)
            message = f"cannot change {PodTemplate(found).where} ({self._where}): what is at line {line} {error}"
            raise InjectionRefused(message) from None
        except InjectionRefused as error:
            message = f"{error} ({self._where})"
            raise InjectionRefused(message) from None
        rewritten.notes += [f"{self._where}: {note}" for note in notes]
        return new

    def _unreadable(self, line: int, why: str) -> BadInput:
        remedy = "render the template first" if "{{" in self._text else "correct it"
        return BadInput(f"cannot read {self._where}, line {self._line + line - 1}: {why}; {remedy}")


def _described(found: dict[str, JsonValue]) -> str:
    metadata = found.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{found.get('kind') or 'an object'}{f' {name}' if isinstance(name, str) else ''}"
