"""Records a terminal program as an animated SVG: `python docs/recording.py` records the demo into `docs/demo.svg`.

The program runs on a pseudo-terminal; pyte interprets what it writes, and the screen is looked at five times a second.
"""

import argparse
import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import pyte

HERE = Path(__file__).parent
COLUMNS, ROWS = 100, 30
INTERVAL = 0.2  # seconds between two looks
_WIDTH, _HEIGHT = 8.4, 18  # of a character cell at a font size of 14
_COLOURS = {
    "default": "#d7dcde", "black": "#7b848a", "red": "#ff8f85", "green": "#6fd3b4", "brown": "#e5b15c",
    "blue": "#8db8f0", "magenta": "#c9a3e8", "cyan": "#74cbe0", "white": "#f3f5f6",
}  # fmt: skip
_FONT = 'font-size="14" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace"'
_PAPER = "#15191c"

Frame = tuple[str, ...]
"""The rows of one screen, each as SVG text."""
_NOTHING: Frame = ()


def row(line: dict[int, pyte.screens.Char], columns: int) -> str:
    """Return one row of the screen as `<tspan>` elements, one for each style."""
    spans: list[tuple[str, str]] = []
    for column in range(columns):
        cell = line[column]
        colour = _COLOURS.get(cell.fg, f"#{cell.fg}" if len(cell.fg) == 6 else _COLOURS["default"])
        style = f'fill="{colour}"' + (' font-weight="bold"' if cell.bold else "")
        if spans and spans[-1][0] == style:
            spans[-1] = (style, spans[-1][1] + cell.data)
        else:
            spans.append((style, cell.data))
    while spans and not spans[-1][1].strip():
        spans.pop()
    return "".join(f"<tspan {style}>{escape(text)}</tspan>" for style, text in spans)


def frames(command: Sequence[str], columns: int = COLUMNS, rows: int = ROWS) -> Iterator[tuple[float, Frame]]:
    """Run a command on a terminal; yield its screen whenever it has changed, with the seconds since the start.

    Raises `subprocess.CalledProcessError` if the command fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    began, seen = time.monotonic(), _NOTHING
    is_open = True
    try:
        while is_open:
            is_open = _read(ours, stream, INTERVAL)
            shown = tuple(row(screen.buffer[number], columns) for number in range(rows))
            if shown != seen:
                yield time.monotonic() - began, shown
                seen = shown
    finally:
        os.close(ours)
        if (code := process.wait()) != 0:
            raise subprocess.CalledProcessError(code, list(command))


def _read(terminal: int, stream: pyte.ByteStream, seconds: float) -> bool:
    """Interpret what arrives within this time; return False at the end."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            continue
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # EIO: the program has closed the terminal
            return False
        stream.feed(data)
    return True


def animation(shown: Sequence[tuple[float, Frame]], last: float = 3.0, columns: int = COLUMNS) -> str:
    """Return frames as an SVG that repeats them. `last`: the seconds for which the last one stays."""
    total = shown[-1][0] - shown[0][0] + last
    rows: dict[str, str] = {}
    pictures, times = [], []
    for at, frame in shown:
        uses = []
        for number, text in enumerate(frame):
            if text:
                name = rows.setdefault(text, f"r{len(rows)}")
                uses.append(f'<use href="#{name}" y="{(number + 1) * _HEIGHT}"/>')
        times.append((at - shown[0][0]) / total)
        pictures.append("".join(uses))
    width, height = round(columns * _WIDTH) + 24, len(shown[0][1]) * _HEIGHT + 24
    texts = "".join(f'<text id="{name}" xml:space="preserve">{text}</text>' for text, name in rows.items())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -8 {width} {height}" {_FONT}>',
        f"<title>agent demo</title><defs>{texts}</defs>",
        f'<rect x="-12" y="-8" width="{width}" height="{height}" rx="8" fill="{_PAPER}"/>',
    ]
    for number, (begin, picture) in enumerate(zip(times, pictures, strict=True)):
        end = times[number + 1] if number + 1 < len(times) else 1.0
        parts.append(f'<g display="none">{picture}{_shown_between(begin, end, total)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _shown_between(begin: float, end: float, total: float) -> str:
    """Return the animation of a frame that is shown for this share of the total time."""
    values, moments = (
        (["inline", "none"], [0.0, end]) if begin == 0 else (["none", "inline", "none"], [0.0, begin, end])
    )
    if end == 1.0:
        values, moments = values[:-1], moments[:-1]
    times = ";".join(f"{at:.4f}" for at in moments)
    return (
        f'<animate attributeName="display" values="{";".join(values)}" keyTimes="{times}"'
        f' calcMode="discrete" dur="{total:.1f}s" repeatCount="indefinite"/>'
    )


def main() -> None:
    """Record `agent demo`, or another command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=HERE / "demo.svg")
    parser.add_argument("command", nargs="*", default=[shutil.which("agent") or "agent", "demo", "--for", "16s"])
    chosen = parser.parse_args()
    recorded = list(frames(chosen.command))
    chosen.output.write_text(animation(recorded), encoding="utf-8")
    sys.stdout.write(f"{chosen.output}: {len(recorded)} frames, {chosen.output.stat().st_size >> 10} KiB\n")


if __name__ == "__main__":
    main()
