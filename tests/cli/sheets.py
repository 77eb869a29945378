"""What a table shows: its text without wrapping, and the styles of its words."""

import io
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from agent.cli.table import Table

WIDE = 400


def sheet(width: int = WIDE, *, terminal: bool = False) -> Table:
    """A table for a pipe that is so wide that nothing wraps, or for a terminal."""
    return Table(Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system="standard"))


def lines(draw: Callable[[Table], None], width: int = WIDE) -> list[str]:
    """The lines that are drawn, each with single spaces."""
    made = sheet(width)
    draw(made)
    return [" ".join(line.plain.split()) for line in made.lines]


def styled(made: Table) -> list[tuple[str, str]]:
    """The styled words of all lines, with their styles."""
    return [each for line in made.lines for each in styles(line)]


def styles(line: Text) -> list[tuple[str, str]]:
    """The styled words of a line, with their styles."""
    return [(line.plain[span.start : span.end].strip(), str(span.style)) for span in line.spans if span.style]
