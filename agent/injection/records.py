"""Records what an edit takes away from the text of a document, and puts it back."""

from agent.injection import rendering
from agent.injection.edits import Append, Edit, Insert, JsonValue, Path, Set
from agent.injection.positions import NotEditable
from agent.injection.splices import Splicer
from agent.injection.yaml_tree import TreeNode, value

Record = list[JsonValue]
"""The text of a value. Of a key that is removed, also its position, and in block style two numbers of lines: those
between the pair before it and its own, and the comments that stay in its place."""


def record(splicer: Splicer, edit: Edit) -> Record | None:
    """Return the text that an edit replaces or removes; None if its reverse writes the same."""
    if isinstance(edit, Append | Insert) or not isinstance(edit.path[-1], str):
        return None
    nodes = splicer.nodes(edit.path[:-1])
    node = nodes[-1]
    position = node.pair(edit.path[-1])
    if position is None:
        return None
    if isinstance(edit, Set):
        return _record_of_value(splicer, node, *node.pairs[position])
    if node.is_flow:
        start, end = splicer.in_flow(node, position)
        return [splicer.text[start:end], position]
    name, last = node.pairs[position]
    start = splicer.at.line_end(splicer.at.line_start(name.start) - 1)
    lines_before = splicer.text.count("\n", _above(splicer, nodes, edit.path, position), start)
    return [splicer.text[start : splicer.at.tail(last)], position, lines_before, len(splicer.at.comments(name, last))]


def _record_of_value(splicer: Splicer, node: TreeNode, name: TreeNode, old: TreeNode) -> Record | None:
    known = value(old)
    if node.is_flow:
        start, usual = old.start, rendering.flow(known)
    else:
        start, usual = splicer.at.colon(name), "" if known is None else f" {rendering.scalar(known)}"
    text = splicer.text[start : splicer.at.value_end(old)]
    return None if text == usual else [text]


def _above(splicer: Splicer, nodes: list[TreeNode], path: Path, position: int) -> int:
    """Return where the line above a pair, and above the comments before it, ends."""
    if position:
        return splicer.at.tail(nodes[-1].pairs[position - 1][1])
    return splicer.at.line_end(splicer.colon_above(nodes, path[-2]))


def restored(splicer: Splicer, path: Path, record: Record) -> str:
    """Return the text with a record put back."""
    nodes, key = splicer.nodes(path[:-1]), path[-1]
    node = nodes[-1]
    text, *place = record
    if not isinstance(text, str) or not isinstance(key, str):
        raise NotEditable(node.start, "has a record that is none")
    position = node.pair(key)
    if position is not None:
        name, old = node.pairs[position]
        if node.is_flow:
            return splicer.text[: old.start] + text + splicer.text[old.end :]
        return splicer.with_value(splicer.at.colon(name), old, text)
    position, *lines = (int(str(each)) for each in place)
    if node.is_flow:
        is_last = position >= len(node.pairs)
        return splicer.inserted(node.pairs[position - 1][1].last if is_last else node.pairs[position][0].start, text)
    lines_before, comments = lines
    start = splicer.at.down(_above(splicer, nodes, path, position), lines_before)
    end = splicer.at.down(start, comments)
    if not all(line.lstrip().startswith("#") for line in splicer.text[start:end].splitlines()[1:]):
        raise NotEditable(start, "has changed since the injection")
    return splicer.text[:start] + text + splicer.text[end:]
