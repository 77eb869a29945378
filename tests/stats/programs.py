"""Small programs that write statistics and report when ready: `python -m tests.stats.programs WHAT PATH EPOCH`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.stats.layout import SegmentLayout
from agent.stats.writer import Writer

ROOT = Path(__file__).parents[2]
HALVES = 2000
STEP = 257 << 32 | 257
"""Counters that grow by this have equal halves, for 16 million steps."""


def pairs(writer: Writer) -> None:
    """Count without end: the second counter follows the first, a gauge goes up and down, new names are added."""
    first, second, gauge = writer.counter("first"), writer.counter("second"), writer.gauge("open")
    _ready()
    number = 0
    while True:
        first.add()
        gauge.add()
        second.add()
        gauge.sub()
        if number < 500:
            writer.counter(f"name.{number}").add(number)
            number += 1


def halves(writer: Writer) -> None:
    """Increase counters without end whose halves are equal."""
    counters = [writer.counter(f"half.{number}") for number in range(HALVES)]
    _ready()
    while True:
        for counter in counters:
            counter.add(STEP)


def done(writer: Writer) -> None:
    """Count a little, and exit."""
    writer.counter("requests").add(7)
    writer.gauge("connections").set(3)
    _ready()


def _ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


@contextmanager
def running(what: str, path: Path, epoch: int = 1) -> Iterator[subprocess.Popen[str]]:
    """Run one of them from its first line on; kill it at the end of the block."""
    command = [sys.executable, "-m", "tests.stats.programs", what, str(path), str(epoch)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def main(what: str, path: str, epoch: str) -> None:
    """Run one of them."""
    nonce = int(epoch).to_bytes(16, "big")
    room = SegmentLayout(4096, 2**16)
    writer = Writer.create(
        Path(path), epoch=int(epoch), pid=os.getpid(), started_at=time.time_ns(), nonce=nonce, room=room
    )
    {"pairs": pairs, "halves": halves, "done": done}[what](writer)


if __name__ == "__main__":
    main(*sys.argv[1:])
