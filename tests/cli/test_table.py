import io
import re
import sys
from collections.abc import Iterable

import pytest
from rich.console import Console
from rich.text import Text

from agent.cli.table import Styled, Table, console, join


def pipe(width: int = 30, least: int = 0) -> Table:
    """A table for a pipe."""
    return Table(Console(file=io.StringIO(), width=width), least)


def terminal(width: int = 30, encoding: str = "utf-8") -> Table:
    """A table for a terminal."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Table(Console(file=file, width=width, force_terminal=True, color_system="standard"))


def lines(table: Table) -> list[str]:
    return [line.plain for line in table.lines]


def styles(line: Text) -> list[tuple[str, str]]:
    """The styled words of a line."""
    return [(line.plain[span.start : span.end], str(span.style)) for span in line.spans if span.style]


# Lines


@pytest.mark.parametrize(
    ("parts", "between", "text"),
    [
        ([], ", ", ""),
        (["a"], ", ", "a"),
        (["a", ("b", "red"), "c"], ", ", "a, b, c"),
        (["a", "b"], "", "ab"),
        (["\x1b[2J\x07\u202e", "a\tb\nc"], "", "?[2J??a\tb?c"),
    ],
)
def test_words_are_joined_without_control_characters(parts: Iterable[Styled], between: str, text: str) -> None:
    assert join(parts, between).plain == text


def test_only_a_styled_word_has_a_style() -> None:
    assert styles(join(["a", ("b", "red"), "c", ("d", "")], "-")) == [("b", "red")]


@pytest.mark.parametrize(
    ("words", "indent", "hang", "expected"),
    [
        ("", 0, 2, [""]),
        ("x" * 30, 0, 2, ["x" * 30]),
        ("x" * 31, 0, 2, ["x" * 30, "  x"]),
        ("one two three four five six seven eight", 0, 2, ["one two three four five six", "  seven eight"]),
        ("one two three four five six seven eight", 4, 0, ["    one two three four five", "    six seven eight"]),
        ("one two three four five   six seven", 3, 4, ["   one two three four five", "       six seven"]),
        ("a " + "x" * 60, 0, 10, ["a", "          " + "x" * 20, "          " + "x" * 20, "          " + "x" * 20]),
        ("x" * 29 + " y", 0, 2, ["x" * 29, "  y"]),
    ],
)
def test_a_long_line_is_wrapped_with_a_hanging_indent(words: str, indent: int, hang: int, expected: list[str]) -> None:
    table = pipe()
    table.say(words, indent, hang)
    assert lines(table) == expected


def test_a_wrapped_line_keeps_its_styles() -> None:
    table = pipe()
    table.say(join(["x" * 28, (" red words that are wrapped", "red")]))
    assert ["".join(words for words, _ in styles(line)).strip() for line in table.lines] == [
        "",
        "red words that are wrapped",
    ]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("words", ["abc def ghi", "x" * 50, "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 20])
def test_no_terminal_is_too_narrow(words: str, width: int) -> None:
    table = pipe(width)
    table.say(words, indent=4)
    assert "".join("".join(lines(table)).split()) == words.replace(" ", "")


@pytest.mark.parametrize(
    ("made", "width"),
    [
        (pipe(80), 80),
        (pipe(200), 200),
        (pipe(80, 100), 100),
        (pipe(120, 100), 120),
        (terminal(80), 80),
        (terminal(110), 110),
        (terminal(200), 110),
    ],
)
def test_a_terminal_is_used_up_to_110_columns_and_a_pipe_from_a_minimum(made: Table, width: int) -> None:
    assert made.width == width


# Sections and rows


def test_a_section_has_a_blank_line_a_title_and_a_quiet_remark() -> None:
    table = pipe()
    table.title("epochs", "all: 3")
    table.title("listeners")
    assert lines(table) == ["", "epochs  all: 3", "", "listeners"]
    assert styles(table.lines[1]) == [("epochs", "bold"), ("  all: 3", "dim")]


def test_cells_are_aligned_and_only_the_last_one_wraps() -> None:
    table = pipe()
    table.table([["a", "bb", "one two three four"], ["aaa", ("b", "red"), "c"]])
    assert lines(table) == ["  a    bb  one two three four", "  aaa  b   c"]
    assert styles(table.lines[1]) == [("b", "red")]
    table = pipe()
    table.table([["a", "one two three four five six"], ["aaa", ""]], indent=1)
    assert lines(table) == [" a    one two three four five", "      six", " aaa  "]


def test_a_long_first_cell_does_not_push_the_rest_to_the_edge() -> None:
    table = pipe(60)
    table.table([["x" * 40, " ".join(["word"] * 12)]], indent=0)
    assert [len(line) - len(line.lstrip()) for line in lines(table)] == [0, 20, 20]
    table = pipe(120)
    table.table([["x" * 40, " ".join(["word"] * 30)]], indent=0)
    assert [len(line) - len(line.lstrip()) for line in lines(table)] == [0, 30]


def test_a_table_without_rows_is_nothing() -> None:
    table = pipe()
    table.table([])
    assert table.lines == []


# Bars


@pytest.mark.parametrize(
    ("share", "full"), [(0, 0), (0.5, 8), (1, 16), (-3, 0), (7, 16), (0.04, 1), (0.03, 0), (0.97, 16)]
)
def test_a_bar_is_as_full_as_its_share(share: float, full: int) -> None:
    bar = terminal(encoding="latin-1").bar(share, "red")
    assert bar.plain == "#" * full + "." * (16 - full)
    assert styles(bar) == [each for each in [("#" * full, "red"), ("." * (16 - full), "dim")] if each[0]]


def test_a_bar_is_drawn_with_lines_in_unicode_and_not_in_a_pipe() -> None:
    assert terminal().bar(0.5, "red", 10).plain == "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 10
    assert (pipe().bar(0.5, "red").plain, pipe().has_bars, terminal().has_bars) == ("", False, True)


# Output


def test_lines_are_printed_as_they_are() -> None:
    out = io.StringIO()
    table = Table(Console(file=out, width=30, soft_wrap=True))
    table.say("[bold]a[/bold] 5 :smile:")
    table.lines.append(Text("x" * 50))
    table.print()
    assert out.getvalue() == "[bold]a[/bold] 5 :smile:\n" + "x" * 50 + "\n"


def test_the_console_writes_to_standard_output_and_replaces_what_it_cannot_encode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    monkeypatch.setenv("COLUMNS", "20")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    out = console()
    out.print(Text("\N{SNOWMAN} 5 'x' " + "y" * 30))
    assert raw.getvalue().decode() == "? 5 'x' " + "y" * 30 + "\n"
    assert not re.search(rb"\x1b", raw.getvalue())


def test_the_console_takes_a_standard_output_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    console().print("a")
    assert out.getvalue() == "a\n"
