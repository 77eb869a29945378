"""The live view: one screen with fixed positions and changing numbers."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from textwrap import wrap

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from agent.demo.captions import plural, short, span
from agent.demo.digits import big
from agent.demo.journal import CANDIDATE, DRAINING, SERVING
from agent.demo.results import Results, histogram
from agent.demo.settings import Settings
from agent.demo.timeline import DEAD, MARKS, Life, row
from agent.demo.watch import Event, Watch

_FRAME_INTERVAL = 0.125
_BUCKETS = 4
_FEW, _SOME, _MANY, _TALL = 4, 5, 10, 32  # rows of epochs, and the terminal height from which `_MANY` are shown
_WIDE = 76  # columns from which the histogram is beside the numbers
_SHOWN_TIME = (8.0, 60.0)  # seconds of the epochs' timeline, minimum and maximum
_SHOWN_ROTATIONS = 8
_FAILED, _FACTS, _GAP = 18, 25, 2  # columns of the numbers, and of the gap between them
_STAMP = 8  # columns of a timestamp
_BAR = 12  # the longest bar
_EDGE = 1  # empty columns on either side
_STYLES = {CANDIDATE: "yellow", SERVING: "green", DRAINING: "cyan", DEAD: "red"}
_OF_MARKS = {MARKS[state]: style for state, style in _STYLES.items()}
_QUIET = "dim"


class Screen:
    """Draws on the terminal's alternate screen, and restores the terminal afterwards."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._events: deque[Event] = deque(maxlen=100)
        self._began: float | None = None
        self._live: Live | None = None

    def event(self, event: Event) -> None:
        """Keep an event for the next frame."""
        self._events.append(event)

    def began(self, at: float) -> None:
        """Set the start time."""
        self._began = at

    async def draw(self, settings: Settings, watch: Watch) -> None:
        """Draw frame after frame."""
        picture = Picture(settings, watch, self._events)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._live.start()
        while True:
            watch.look()
            picture.advance(self._began)
            self._live.update(picture, refresh=True)
            await asyncio.sleep(_FRAME_INTERVAL)

    def close(self) -> None:
        """Restore the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, lines: Sequence[str], *, good: bool) -> None:
        """Print the summary, verdict first."""
        style = "bold green" if good else "bold red"
        for number, line in enumerate(lines):
            self._console.print(Text(line, style="" if number else style))


class Picture:
    """One frame, drawn for any terminal size."""

    def __init__(self, settings: Settings, watch: Watch, events: Sequence[Event]) -> None:
        self._settings = settings
        self._watch = watch
        self._events = events
        self._began: float | None = None
        self._now = time.monotonic()
        self._rate = 0.0
        self._counted = (self._now, 0)
        longest = _SHOWN_TIME[1]
        self._shown_time = min(longest, max(_SHOWN_TIME[0], settings.every * _SHOWN_ROTATIONS))

    def advance(self, began: float | None) -> None:
        """Update the time and the request rate."""
        self._began, self._now = began, time.monotonic()
        at, served = self._counted
        if self._now - at >= 1.0:
            self._rate = (self._watch.score.served - served) / (self._now - at)
            self._counted = (self._now, self._watch.score.served)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw from top to bottom; events fill the remaining lines."""
        width, height = options.max_width - 2 * _EDGE, options.height or console.height
        wide = width >= _WIDE - 2 * _EDGE
        numbers = self._numbers(width) if wide else self._stacked(width)
        epochs = _MANY if height >= _TALL else _SOME if wide else _FEW
        parts = [[*self._head(width), *[Text()] * wide], numbers, [Text()], self._lives(width, epochs), [Text()]]
        lines = [line for part in parts for line in part]
        lines += self._happened(width, height - len(lines))
        for line in lines[:height]:
            line.truncate(width, overflow="ellipsis")
            yield Text(" " * _EDGE).append_text(line)

    # The head

    def _head(self, width: int) -> list[Text]:
        title = _styled("agent demo", "bold")
        title.append(
            f"   {self._settings.proxy.rpartition('/')[2]} on 127.0.0.1:{self._watch.scene.port}", style=_QUIET
        )
        return [_apart(title, Text(self._clock()), width)]

    def _clock(self) -> str:
        if self._began is None:
            return "starting"
        length = self._settings.length
        since = min(self._now - self._began, length)
        return f"{since:.0f} of {length:g} s"

    # The numbers

    def _numbers(self, width: int) -> list[Text]:
        score = self._watch.score
        widths = [_FAILED, _FACTS, width - _FAILED - _FACTS - 2 * _GAP]
        return _beside([_failed(score), self._facts(), _spans(score, _BUCKETS)], widths)

    def _stacked(self, width: int) -> list[Text]:
        """Return the numbers for a narrow terminal."""
        score = self._watch.score
        upper = _beside([_failed(score), self._facts()], [width - _FACTS - _GAP, _FACTS])
        return [*upper, *_spans(score, _BUCKETS - 1)]

    def _facts(self) -> list[Text]:
        score = self._watch.score
        facts = [
            ("requests", f"{score.served:,}"),
            ("per second", f"{self._rate:,.0f}"),
            ("longest wait", span(score.longest) if score.served else "-"),
            ("deepest accept queue", "-" if score.deepest is None else f"{score.deepest:,}"),
            ("serial served", short(score.last_serial) or "-"),
        ]
        return [_fact(name, value) for name, value in facts]

    # The epochs

    def _lives(self, width: int, count: int) -> list[Text]:
        legend = Text()
        for state, style in _STYLES.items():
            legend.append(f"{MARKS[state]} ", style=style).append(f"{state}  ", style=_QUIET)
        legend.right_crop(2)
        lives = self._watch.timeline.latest(count)
        rows = [self._life(life, width) for life in lives]
        return [_apart(_styled("epochs", "bold"), legend, width), *rows, *[Text()] * (count - len(rows))]

    def _life(self, life: Life, width: int) -> Text:
        name = Text(f"{life.number:>4}  ")
        name.append(f"{short(life.serial):<6}  ", style=_QUIET)
        columns = width - len(name)
        for mark in row(life, self._now, self._shown_time / columns, columns):
            name.append(mark, style=_OF_MARKS.get(mark, ""))
        return name

    # The events

    def _happened(self, width: int, height: int) -> list[Text]:
        """Return the last events that fit, each on as many lines as it needs."""
        lines: list[Text] = []
        for event in reversed(self._events):
            lines[:0] = self._event(event, width)
            if len(lines) >= height:
                break
        return lines[-height:] if height > 0 else []

    def _event(self, event: Event, width: int) -> list[Text]:
        since = 0.0 if self._began is None else max(0.0, event.at - self._began)
        first, *others = wrap(event.text, max(20, width - _STAMP))
        moment = _styled(f"{since:4.0f} s  ", _QUIET).append(first)
        return [moment, *(Text(" " * _STAMP + other) for other in others)]


def _failed(score: Results) -> list[Text]:
    """Return the number of failed requests in large digits, and how many were cut."""
    style = "bold red" if score.failed else "bold green"
    figures = [_styled(line, style) for line in big(score.failed)]
    figures[1].append("  failed", style=style)
    cut = Text(f"{score.cut:,} cut by {plural(len(score.kills), 'kill')}")
    return [*figures, Text(), cut if score.kills else Text()]


def _fact(name: str, value: str) -> Text:
    return _apart(_styled(name, _QUIET), Text(value), _FACTS)


def _spans(score: Results, rows: int) -> list[Text]:
    """Return the histogram of the time from write to first handshake."""
    buckets = histogram(score.spans, rows)
    most = max(1, *(bucket.count for bucket in buckets))
    head = _styled("write → first handshake ", "bold")
    if score.typical is not None:
        head.append(span(score.typical))
    lines = [head]
    for bucket in buckets:
        line = _styled(f"{_range(bucket.low, bucket.high):>12} ", _QUIET)
        line.append("■" * max(-(-bucket.count * _BAR // most), 0), style="green")
        line.append(f" {bucket.count}" if bucket.count else "")
        lines.append(line)
    return lines


def _range(low: float, high: float) -> str:
    if high == float("inf"):
        return f"over {span(low)}"
    return f"under {span(high)}"


def _styled(words: str, style: str) -> Text:
    """Return words in a style that appended text does not inherit."""
    return Text().append(words, style=style)


def _apart(left: Text, right: Text, width: int) -> Text:
    """Return a line with one text at the left edge and one at the right."""
    gap = max(1, width - left.cell_len - right.cell_len)
    return left.copy().append(" " * gap).append_text(right)


def _beside(columns: Sequence[Sequence[Text]], widths: Sequence[int]) -> list[Text]:
    """Return columns of lines side by side."""
    return [_joined(cells, widths) for cells in zip_longest(*columns, fillvalue=Text())]


def _joined(cells: Iterable[Text], widths: Iterable[int]) -> Text:
    line = Text()
    for cell, width in zip(cells, widths, strict=True):
        fitted = cell.copy()
        fitted.truncate(width, overflow="ellipsis", pad=True)
        line.append(" " * _GAP if line else "").append_text(fitted)
    return line
