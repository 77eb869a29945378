"""Positions in the text of a document: lines, columns, parts of nodes."""

import re

from agent.injection.yaml_tree import TreeNode

_DASH = re.compile(r"^ *-(?=\s|$)", re.MULTILINE)


class NotEditable(ValueError):
    """A notation that cannot be edited; `at` is where it stands in the text."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at


class Positions:
    """Answers questions about a text; the end of a line is where its line break begins."""

    def __init__(self, text: str) -> None:
        self._text = text
        newline = text.find("\n")
        self.newline = "\r\n" if newline > 0 and text[newline - 1] == "\r" else "\n"

    def line_end(self, at: int) -> int:
        """Return where the line of a position ends."""
        newline = self._text.find("\n", at)
        if newline < 0:
            return len(self._text)
        return newline - 1 if newline and self._text[newline - 1] == "\r" else newline

    def line_start(self, at: int) -> int:
        """Return where the line of a position begins."""
        return self._text.rfind("\n", 0, at) + 1

    def column(self, at: int) -> int:
        """Return the column of a position."""
        return at - self.line_start(at)

    def is_first(self, at: int) -> bool:
        """Return whether nothing but spaces is before a position on its line."""
        return not self._text[self.line_start(at) : at].strip(" ")

    def tail(self, node: TreeNode) -> int:
        """Return where the last line of a node ends."""
        last = node.last
        if last > node.start and self._text[last - 1] == "\n":  # behind the last line of a block scalar
            last -= 1
        return self.line_end(last)

    def value_end(self, node: TreeNode) -> int:
        """Return where a value ends; of a block scalar, without the line break."""
        is_block_scalar = node.end > node.start and self._text[node.end - 1] == "\n"
        return self.tail(node) if is_block_scalar else node.end

    def colon(self, key: TreeNode) -> int:
        """Return the position behind the colon of a key."""
        return self._text.index(":", key.end) + 1

    def dash(self, node: TreeNode, index: int) -> int:
        """Return the position of the dash of an item in block style."""
        if index == 0 and self._text.startswith("-", node.start):
            return node.start
        begin = self.tail(node.items[index - 1]) if index else self.line_end(node.start)
        match = _DASH.search(self._text, begin, node.items[index].start)
        if match is None:
            raise NotEditable(node.start, "is a list whose dashes are not found; write each on a line of its own")
        return match.end() - 1

    def comments(self, name: TreeNode, last: TreeNode) -> list[str]:
        """Return the comments in the lines of a pair, each as a line of its own."""
        taken = [*_spans(name), *_spans(last)]
        found, at, end = [], name.start, self.tail(last)
        while (at := self._text.find("#", at, end)) >= 0:
            if self._text[at - 1].isspace() and not any(start <= at < stop for start, stop in taken):
                indent = self.column(at if self.is_first(at) else name.start)
                found.append(" " * indent + self._text[at : self.line_end(at)])
                at = self.line_end(at)
            at += 1
        return found

    def down(self, at: int, lines: int) -> int:
        """Return the end of the line so many lines below the one that ends at a position."""
        for _ in range(lines):
            at = self.line_end(self._text.index("\n", at) + 1)
        return at


def list_offset(positions: Positions, node: TreeNode) -> int | None:
    """Return how far the first list's dashes are behind its key; None without such a list."""
    for name, each in node.pairs:
        if each.kind == "sequence" and not each.is_flow:
            return max(0, positions.column(each.start) - positions.column(name.start))
        if (found := list_offset(positions, each)) is not None:
            return found
    return next((found for each in node.items if (found := list_offset(positions, each)) is not None), None)


def _spans(node: TreeNode) -> list[tuple[int, int]]:
    """Return where the scalars of a node begin and end."""
    if node.kind in {"scalar", "alias"}:
        return [(node.start, node.end)]
    inner = (*node.items, *(each for pair in node.pairs for each in pair))
    return [span for each in inner for span in _spans(each)]
