"""Text for people: lines with hanging indents, coloured on a terminal, plain in a pipe."""

import io
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from agent.control_client.client import printable

_WIDEST = 110  # columns that are comfortable to read
_NARROWEST = 20  # columns into which a text is wrapped at the least
_DEEPEST = 30  # maximum hanging indent of a row's last cell, in columns
_QUIET = "dim"
_BAR = {True: ("━", "━"), False: ("#", ".")}

Styled = str | tuple[str, str]


def console() -> Console:
    """Return a console on standard output; without a terminal 80 columns wide, or COLUMNS."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an unencodable character must not suppress the output
    return Console(highlight=False, soft_wrap=True)


def join(parts: Iterable[Styled], between: str = "") -> Text:
    """Join words, each with its optional style, into one line without control characters."""
    line = Text()
    for number, part in enumerate(parts):
        words, style = (part, "") if isinstance(part, str) else part
        line.append(between if number else "").append(printable(words), style=style)
    return line


class Table:
    """Lines of at most `width` columns, longer ones wrapped. `least`: minimum width in a pipe."""

    def __init__(self, out: Console, least: int = 0) -> None:
        self.width = min(out.width, _WIDEST) if out.is_terminal else max(out.width, least)
        self.has_bars = out.is_terminal
        self.lines: list[Text] = []
        self._bar = _BAR[out.encoding.lower().startswith("utf")]
        self._out = out

    def say(self, line: Text | Styled, indent: int = 0, hang: int = 2) -> None:
        """Write a line; continuation lines are indented by `hang` more."""
        rest = line if isinstance(line, Text) else join([line])
        first, rest = self._split(rest, max(_NARROWEST, self.width - indent))
        self.lines.append(Text(" " * indent).append_text(first))
        while rest:
            part, rest = self._split(rest, max(_NARROWEST, self.width - indent - hang))
            self.lines.append(Text(" " * (indent + hang)).append_text(part))

    def _split(self, text: Text, width: int) -> tuple[Text, Text]:
        """Return what fits into a line, and the rest."""
        if text.cell_len <= width:
            return text, Text()
        first = text.wrap(self._out, width, overflow="fold")[0]
        rest = text[len(first) :]
        first.rstrip()
        blank = len(rest.plain) - len(rest.plain.lstrip())
        return first, rest[blank:] if blank else rest

    def title(self, words: str, remark: str = "") -> None:
        """Begin a section."""
        self.lines.append(Text())
        self.say(join([(words, "bold"), (f"  {remark}" if remark else "", _QUIET)]))

    def table(self, rows: Sequence[Sequence[Styled]], indent: int = 2) -> None:
        """Write rows with aligned cells; only the last cell of a row may wrap."""
        cells = [[join([cell]) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
        for row in cells:
            line = Text()
            for cell, width in zip(row, widths, strict=False):
                line.append_text(cell).append(" " * (width - len(cell) + 2))
            hang = min(len(line), _DEEPEST, self.width // 3)
            self.say(line.append_text(row[-1]), indent, hang)

    def bar(self, share: float, style: str, width: int = 16) -> Text:
        """Return a bar for a share from 0 to 1; empty unless on a terminal."""
        if not self.has_bars:
            return Text()
        full = round(max(0.0, min(1.0, share)) * width)
        on, off = self._bar
        return Text().append(on * full, style=style).append(off * (width - full), style=_QUIET)

    def print(self) -> None:
        """Print the lines."""
        for line in self.lines:
            self._out.print(line)
