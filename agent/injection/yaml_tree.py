"""Parses a YAML or JSON document to nodes that know where they are in the text.

Values are those that Kubernetes reads: YAML 1.1, where `yes` is true, without dates. Positions are indices of the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from agent.core.errors import BadInput
from agent.core.redact import without_quotes
from agent.core.yaml_depth import DEEPEST, first_beyond
from agent.core.yaml_scalars import plain_scalar
from agent.injection.edits import JsonValue

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)  # JSON's, in pairs; libyaml refuses them
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
_TEXT_TAGS = ("!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:binary")
_MERGE = "<<"
_MOST = 1 << 20  # values in a document, with aliases expanded


@dataclass(slots=True)
class TreeNode:
    """A scalar, a mapping, a sequence, or an alias of another node (`target`)."""

    start: int
    end: int = 0
    kind: str = "scalar"
    is_flow: bool = False
    is_quoted: bool = False
    text: str = ""
    tag: str | None = None
    anchor: str | None = None
    pairs: "list[tuple[TreeNode, TreeNode]]" = field(default_factory=list)
    items: "list[TreeNode]" = field(default_factory=list)
    target: "TreeNode | None" = None

    @property
    def last(self) -> int:
        """Where its last part ends; `end` of a block collection is where the next token begins."""
        if self.kind == "mapping" and not self.is_flow:
            return self.pairs[-1][1].last if self.pairs else self.end
        if self.kind == "sequence" and not self.is_flow:
            return self.items[-1].last if self.items else self.end
        return self.end

    def pair(self, key: str) -> "int | None":
        """Return the position of a key; None if it is not there."""
        return next((index for index, (name, _) in enumerate(self.pairs) if name.text == key), None)


class Unreadable(BadInput):
    """A document does not parse; `line` begins at 1, within the text."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


def parse(text: str) -> TreeNode | None:
    """Parse a text of one document; None for an empty one. Raises `Unreadable`."""
    shown = _without_tabs(text)
    beyond = first_beyond(DEEPEST, shown)
    if beyond is not None:
        raise Unreadable(beyond.line + 1, f"it is nested deeper than {DEEPEST} levels")
    try:
        return _Composer(yaml.parse(shown, Loader=yaml.SafeLoader if _SURROGATE.search(text) else _LOADER)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise Unreadable(mark.line + 1 if mark else 1, without_quotes(str(error.problem))) from None
    except yaml.YAMLError as error:
        raise Unreadable(1, without_quotes(str(error))) from None


def _without_tabs(text: str) -> str:
    """Return JSON with spaces for the tabs between its tokens, which YAML forbids."""
    return text.replace("\t", " ") if text.lstrip()[:1] in {"{", "["} else text


class _Composer:
    """Builds the tree from the parser's events."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._anchors: dict[str, TreeNode] = {}

    def document(self) -> TreeNode | None:
        """Return the root."""
        root = None
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event)
        return root

    def _node(self, event: yaml.Event) -> TreeNode:
        assert event.start_mark is not None
        assert event.end_mark is not None
        node = TreeNode(event.start_mark.index, event.end_mark.index)
        if isinstance(event, yaml.AliasEvent):
            node.kind, node.target = "alias", self._anchors.get(str(event.anchor))
            if node.target is None:
                raise Unreadable(event.start_mark.line + 1, "an alias names no anchor")
            return node
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        node.anchor, node.tag = event.anchor, event.tag
        if isinstance(event, yaml.ScalarEvent):
            node.text, node.is_quoted = event.value, bool(event.style)
        else:
            node.is_flow = bool(event.flow_style)
            self._collection(node, event)
        if node.anchor:
            self._anchors[node.anchor] = node
        return node

    def _collection(self, node: TreeNode, event: yaml.Event) -> None:
        node.kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
        for inner in self._events:
            if isinstance(inner, yaml.CollectionEndEvent):
                assert inner.end_mark is not None
                node.end = inner.end_mark.index
                return
            child = self._node(inner)
            if node.kind == "sequence":
                node.items.append(child)
            else:
                node.pairs.append((child, self._node(next(self._events))))


def value(node: TreeNode) -> JsonValue:
    """Return the value of a node, aliases expanded. Raises `ValueError` if it is too large."""
    return _Values().of(node)


class _Values:
    def __init__(self) -> None:
        self._count = 0

    def of(self, node: TreeNode) -> JsonValue:
        """Return the value of a node."""
        self._count += 1
        if self._count > _MOST:
            message = f"its aliases stand for more than {_MOST} values"
            raise ValueError(message)
        if node.target is not None:
            return self.of(node.target)
        if node.kind == "sequence":
            return [self.of(item) for item in node.items]
        return self._mapping(node) if node.kind == "mapping" else _scalar(node)

    def _mapping(self, node: TreeNode) -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = {}
        for key, each in node.pairs:
            if key.text == _MERGE and not key.is_quoted:
                merged = self.of(each)
                for mapping in reversed(merged if isinstance(merged, list) else [merged]):
                    found = {**(mapping if isinstance(mapping, dict) else {}), **found}
        return found | {key.text: self.of(each) for key, each in node.pairs if key.text != _MERGE or key.is_quoted}


def _scalar(node: TreeNode) -> JsonValue:
    text = node.text
    if node.is_quoted or node.tag in _TEXT_TAGS:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # JSON writes pairs of surrogates
    plain = plain_scalar(text)
    return float(text) if isinstance(plain, str) and _FLOAT.fullmatch(text) else plain


def duplicate(node: TreeNode) -> TreeNode | None:
    """Return a key that a mapping has twice, or that is no text; None if there is none."""
    keys: set[str] = set()
    for key, _ in node.pairs:
        if key.kind != "scalar" or key.text in keys:
            return key
        keys.add(key.text)
    inner = [*node.items, *(each for _, each in node.pairs)]
    return next((found for each in inner if (found := duplicate(each)) is not None), None)
