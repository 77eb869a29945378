"""Writes an edit into the text of a document: whole lines in block style, JSON in flow style.

The comments of a line stay with it; a new line goes behind the last line of the item before it. So what was added can
be cut out again without a trace.
"""

import re
from typing import Final

from agent.injection import rendering
from agent.injection.edits import Append, Edit, Insert, JsonValue, Path, Set
from agent.injection.rendering import Block
from agent.injection.yaml_tree import TreeNode, value

_BEFORE: Final = {"metadata": "spec", "initContainers": "containers"}
"""Where a new key stands: before another one, if that is there, else last."""

_DASH = re.compile(r"^ *-(?=\s|$)", re.MULTILINE)

Record = list[JsonValue]
"""The text of a value. Of a key that is removed, also its position, and in block style two numbers of lines: those
between the pair before it and its own, and the comments that stay in its place."""


class NotEditable(ValueError):
    """A notation that cannot be edited; `at` is where it stands in the text."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at


class Splicer:
    """Edits one text, of which it has the tree. Each method returns the new text, or raises `NotEditable`."""

    def __init__(self, text: str, root: TreeNode) -> None:
        self._text, self._root = text, root
        newline = text.find("\n")
        self._newline = "\r\n" if newline > 0 and text[newline - 1] == "\r" else "\n"
        offset = _offset(self, root)
        self._block = Block(2 if offset is None else offset)
        self._aliased = _aliased(root)

    def edited(self, edit: Edit) -> str:
        """Return the text with an edit."""
        if isinstance(edit, Append):
            return self._append(self._nodes(edit.path)[-1], edit.value)
        nodes, key = self._nodes(edit.path[:-1]), edit.path[-1]
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

    # Positions

    def _nodes(self, path: Path) -> list[TreeNode]:
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

    def line_end(self, at: int) -> int:
        """Return where the line of a position ends, without the line break."""
        newline = self._text.find("\n", at)
        if newline < 0:
            return len(self._text)
        return newline - 1 if newline and self._text[newline - 1] == "\r" else newline

    def _line_start(self, at: int) -> int:
        return self._text.rfind("\n", 0, at) + 1

    def column(self, at: int) -> int:
        """Return the column of a position."""
        return at - self._line_start(at)

    def _is_first(self, at: int) -> bool:
        return not self._text[self._line_start(at) : at].strip(" ")

    def _tail(self, node: TreeNode) -> int:
        """Return where the last line of a node ends."""
        last = node.last
        if last > node.start and self._text[last - 1] == "\n":  # behind the last line of a block scalar
            last -= 1
        return self.line_end(last)

    def _value_end(self, node: TreeNode) -> int:
        """Return where a value ends; of a block scalar, without the line break."""
        is_block_scalar = node.end > node.start and self._text[node.end - 1] == "\n"
        return self._tail(node) if is_block_scalar else node.end

    def _colon(self, key: TreeNode) -> int:
        """Return the position behind the colon of a key."""
        return self._text.index(":", key.end) + 1

    def _dash(self, node: TreeNode, index: int) -> int:
        """Return the position of the dash of an item in block style."""
        if index == 0 and self._text.startswith("-", node.start):
            return node.start
        begin = self._tail(node.items[index - 1]) if index else self.line_end(node.start)
        match = _DASH.search(self._text, begin, node.items[index].start)
        if match is None:
            raise NotEditable(node.start, "is a list whose dashes are not found; write each on a line of its own")
        return match.end() - 1

    def _inserted(self, at: int, text: str) -> str:
        return self._text[:at] + text + self._text[at:]

    def _lines_at(self, at: int, lines: list[str]) -> str:
        """Return the text with lines behind the one that ends at a position."""
        return self._inserted(at, "".join(self._newline + line for line in lines))

    def _without_lines(self, start: int, end: int, instead: list[str]) -> str:
        """Return the text without whole lines, and without the line break before them, but with others."""
        start = self._line_start(start)
        if start == 0:
            return self._text[end:].removeprefix("\r").removeprefix("\n")
        lines = "".join(self._newline + line for line in instead)
        return self._text[: self.line_end(start - 1)] + lines + self._text[end:]

    # Adding

    def _append(self, node: TreeNode, item: JsonValue) -> str:
        if node.kind != "sequence":
            raise NotEditable(node.start, "is not a list")
        if node.is_flow:
            return self._into_flow(node, [each.start for each in node.items], rendering.flow(item))
        column = self.column(self._dash(node, 0))
        return self._lines_at(self._tail(node.items[-1]), self._block.item(item, column))

    def _into_flow(self, node: TreeNode, starts: list[int], text: str) -> str:
        """Add text as the last item of a collection in flow style."""
        if not starts:
            return self._inserted(self._text.index("[" if node.kind == "sequence" else "{", node.start) + 1, text)
        last = node.items[-1] if node.items else node.pairs[-1][1]
        return self._inserted(last.last, f",{self._gap(starts[-1])}{text}")

    def _gap(self, start: int) -> str:
        """Return what stands between items in flow style: a new line if the item is the first on its line."""
        return self._newline + " " * self.column(start) if start and self._is_first(start) else " "

    def _insert(self, nodes: list[TreeNode], path: Path, item: JsonValue) -> str:
        node, index = nodes[-1], path[-1]
        assert isinstance(index, int), "an index ends the path of an insertion"
        if node.kind != "sequence" or index >= len(node.items):
            return self._append(node, item)
        if node.is_flow:
            start = node.items[index].start
            return self._inserted(start, f"{rendering.flow(item)},{self._gap(start)}")
        lines = self._block.item(item, self.column(self._dash(node, 0)))
        if index:
            return self._lines_at(self._tail(node.items[index - 1]), lines)
        return self._lines_at(self.line_end(self._colon_above(nodes, path[-2])), lines)

    def _colon_above(self, nodes: list[TreeNode], key: str | int) -> int:
        """Return the position behind the colon of the key whose value is the last of the nodes."""
        position = nodes[-2].pair(key) if isinstance(key, str) and len(nodes) > 1 else None
        if position is None:
            raise NotEditable(nodes[-1].start, "stands in a list of lists")
        return self._colon(nodes[-2].pairs[position][0])

    def _set(self, node: TreeNode, key: str | int, new: JsonValue) -> str:
        if isinstance(key, int):
            old = self._own(node.items[key])
            return self._text[: old.start] + rendering.flow(new) + self._text[old.end :]
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
        column = self.column(first)
        lines = self._block.pair(key, new, column)
        position = node.pair(_BEFORE.get(key, ""))
        if position != 0:
            return self._lines_at(self._tail(node.pairs[-1 if position is None else position - 1][1]), lines)
        if self._is_first(first) and (start := self._line_start(first)):
            return self._lines_at(self.line_end(start - 1), lines)
        return self._inserted(first, self._newline.join(lines).lstrip(" ") + self._newline + " " * column)

    def _replaced(self, parent: TreeNode, name: TreeNode, old: TreeNode, new: JsonValue) -> str:
        if parent.is_flow:
            return self._text[: old.start] + rendering.flow(new) + self._text[old.end :]
        colon = self._colon(name)
        if new and isinstance(new, dict | list):
            if old.kind != "scalar" or self._text[old.end - 1] == "\n":
                raise NotEditable(old.start, "has a value that cannot be replaced in block style")
            column = self.column(name.start)
            end = self.line_end(old.end)
            lines = self._block.pair("x", new, column)[1:]
            rest = self._text[:colon] + self._text[old.end : end] + "".join(self._newline + line for line in lines)
            return rest + self._text[end:]
        return self._with_value(colon, old, "" if new is None else f" {rendering.scalar(new)}")

    def _with_value(self, colon: int, old: TreeNode, shown: str) -> str:
        """Return the text with another value behind a colon in block style; a comment on its line stays."""
        if old.kind == "scalar" or old.is_flow:
            return self._text[:colon] + shown + self._text[self._value_end(old) :]
        return self._text[:colon] + shown + self._text[colon : self.line_end(colon)] + self._text[self._tail(old) :]

    # Removing

    def _remove(self, nodes: list[TreeNode], path: Path) -> str:
        node, key = nodes[-1], path[-1]
        position = node.pair(key) if isinstance(key, str) else key
        assert position is not None, "what an edit removes is there"
        if node.is_flow:
            start, end = self._in_flow(node, position)
            return self._text[:start] + self._text[end:]
        if len(node.pairs or node.items) == 1:
            empty: JsonValue = {} if node.pairs else []
            return self._set(nodes[-2], path[-2], empty)
        if node.items:
            start, last, comments = self._dash(node, position), node.items[position], []
            following = self._dash(node, 1)
        else:
            name, last = node.pairs[position]
            start, comments = name.start, self._comments(name, last)
            following = node.pairs[1][0].start
        if self._is_first(start):
            return self._without_lines(start, self._tail(last), comments)
        return self._text[:start] + self._text[following:]

    def _comments(self, name: TreeNode, last: TreeNode) -> list[str]:
        """Return the comments in the lines of a pair, each as a line of its own."""
        taken = [*_spans(name), *_spans(last)]
        found, at, end = [], name.start, self._tail(last)
        while (at := self._text.find("#", at, end)) >= 0:
            if self._text[at - 1].isspace() and not any(start <= at < stop for start, stop in taken):
                indent = self.column(at if self._is_first(at) else name.start)
                found.append(" " * indent + self._text[at : self.line_end(at)])
                at = self.line_end(at)
            at += 1
        return found

    def _in_flow(self, node: TreeNode, position: int) -> tuple[int, int]:
        """Return from where to where an item is cut out, with the comma before or behind it."""
        spans = [(each.start, each.last) for each in node.items]
        spans = spans or [(name.start, each.last) for name, each in node.pairs]
        if position + 1 < len(spans):
            return spans[position][0], spans[position + 1][0]
        return spans[position - 1][1] if position else spans[position][0], spans[position][1]

    # Records

    def record(self, edit: Edit) -> Record | None:
        """Return the text that an edit replaces or removes; None if its reverse writes the same."""
        if isinstance(edit, Append | Insert) or not isinstance(edit.path[-1], str):
            return None
        nodes = self._nodes(edit.path[:-1])
        node = nodes[-1]
        position = node.pair(edit.path[-1])
        if position is None:
            return None
        if isinstance(edit, Set):
            return self._record_of_value(node, *node.pairs[position])
        if node.is_flow:
            start, end = self._in_flow(node, position)
            return [self._text[start:end], position]
        name, last = node.pairs[position]
        start = self.line_end(self._line_start(name.start) - 1)
        lines_before = self._text.count("\n", self._above(nodes, edit.path, position), start)
        return [self._text[start : self._tail(last)], position, lines_before, len(self._comments(name, last))]

    def _record_of_value(self, node: TreeNode, name: TreeNode, old: TreeNode) -> Record | None:
        known = value(old)
        if node.is_flow:
            start, usual = old.start, rendering.flow(known)
        else:
            start, usual = self._colon(name), "" if known is None else f" {rendering.scalar(known)}"
        text = self._text[start : self._value_end(old)]
        return None if text == usual else [text]

    def _above(self, nodes: list[TreeNode], path: Path, position: int) -> int:
        """Return where the line above a pair, and above the comments before it, ends."""
        if position:
            return self._tail(nodes[-1].pairs[position - 1][1])
        return self.line_end(self._colon_above(nodes, path[-2]))

    def restored(self, path: Path, record: Record) -> str:
        """Return the text with a record put back."""
        nodes, key = self._nodes(path[:-1]), path[-1]
        node = nodes[-1]
        text, *place = record
        assert isinstance(text, str), "a record begins with a text"
        assert isinstance(key, str), "records are of keys"
        position = node.pair(key)
        if position is not None:
            name, old = node.pairs[position]
            if node.is_flow:
                return self._text[: old.start] + text + self._text[old.end :]
            return self._with_value(self._colon(name), old, text)
        position, *lines = (int(str(each)) for each in place)
        if node.is_flow:
            is_last = position >= len(node.pairs)
            return self._inserted(node.pairs[position - 1][1].last if is_last else node.pairs[position][0].start, text)
        lines_before, comments = lines
        start = self._down(self._above(nodes, path, position), lines_before)
        end = self._down(start, comments)
        if not all(line.lstrip().startswith("#") for line in self._text[start:end].splitlines()[1:]):
            raise NotEditable(start, "has changed since the injection")
        return self._text[:start] + text + self._text[end:]

    def _down(self, at: int, lines: int) -> int:
        """Return the end of the line so many lines below the one that ends at a position."""
        for _ in range(lines):
            at = self.line_end(self._text.index("\n", at) + 1)
        return at


def _offset(splicer: Splicer, node: TreeNode) -> int | None:
    """Return how far the dashes of the first list are behind the key above it; None without a list in block style."""
    for name, each in node.pairs:
        if each.kind == "sequence" and not each.is_flow:
            return max(0, splicer.column(each.start) - splicer.column(name.start))
        if (found := _offset(splicer, each)) is not None:
            return found
    return next((found for each in node.items if (found := _offset(splicer, each)) is not None), None)


def _spans(node: TreeNode) -> list[tuple[int, int]]:
    """Return where the scalars of a node begin and end."""
    if node.kind in {"scalar", "alias"}:
        return [(node.start, node.end)]
    inner = (*node.items, *(each for pair in node.pairs for each in pair))
    return [span for each in inner for span in _spans(each)]


def _aliased(node: TreeNode) -> set[int]:
    """Return the identities of the nodes that an alias names."""
    found = set() if node.target is None else {id(node.target)}
    for each in (*node.items, *(inner for _, inner in node.pairs)):
        found |= _aliased(each)
    return found
