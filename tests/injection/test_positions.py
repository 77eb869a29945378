"""Positions in a text: lines, tails, dashes, comments."""

import pytest

from agent.injection.positions import NotEditable, Positions, list_offset
from agent.injection.yaml_tree import TreeNode, parse


def read(text: str) -> tuple[Positions, TreeNode]:
    root = parse(text)
    assert root is not None
    return Positions(text), root


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_end_before_their_line_break(newline: str) -> None:
    text = f"ab{newline}c{newline}{newline}d"
    positions = Positions(text)
    assert positions.newline == newline
    ends = [positions.line_end(text.index(letter)) for letter in "acd"]
    assert [text[:end] for end in ends] == ["ab", f"ab{newline}c", text]
    assert positions.down(ends[0], 3) == len(text)
    assert [positions.column(text.index(letter)) for letter in "bcd"] == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("a: b # c\n", "a: b # c"), ("a:\n  - b\n  # c\n", "a:\n  - b"), ("a:\n", "a:"),
        ("a: |\n  b\nc: d\n", "a: |\n  b"),
        ("a: |+\n  b\n\n\nc: d\n", "a: |+\n  b\n\n"), ("a: {b: c,\n d: e} # f\n", "a: {b: c,\n d: e} # f"),
        ("a: 'b\n  c'\n", "a: 'b\n  c'"), ("a:\r\n- b\r\n", "a:\r\n- b"),
    ],
)  # fmt: skip
def test_the_tail_of_a_value_is_the_end_of_its_last_line(text: str, tail: str) -> None:
    positions, root = read(text)
    assert text[: positions.tail(root.pairs[0][1])] == tail


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a:\n- b\n- c\n", [0, 0]), ("a:\n  - b\n\n  # - x\n  -\n    c: d\n", [2, 2]), ("a: &x\n  - b\n", [2]),
        ("- - a\n  - b\n", [2, 2]),
    ],
)  # fmt: skip
def test_dashes(text: str, columns: list[int]) -> None:
    positions, root = read(text)
    node = root.pairs[0][1] if root.pairs else root.items[0]
    dashes = [positions.dash(node, index) for index in range(len(node.items))]
    assert [text[dash] for dash in dashes] == ["-"] * len(columns)
    assert [positions.column(dash) for dash in dashes] == columns


def test_a_dash_that_is_not_found_is_no_crash() -> None:
    positions, root = read("[a, b]\n")
    with pytest.raises(NotEditable, match="dashes are not found"):
        positions.dash(root, 1)


def test_the_comments_of_a_pair() -> None:
    text = "x:\n  a: # one\n    # two\n    b: 'c # no' # three\n    d: e#f\n  # after\n"
    positions, root = read(text)
    name, last = root.pairs[0][1].pairs[0]
    assert positions.comments(name, last) == ["  # one", "    # two", "  # three"]


@pytest.mark.parametrize(
    ("text", "offset"),
    [("a:\n- b\n", 0), ("a: [b]\nc:\n  d:\n    - e\n", 2), ("- a:\n      - b\n", 4), ("a: b\n", None)],
)
def test_the_offset_of_lists_is_that_of_the_first(text: str, offset: int | None) -> None:
    assert list_offset(*read(text)) == offset
