"""Reads, changes and writes a configuration as YAML nodes, without interpreting scalars.

Envoy has its own rules for the types of `yes`, `0777` or `1e3`. A document that is parsed to nodes, changed and written
again keeps every scalar as the operator wrote it, quoted or plain. JSON is parsed as by protobuf (YAML allows neither
its tabs nor its long keys), and its values become the same nodes. Keys are matched in snake_case and in camelCase, as
protobuf's JSON allows both.

YAML is parsed as by yaml-cpp where libyaml is stricter: only the first document is used, control characters are
allowed, and an anchor may be redefined.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agent.core.errors import BadInput
from agent.core.redact import without_quotes
from agent.core.yaml_depth import DEEPEST, first_beyond
from agent.core.yaml_scalars import plain_scalar
from agent.proxies.envoy import lenient_json
from agent.proxies.envoy.lenient_json import Pairs

_MAPPING, _SEQUENCE, _TEXT = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:str"
_RESOLVER = yaml.resolver.Resolver()
_MOST = 1 << 21  # values in one document
_TRUE = frozenset({"true", "yes", "on", "y"})
_STAND_INS = 0x10F000  # private Unicode characters that replace control characters, which libyaml rejects
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_STOOD_IN = re.compile(f"[{chr(_STAND_INS)}-{chr(_STAND_INS + 0xFF)}]")
_NONCHARACTERS = 0xFE  # from here on, U+FFFE and U+FFFF


BOOTSTRAP, RESOURCES = "an Envoy bootstrap begins with static_resources or similar", "write a list under resources"


def read(text: str, name: str, *, is_json: bool | None = None, remedy: str = BOOTSTRAP) -> MappingNode:
    """Parse a document whose root is a mapping; an empty YAML document is an empty mapping.

    Raises `BadInput` with the line. `is_json`: by default, from the suffix. `remedy`: advice in the error for another
    root.
    """
    try:
        root = _parsed(text, name, is_json=name.endswith(".json") if is_json is None else is_json)
    except json.JSONDecodeError as error:
        message = f"cannot read {name}: line {error.lineno}, column {error.colno}: {error.msg}; correct it"
        raise BadInput(message) from error
    except ValueError as error:  # int() accepts only some thousand digits
        raise BadInput(f"cannot read {name}: a number in it is too long; correct it") from error
    except yaml.MarkedYAMLError as error:
        raise BadInput(f"cannot read {name}: {_place(error)}; correct it") from error
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise BadInput(f"cannot read {name}: {without_quotes(str(error))}; correct it") from error
    except RecursionError as error:
        raise _too_deep(name) from error
    if root is None and not text.strip():
        return MappingNode(_MAPPING, [])
    if not isinstance(root, MappingNode):
        found = "it contains only comments" if root is None else "its root is not a mapping"
        message = f"cannot read {name}: {found}; {remedy}"
        raise BadInput(message)
    if "*" in text:
        _weigh_aliases(root, name)
    return root


def _weigh_aliases(root: Node, name: str) -> None:
    """Raise `BadInput` if expanded aliases make the document too large or too deep."""
    try:
        values, levels = _size(root, {})
    except RecursionError as error:
        raise _too_deep(name) from error
    if values > _MOST:
        message = f"cannot use {name}: its aliases stand for more than {_MOST} values; write fewer"
        raise BadInput(message)
    if levels > DEEPEST:
        raise _too_deep(name)


def _size(node: Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return a tree's numbers of values and levels with aliases expanded.

    A tree that contains itself has more than `_MOST` values.
    """
    if id(node) not in known:
        known[id(node)] = _MOST + 1, 0
        inner: list[Node] = []
        if isinstance(node, MappingNode):
            inner = [value for _, value in node.value]
        elif isinstance(node, SequenceNode):
            inner = node.value
        sizes = [_size(each, known) for each in inner]
        known[id(node)] = 1 + sum(values for values, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
    return known[id(node)]


def _parsed(text: str, name: str, *, is_json: bool) -> Node | None:
    if "\0" in text[:2]:
        message = f"cannot read {name}: it is UTF-16 or UTF-32; save it as UTF-8"
        raise BadInput(message)
    if is_json:
        return compose(lenient_json.loads(text))
    controls = _CONTROLS.search(text) is not None
    if controls:
        text = _CONTROLS.sub(lambda match: chr(_STAND_INS + (ord(match[0]) & 0xFF)), text)
    if first_beyond(DEEPEST, text) is not None:
        raise _too_deep(name)
    root = _first_document(text)
    if controls and root is not None:
        _put_controls_back(root)
    return root


def _first_document(text: str) -> Node | None:
    try:
        return _composed_by(yaml.CSafeLoader, text)
    except yaml.composer.ComposerError:  # perhaps an anchor is redefined
        return _composed_by(_Forgetful, text)


def _composed_by(loader: type[yaml.CSafeLoader] | type[yaml.SafeLoader], text: str) -> Node | None:
    documents: Iterator[Node] = yaml.compose_all(text, Loader=loader)
    return next(documents, None)


class _Forgetful(yaml.SafeLoader):
    """Allows an anchor to be redefined, as YAML 1.2 does; slow, so used only when needed."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:  # noqa: ANN401  # PyYAML's
        """Compose a node after removing the earlier definition of its anchor."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent):
            self.anchors.pop(event.anchor, None)
        node: Node | None = super().compose_node(parent, index)
        return node


def _put_controls_back(root: Node) -> None:
    for _, mapping in mappings(root):
        for node in [each for pair in mapping.value for each in pair]:
            for scalar in [node, *items(node)]:
                if isinstance(scalar, ScalarNode):
                    scalar.value = _STOOD_IN.sub(_stood_in_for, scalar.value)


def _stood_in_for(match: re.Match[str]) -> str:
    code = ord(match[0]) - _STAND_INS
    return chr(code | 0xFF00 if code >= _NONCHARACTERS else code)


def _too_deep(name: str) -> BadInput:
    return BadInput(f"cannot read {name}: it is nested more than {DEEPEST} levels deep; write it flatter")


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}{without_quotes(error.problem or error.context or 'not YAML')}"


def write(root: Node) -> str:
    """Return the document as YAML text."""
    text: str = yaml.serialize(root, Dumper=yaml.CSafeDumper, allow_unicode=True, width=1 << 20)
    return text


def write_json(root: Node, *, from_json: bool) -> str:
    """Return the document as JSON, scalars as Envoy reads them in YAML, or JSON if `from_json`.

    Of duplicate keys in YAML the last one is used, as in Envoy; keys with the tag `!ignore` are omitted.
    """
    return json.dumps(_plain(root, from_json=from_json))


def _plain(node: Node, *, from_json: bool) -> object:
    if isinstance(node, MappingNode):
        kept = [(name, value) for name, value in node.value if name.tag != "!ignore"]
        pairs = [(str(name.value), _plain(value, from_json=from_json)) for name, value in kept]
        return _Twice(pairs) if from_json and len(dict(pairs)) < len(pairs) else dict(pairs)
    if isinstance(node, SequenceNode):
        return [_plain(value, from_json=from_json) for value in node.value]
    if not isinstance(node, ScalarNode) or node.style:  # the style of a plain scalar is None or empty
        return str(node.value)
    return json.loads(node.value) if from_json else plain_scalar(node.value)


class _Twice(dict[str, object]):
    """An object with duplicate keys, which are written unchanged for Envoy to judge."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    def items(self) -> Any:  # noqa: ANN401  # as json expects
        """Return every pair."""
        return self._pairs


def compose(value: object) -> Node:
    """Convert parsed JSON to nodes. Raises RecursionError if it is nested too deep."""
    return _composed(value, 0)


def _composed(value: object, depth: int) -> Node:
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, dict | Pairs):
        inside = value.items() if isinstance(value, dict) else value
        pairs = [(_composed(str(key), depth + 1), _composed(inner, depth + 1)) for key, inner in inside]
        return MappingNode(_MAPPING, pairs)
    if isinstance(value, list):
        return SequenceNode(_SEQUENCE, [_composed(inner, depth + 1) for inner in value])
    if isinstance(value, str):
        return ScalarNode(_TEXT, value, style='"')
    plain = json.dumps(value)
    tag: str = _RESOLVER.resolve(ScalarNode, plain, (True, False))  # type: ignore[no-untyped-call]
    return ScalarNode(tag, plain)


def get(node: Node | None, *path: str) -> Node | None:
    """Return the node at a path of snake_case keys through mappings; None if there is none."""
    for key in path:
        if not isinstance(node, MappingNode):
            return None
        node = next((value for name, value in node.value if is_key(name, key)), None)
    return node


def items(node: Node | None) -> list[Node]:
    """Return the elements of a sequence; an empty list for any other node."""
    return list(node.value) if isinstance(node, SequenceNode) else []


def text(node: Node | None) -> str | None:
    """Return a scalar as written; None for any other node and for null."""
    if not isinstance(node, ScalarNode) or node.tag == "tag:yaml.org,2002:null":
        return None
    return str(node.value)


def truth(node: Node | None, *, default: bool) -> bool:
    """Return a scalar as Envoy reads a boolean; `default` if there is none."""
    value = text(node)
    return default if value is None else value.lower() in _TRUE


def is_key(node: Node, key: str) -> bool:
    """Return whether a key node is `key` (snake_case), in snake_case or camelCase."""
    value = text(node)
    return value is not None and is_name(value, key)


def is_name(name: str, key: str) -> bool:
    """Return whether a key's text is `key` (snake_case), in snake_case or camelCase."""
    return name == key or ("_" in key and name == _camel(key))


def _camel(key: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), key)


def put(mapping: MappingNode, key: str, value: Node) -> None:
    """Set a key, replacing an existing one."""
    remove(mapping, key)
    mapping.value.append((compose(key), value))


def remove(mapping: MappingNode, key: str) -> None:
    """Remove a key, if present."""
    mapping.value = [(name, value) for name, value in mapping.value if not is_key(name, key)]


def copied(node: Node) -> Node:
    """Return a deep copy of a tree; nodes shared by aliases are shared in the copy, too."""
    return _copied(node, {})


def _copied(node: Node, known: dict[int, Node]) -> Node:
    if id(node) not in known:
        fresh: Node
        if isinstance(node, MappingNode):
            pairs = [(_copied(name, known), _copied(value, known)) for name, value in node.value]
            fresh = MappingNode(node.tag, pairs)
        elif isinstance(node, SequenceNode):
            fresh = SequenceNode(node.tag, [_copied(each, known) for each in node.value])
        else:
            fresh = ScalarNode(node.tag, node.value, style=getattr(node, "style", None))
        known[id(node)] = fresh
    return known[id(node)]


def unshare(root: Node) -> None:
    """Give each alias nodes of its own, so that a change in one place of a tree is none in another."""
    seen: set[int] = set()
    waiting: list[Node] = [root]

    def owned(node: Node) -> Node:
        own = copied(node) if id(node) in seen else node
        seen.add(id(own))
        waiting.append(own)
        return own

    while waiting:
        node = waiting.pop()
        if isinstance(node, MappingNode):
            node.value = [(name, owned(value)) for name, value in node.value]
        elif isinstance(node, SequenceNode):
            node.value = [owned(each) for each in node.value]


def take_apart(root: Node) -> None:
    """Free a tree node by node: freed all at once, it would block every thread."""
    waiting: list[Node] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, MappingNode):
            pairs, node.value = node.value, []
            waiting += [each for pair in pairs for each in pair]
        elif isinstance(node, SequenceNode):
            waiting += node.value
            node.value = []


def child_mapping(mapping: MappingNode, key: str) -> MappingNode:
    """Return the mapping under a key, created if missing."""
    found = get(mapping, key)
    if not isinstance(found, MappingNode):
        found = MappingNode(_MAPPING, [])
        put(mapping, key, found)
    return found


def append(mapping: MappingNode, key: str, value: Node) -> None:
    """Add an element to the sequence under a key, created if missing; an alias of the sequence stays as it is."""
    found = get(mapping, key)
    if not isinstance(found, SequenceNode):
        put(mapping, key, SequenceNode(_SEQUENCE, [value]))
        return
    longer = SequenceNode(found.tag, [*found.value, value])
    mapping.value = [(name, longer if is_key(name, key) else inner) for name, inner in mapping.value]


def mappings(root: Node) -> Iterator[tuple[str, MappingNode]]:
    """Yield every mapping of a tree once, with its key; an element has the key of its sequence."""
    seen: set[int] = set()
    waiting: list[tuple[str, Node]] = [("", root)]
    while waiting:
        key, node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            yield key, node
            waiting += [(text(name) or "", value) for name, value in reversed(node.value)]
        elif isinstance(node, SequenceNode):
            waiting += [(key, value) for value in reversed(node.value)]
