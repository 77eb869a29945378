"""Writes edits into the text of a document: lines in block style, JSON in flow style.

The comments of a line stay with it; a new line goes behind the last line of the item before it. So what was added can
be cut out again without a trace.
"""

from typing import Final

from agent.injection import rendering
from agent.injection.edits import Append, Edit, Insert, JsonValue, Path, Set
from agent.injection.positions import NotEditable, Positions, list_offset
from agent.injection.rendering import Block
from agent.injection.yaml_tree import TreeNode

_BEFORE: Final = {"metadata": "spec", "initContainers": "containers"}
"""Where a new key stands: before another one, if that is there, else last."""


class Splicer:
    """Edits one text. Each method returns the new text, or raises `NotEditable`."""

    def __init__(self, text: str, root: TreeNode) -> None:
        self.text, self._root = text, root
        self.at = Positions(text)
        offset = list_offset(self.at, root)
        self._block = Block(2 if offset is None else offset)
        self._aliased = _aliased(root)

    def edited(self, edit: Edit) -> str:
        """Return the text with an edit."""
        if isinstance(edit, Append):
            return self._append(self.nodes(edit.path)[-1], edit.value)
        nodes, key = self.nodes(edit.path[:-1]), edit.path[-1]
        if isinstance(edit, Insert):
            return self._insert(nodes, edit.path, edit.value)
        if isinstance(edit, Set):
            return self._set(nodes[-1], key, edit.value)
        return self._remove(nodes, edit.path)

    def place(self, path: Path) -> int:
        """Return where the value at a path, or what is there of it, begins."""
        node = self._root
        for key in path:
            position = node.pair(key) if isinstance(key, str) else key
            children = [each for _, each in node.pairs] or node.items
            if position is None or position >= len(children):
                break
            node = children[position]
        return node.start

    def nodes(self, path: Path) -> list[TreeNode]:
        """Return the nodes from the root to a path."""
        nodes = [self._root]
        for key in path:
            node = nodes[-1]
            position = node.pair(key) if isinstance(key, str) else key
            if position is None:
                raise NotEditable(node.start, "comes from a merge key (<<); write it out")
            nodes.append(self._own(node.pairs[position][1] if isinstance(key, str) else node.items[position]))
        return nodes

    def _own(self, node: TreeNode) -> TreeNode:
        if node.kind == "alias" or id(node) in self._aliased:
            raise NotEditable(node.start, "is used more than once, by an anchor; write it out each time")
        return node

    def inserted(self, at: int, text: str) -> str:
        """Return the text with another one at a position."""
        return self.text[:at] + text + self.text[at:]

    def _lines_at(self, at: int, lines: list[str]) -> str:
        """Return the text with lines behind the one that ends at a position."""
        return self.inserted(at, "".join(self.at.newline + line for line in lines))

    def _without_lines(self, start: int, end: int, instead: list[str]) -> str:
        """Return the text with other lines in place of these."""
        start = self.at.line_start(start)
        if start == 0:
            return self.text[end:].removeprefix("\r").removeprefix("\n")
        lines = "".join(self.at.newline + line for line in instead)
        return self.text[: self.at.line_end(start - 1)] + lines + self.text[end:]

    # Adding

    def _append(self, node: TreeNode, item: JsonValue) -> str:
        if node.kind != "sequence":
            raise NotEditable(node.start, "is not a list")
        if node.is_flow:
            return self._into_flow(node, [each.start for each in node.items], rendering.flow(item))
        column = self.at.column(self.at.dash(node, 0))
        return self._lines_at(self.at.tail(node.items[-1]), self._block.item(item, column))

    def _into_flow(self, node: TreeNode, starts: list[int], text: str) -> str:
        """Add text as the last item of a collection in flow style."""
        if not starts:
            return self.inserted(self.text.index("[" if node.kind == "sequence" else "{", node.start) + 1, text)
        last = node.items[-1] if node.items else node.pairs[-1][1]
        return self.inserted(last.last, f",{self._gap(starts[-1])}{text}")

    def _gap(self, start: int) -> str:
        """Return what separates items in flow style: a new line, if this item begins one."""
        return self.at.newline + " " * self.at.column(start) if start and self.at.is_first(start) else " "

    def _insert(self, nodes: list[TreeNode], path: Path, item: JsonValue) -> str:
        node, index = nodes[-1], path[-1]
        assert isinstance(index, int), "an index ends the path of an insertion"
        if node.kind != "sequence" or index >= len(node.items):
            return self._append(node, item)
        if node.is_flow:
            start = node.items[index].start
            return self.inserted(start, f"{rendering.flow(item)},{self._gap(start)}")
        lines = self._block.item(item, self.at.column(self.at.dash(node, 0)))
        if index:
            return self._lines_at(self.at.tail(node.items[index - 1]), lines)
        return self._lines_at(self.at.line_end(self.colon_above(nodes, path[-2])), lines)

    def colon_above(self, nodes: list[TreeNode], key: str | int) -> int:
        """Return the position behind the colon of the key whose value is the last of the nodes."""
        position = nodes[-2].pair(key) if isinstance(key, str) and len(nodes) > 1 else None
        if position is None:
            raise NotEditable(nodes[-1].start, "stands in a list of lists")
        return self.at.colon(nodes[-2].pairs[position][0])

    def _set(self, node: TreeNode, key: str | int, new: JsonValue) -> str:
        if isinstance(key, int):
            old = self._own(node.items[key])
            return self.text[: old.start] + rendering.flow(new) + self.text[old.end :]
        if node.kind != "mapping":
            raise NotEditable(node.start, "is not a mapping")
        position = node.pair(key)
        if position is None:
            return self._new_pair(node, key, new)
        name, old = node.pairs[position]
        return self._replaced(node, name, self._own(old), new)

    def _new_pair(self, node: TreeNode, key: str, new: JsonValue) -> str:
        if node.is_flow:
            return self._into_flow(
                node, [name.start for name, _ in node.pairs], f"{rendering.flow(key)}: {rendering.flow(new)}"
            )
        first = node.pairs[0][0].start
        column = self.at.column(first)
        lines = self._block.pair(key, new, column)
        position = node.pair(_BEFORE.get(key, ""))
        if position != 0:
            return self._lines_at(self.at.tail(node.pairs[-1 if position is None else position - 1][1]), lines)
        if self.at.is_first(first) and (start := self.at.line_start(first)):
            return self._lines_at(self.at.line_end(start - 1), lines)
        return self.inserted(first, self.at.newline.join(lines).lstrip(" ") + self.at.newline + " " * column)

    def _replaced(self, parent: TreeNode, name: TreeNode, old: TreeNode, new: JsonValue) -> str:
        if parent.is_flow:
            return self.text[: old.start] + rendering.flow(new) + self.text[old.end :]
        colon = self.at.colon(name)
        if new and isinstance(new, dict | list):
            if old.kind != "scalar" or self.text[old.end - 1] == "\n":
                raise NotEditable(old.start, "has a value that cannot be replaced in block style")
            column = self.at.column(name.start)
            end = self.at.line_end(old.end)
            lines = self._block.pair("x", new, column)[1:]
            rest = self.text[:colon] + self.text[old.end : end] + "".join(self.at.newline + line for line in lines)
            return rest + self.text[end:]
        return self.with_value(colon, old, "" if new is None else f" {rendering.scalar(new)}")

    def with_value(self, colon: int, old: TreeNode, shown: str) -> str:
        """Return the text with another value behind a colon; a comment on its line stays."""
        if old.kind == "scalar" or old.is_flow:
            return self.text[:colon] + shown + self.text[self.at.value_end(old) :]
        return self.text[:colon] + shown + self.text[colon : self.at.line_end(colon)] + self.text[self.at.tail(old) :]

    # Removing

    def _remove(self, nodes: list[TreeNode], path: Path) -> str:
        node, key = nodes[-1], path[-1]
        position = node.pair(key) if isinstance(key, str) else key
        assert position is not None, "what an edit removes is there"
        if node.is_flow:
            start, end = self.in_flow(node, position)
            return self.text[:start] + self.text[end:]
        if len(node.pairs or node.items) == 1:
            empty: JsonValue = {} if node.pairs else []
            return self._set(nodes[-2], path[-2], empty)
        if node.items:
            start, last, comments = self.at.dash(node, position), node.items[position], []
            following = self.at.dash(node, 1)
        else:
            name, last = node.pairs[position]
            start, comments = name.start, self.at.comments(name, last)
            following = node.pairs[1][0].start
        if self.at.is_first(start):
            return self._without_lines(start, self.at.tail(last), comments)
        return self.text[:start] + self.text[following:]

    def in_flow(self, node: TreeNode, position: int) -> tuple[int, int]:
        """Return from where to where an item is cut out, with the comma before or behind it."""
        spans = [(each.start, each.last) for each in node.items]
        spans = spans or [(name.start, each.last) for name, each in node.pairs]
        if position + 1 < len(spans):
            return spans[position][0], spans[position + 1][0]
        return spans[position - 1][1] if position else spans[position][0], spans[position][1]


def _aliased(node: TreeNode) -> set[int]:
    """Return the identities of the nodes that an alias names."""
    found = set() if node.target is None else {id(node.target)}
    for each in (*node.items, *(inner for _, inner in node.pairs)):
        found |= _aliased(each)
    return found
