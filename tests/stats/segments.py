"""Segments for tests, created by the real writer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.stats.layout import SegmentLayout
from agent.stats.reader import Segment
from agent.stats.segment_file import reserve
from agent.stats.writer import Writer

STARTED = 1_700_000_000_000_000_000
SMALL = SegmentLayout(8, 128)


def nonce_of(epoch: int) -> bytes:
    """Return a nonce that identifies an epoch."""
    return epoch.to_bytes(16, "big")


@contextmanager
def written(path: Path, epoch: int = 1, room: SegmentLayout = SMALL, nonce: bytes | None = None) -> Iterator[Writer]:
    """Reserve a file and write to it."""
    reserve(path)
    nonce = nonce_of(epoch) if nonce is None else nonce
    writer = Writer.create(path, epoch=epoch, pid=os.getpid(), started_at=STARTED, nonce=nonce, room=room)
    try:
        yield writer
    finally:
        writer.close()


@contextmanager
def reading(path: Path) -> Iterator[Segment]:
    """Open a segment."""
    segment = Segment.open(path)
    try:
        yield segment
    finally:
        segment.close()
