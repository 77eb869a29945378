"""Parses YAML or JSON into a tree of plain values, as Envoy does (see `core.yaml_scalars`)."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agent.core.errors import BadInput
from agent.core.redact import field_name, without_quotes
from agent.core.yaml_depth import first_beyond
from agent.core.yaml_scalars import plain_scalar

Tree = dict[str, Any]

_DEEPEST = 100  # levels; protobuf's limit for JSON
_LARGEST = 1 << 21  # values
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CAMEL = re.compile(r"[a-z][a-z0-9]*(?:[A-Z][a-z0-9]*)+")
_FREE_FORM = frozenset({"metadata", "json_format"})  # their keys are not field names


def load(path: str) -> Tree:
    """Read a file; raise BadInput, which names it and, for a parse error, the line."""
    if path.endswith((".pb", ".pb_text")):
        raise BadInput(f"cannot read {path}: protobuf's own formats are not supported by sidecar; write YAML or JSON")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    return parse(text, path)


def parse(text: str, name: str) -> Tree:
    """Parse JSON if `name` ends in .json, else YAML; raise BadInput with the name and the line."""
    try:
        tree = _in_snake_case(_json(text) if name.endswith(".json") else _yaml(text))
        _require_characters(text, tree)
    except (_Unreadable, ValueError, yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"cannot read {name}: {_reason(error)}") from error
    if tree is None:
        raise BadInput(f"cannot read {name}: it is empty; a bootstrap begins with static_resources or similar")
    if not isinstance(tree, dict):
        raise BadInput(f"cannot read {name}: its root is not a mapping; a bootstrap begins with static_resources")
    return tree


def merge(under: Tree, over: Tree) -> Tree:
    """Merge `over` into `under`, as protobuf merges messages.

    Lists are joined; a value that is set replaces the earlier one.
    """
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        if name in _FREE_FORM and isinstance(below, dict) and isinstance(value, dict):
            merged[name] = {**below, **value}
        elif name in _SPANS:
            merged[name] = _merged_span(below, value)
        elif isinstance(below, list) and isinstance(value, list):
            merged[name] = [*below, *value]
        elif isinstance(below, dict) and isinstance(value, dict):
            merged[name] = value if "@type" in value else merge(_without_alternatives(below, value), value)
        elif below is None or value or isinstance(value, list | dict):  # protobuf treats zero as unset
            merged[name] = value
    return merged


_SPANS = frozenset({"stats_flush_interval"})  # the durations in messages that can be merged
_SPAN = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)


def _merged_span(below: object, value: object) -> object:
    """Merge two durations, each a message of seconds and nanoseconds: 7s and 0.5s give 7.5s."""
    under, over = (_SPAN.fullmatch(each) if isinstance(each, str) else None for each in (below, value))
    if under is None or over is None:
        return below if value is None else value
    whole = over[1] if int(over[1]) else under[1]
    part = over[2] if int(over[2] or 0) else under[2]
    return f"{whole}.{part}s" if part else f"{whole}s"


_ALTERNATIVES = (frozenset({"socket_address", "pipe"}), frozenset({"text_format", "json_format"}))


def _without_alternatives(below: Tree, value: Tree) -> Tree:
    """Return `below` without the members that exclude a member of `value`."""
    gone = {name for group in _ALTERNATIVES if group & value.keys() for name in group - value.keys()}
    return {name: member for name, member in below.items() if name not in gone}


def _require_characters(text: str, tree: object) -> None:
    """Reject half surrogate pairs: only an escape can contain one, and no text can encode it."""
    if "\\ud" in text.lower():
        try:
            json.dumps(tree, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise _Unreadable("an escape in it is half of a surrogate pair") from error


class _Unreadable(Exception):
    """The text is well formed, but not a valid document."""


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg}; correct it"
    if isinstance(error, RecursionError):
        return "it is nested too deep; write it flatter"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return f"{_line(mark)}{without_quotes(error.problem or error.context or 'not YAML')}; correct it"
    if isinstance(error, _Unreadable):
        return f"{error}; correct it"
    return f"{without_quotes(str(error))}; correct it"


def _line(mark: Any) -> str:  # noqa: ANN401  # yaml's marks have no common type
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


def _key(name: str) -> str:
    known = field_name(name, "")
    return f"the key {known}" if known else "a key"


# JSON


def _json(text: str) -> Any:  # noqa: ANN401  # any tree
    return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)


def _object(members: list[tuple[str, Any]]) -> Tree:
    tree = dict(members)
    if len(tree) < len(members):
        names = [name for name, _ in members]
        double = next(name for name in names if names.count(name) > 1)
        raise _Unreadable(f"{_key(double)} occurs twice in one object")
    return tree


def _no_number(word: str) -> None:
    raise _Unreadable(f"{word} is not a number in JSON")


# YAML


@dataclass(slots=True)
class _Open:
    """A collection that is still open: its end event is pending."""

    value: Any
    anchor: str | None
    size: int  # of the document before this collection
    key: str | None = None
    dropped: bool = False


@dataclass(slots=True)
class _Builder:
    """Builds the tree from the flat sequence of events, so that deep nesting uses no stack."""

    root: Any = None
    documents: int = 0
    opened: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)  # the value and its size
    size: int = 0

    def document(self, event: Any) -> None:  # noqa: ANN401
        self.documents += 1
        if self.documents > 1:
            raise _Unreadable(f"{_line(event.start_mark)}it holds more than one document")

    def begin(self, event: Any) -> None:  # noqa: ANN401
        if len(self.opened) == _DEEPEST:
            raise _too_deep(event.start_mark)
        if event.anchor is not None:
            self.anchors.pop(event.anchor, None)
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.expect_value(event)
        self.opened.append(_Open(value, event.anchor, self.size))

    def end(self, _event: object) -> None:
        done = self.opened.pop()
        if done.anchor is not None:
            self.anchors[done.anchor] = done.value, self.size - done.size + 1
        self.put(done.value)

    def scalar(self, event: Any) -> None:  # noqa: ANN401
        if self.opened and isinstance(self.opened[-1].value, dict) and self.opened[-1].key is None:
            self.name(event)
            return
        value = event.value if event.style or event.tag == "!" else plain_scalar(event.value)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, 1
        self.put(value)

    def alias(self, event: Any) -> None:  # noqa: ANN401
        self.expect_value(event)
        if event.anchor not in self.anchors:
            name = field_name(event.anchor, "there")
            raise _Unreadable(f"{_line(event.start_mark)}the alias {name} has no anchor before it")
        value, size = self.anchors[event.anchor]
        self.size += size
        self.put(value)

    def expect_value(self, event: Any) -> None:  # noqa: ANN401
        if self.opened and isinstance(self.opened[-1].value, dict) and self.opened[-1].key is None:
            raise _Unreadable(f"{_line(event.start_mark)}a key is not a plain word")

    def name(self, event: Any) -> None:  # noqa: ANN401
        within = self.opened[-1]
        if event.value in within.value:
            raise _Unreadable(f"{_line(event.start_mark)}{_key(event.value)} occurs twice in one mapping")
        within.key, within.dropped = event.value, event.tag == "!ignore"

    def put(self, value: Any) -> None:  # noqa: ANN401
        self.size += 1
        if self.size > _LARGEST:
            raise _Unreadable(f"it holds more than {_LARGEST} values, including those of its aliases")
        if not self.opened:
            self.root = value
            return
        within = self.opened[-1]
        if isinstance(within.value, list):
            within.value.append(value)
            return
        if not within.dropped:
            within.value[within.key] = value
        within.key = None


_STEPS: dict[type, Callable[[_Builder, Any], None]] = {
    yaml.DocumentStartEvent: _Builder.document,
    yaml.MappingStartEvent: _Builder.begin,
    yaml.SequenceStartEvent: _Builder.begin,
    yaml.MappingEndEvent: _Builder.end,
    yaml.SequenceEndEvent: _Builder.end,
    yaml.ScalarEvent: _Builder.scalar,
    yaml.AliasEvent: _Builder.alias,
}


def _yaml(text: str) -> Any:  # noqa: ANN401  # any tree
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            step = _STEPS.get(type(event))
            if step is not None:
                step(builder, event)
    except yaml.MarkedYAMLError as error:
        beyond = first_beyond(_DEEPEST, text)  # libyaml may have reached its own limit first
        if beyond is not None:
            raise _too_deep(beyond) from error
        raise
    return builder.root


def _too_deep(mark: Any) -> _Unreadable:  # noqa: ANN401  # as for _line
    return _Unreadable(f"{_line(mark)}it is nested more than {_DEEPEST} levels deep")


def _in_snake_case(value: Any) -> Any:  # noqa: ANN401  # any tree
    """Return the tree with field names in snake_case: protobuf's JSON allows camelCase as well."""
    if isinstance(value, list):
        return [_in_snake_case(each) for each in value]
    if not isinstance(value, dict):
        return value
    tree: Tree = {}
    for name, each in value.items():
        spelled = _snake(name)
        if spelled in tree:
            raise _Unreadable(f"{_key(spelled)} occurs twice in one mapping, in two spellings")
        tree[spelled] = each if name in _FREE_FORM else _in_snake_case(each)
    return tree


def _snake(name: str) -> str:
    if _CAMEL.fullmatch(name) is None:
        return name
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)
