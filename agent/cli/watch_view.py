"""The live view of `agent status --watch`; the terminal is restored afterwards."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from agent.cli.format import second, span
from agent.cli.status_client import read
from agent.cli.status_view import BAD, QUIET, draw
from agent.cli.table import Table
from agent.core.errors import MachineError
from agent.host.clock import calendar
from agent.status.model import Status


def show(looks: Iterable[str | MachineError], out: Console, *, whole: bool = False) -> None:
    """Draw each poll's result, until they end or Ctrl-C."""
    screen, looks = Screen(out, whole=whole), iter(looks)
    screen.take(next(looks))
    with Live(screen, console=out, screen=True, auto_refresh=False) as live:
        for look in looks:
            screen.take(look)
            live.refresh()


class Screen:
    """The last status, and whether the agent answers now."""

    def __init__(self, out: Console, *, whole: bool = False) -> None:
        self._out = out
        self._whole = whole
        self._last: Status | None = None
        self._missing = ""

    def take(self, look: str | MachineError) -> None:
        """Store an answer or error. Raises `MachineError` if the answer cannot be parsed."""
        self._missing = str(look) if isinstance(look, MachineError) else ""
        if not isinstance(look, MachineError):
            self._last = read(look)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as many lines as fit, from the top."""
        lines, height = self.lines(), options.height or console.height
        hidden = len(lines) - height
        if hidden > 0:
            lines = lines[: height - 1]
            lines.append(Text(f"… {hidden + 1} more lines: make the terminal taller, or run agent status", QUIET))
        for number, line in enumerate(lines):
            line.no_wrap = True
            line.end = "" if number == len(lines) - 1 else "\n"
            yield line

    def lines(self) -> list[Text]:
        """Return all lines."""
        sheet = Table(self._out)
        if self._missing:
            sheet.say(("no agent answers; waiting for it", f"bold {BAD}"))
            sheet.say(self._missing)
        if self._missing and self._last is not None:
            sheet.lines.append(Text())
            ago = span(calendar() - self._last.at)
            sheet.say((f"last status, of {second(self._last.at)}, {ago} ago", QUIET))
        if self._last is not None:
            draw(self._last, sheet, whole=self._whole)
        return sheet.lines
