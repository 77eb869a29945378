"""Reads a segment while its writer updates it; a broken one only causes `InvalidSegment`.

The file is not mapped (why: `agent.stats.torn_reads`) and not trusted: at each read the header is compared with that of
the opening, a short read is an error, and names must be contiguous in their table, so that a reader's memory is bounded
by the file's size, at most 17 MiB, and the file's size by its header.
"""

import mmap
import os
from itertools import compress
from pathlib import Path
from typing import Self

from agent.stats.errors import InvalidSegment, Unpublished
from agent.stats.layout import DROPPED_WORD, HEADER_SIZE, MAGIC, MAGIC_WORD, PUBLISHED_WORD, VALUES_WORD, WORD, Header
from agent.stats.name_index import NameIndex
from agent.stats.segment_file import opened
from agent.stats.snapshot import Snapshot
from agent.stats.torn_reads import at_least, settled

_LOOKS = 8
"""Reads of a counter until two agree; one that never pauses yields a lower bound."""


class Segment:
    """A segment open for reading: one descriptor, and two copies of its values."""

    def __init__(self, path: Path, descriptor: int, header: Header) -> None:
        """Own a descriptor whose header has been read; use `open` to create one."""
        self.path = path
        self.header = header
        self._descriptor = descriptor
        self._image = header.image()[WORD:]
        self._names = NameIndex(header.room)
        self._values: list[int] = []
        self._copies = [_Copy(descriptor, (VALUES_WORD + header.room.slots) * WORD) for _ in range(2)]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the segment at `path`.

        Raises `Unpublished` until its writer has published it, `InvalidSegment` for any other reason: a link, a mode
        that grants access to group or others, an invalid header, a file longer or shorter than its header states.
        """
        descriptor = opened(path)
        try:
            return cls(path, descriptor, _header(path, descriptor))
        except OSError as error:
            os.close(descriptor)
            raise InvalidSegment(path, str(error.strerror).lower()) from error
        except InvalidSegment:
            os.close(descriptor)
            raise

    def read(self) -> Snapshot:
        """Return all current values; raise `InvalidSegment`, after which the next read may succeed.

        A counter is its value at some moment of the read. One that changed between all of eight reads is a lower bound,
        not below what was read before. A gauge is the value of the second copy.
        """
        try:
            return self._read()
        except OSError as error:
            raise InvalidSegment(self.path, str(error.strerror).lower()) from error

    def close(self) -> None:
        """Close the descriptor and free the memory; safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            for copy in self._copies:
                copy.close()

    def _read(self) -> Snapshot:
        first, second = self._copies
        self._fill(first, len(self._names))
        published = first.words[PUBLISHED_WORD]
        if published != len(self._names):
            self._learn(published)
            self._fill(first, published)
        self._fill(second, published)
        self._values = self._agreed(published)
        return Snapshot(
            dict(zip(self._names.counters, compress(self._values, self._names.are_counters), strict=True)),
            dict(zip(self._names.gauges, compress(self._values, self._names.are_gauges), strict=True)),
            second.words[DROPPED_WORD],
        )

    def _fill(self, copy: "_Copy", slots: int) -> None:
        """Copy header and values; raise `InvalidSegment` if the file shrank or its header changed."""
        size = (VALUES_WORD + slots) * WORD
        if copy.take(0, size) != size:
            raise InvalidSegment(self.path, "it has become shorter")
        if copy.words[MAGIC_WORD] != MAGIC or copy.bytes[WORD:HEADER_SIZE] != self._image:
            raise InvalidSegment(self.path, "its header has changed")

    def _learn(self, published: int) -> None:
        """Read the new part of the index and its names."""
        try:
            self._names.learn(self._descriptor, published)
        except ValueError as error:
            raise InvalidSegment(self.path, str(error)) from error

    def _agreed(self, slots: int) -> list[int]:
        """Return the gauges of the second copy and the counters on which both copies agree.

        Counters that differ are read again.
        """
        before, after = (copy.words[VALUES_WORD : VALUES_WORD + slots].tolist() for copy in self._copies)
        if before == after:
            return after
        known = self._values + [0] * (slots - len(self._values))
        for slot, (first, second) in enumerate(zip(before, after, strict=True)):
            if first != second and self._names.are_counters[slot]:
                after[slot] = max(self._settle(slot, first, second), known[slot])
        return after

    def _settle(self, slot: int, first: int, second: int) -> int:
        """Read one counter until two reads agree; return its value, or a lower bound."""
        for _ in range(_LOOKS):
            if settled(first, second):
                return first
            at = VALUES_WORD + slot
            if self._copies[1].take(at * WORD, WORD) != WORD:
                raise InvalidSegment(self.path, "it has become shorter")
            first, second = second, self._copies[1].words[at]
        return at_least(first, second)


class _Copy:
    """A page-aligned buffer in which words have the same alignment as in the file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(-1, size)
        self.bytes = memoryview(self._memory)
        self.words: memoryview[int] = self.bytes.cast("Q")

    def take(self, start: int, size: int) -> int:
        """Copy this part of the file to the same offset here; return the number of bytes read."""
        with self.bytes[start : start + size] as part:
            return os.preadv(self._descriptor, [part], start)

    def close(self) -> None:
        """Free the memory."""
        self.words.release()
        self.bytes.release()
        self._memory.close()


def _header(path: Path, descriptor: int) -> Header:
    """Read the header of a file; raise as `Segment.open` does."""
    copy = _Copy(descriptor, HEADER_SIZE)
    try:
        taken = copy.take(0, HEADER_SIZE)
        image = bytes(copy.bytes)
    finally:
        copy.close()
    if taken == 0 or (taken == HEADER_SIZE and not any(image[:WORD])):
        raise Unpublished(path, "it is not published yet")
    try:
        header = Header.parse(image)
    except ValueError as error:
        raise InvalidSegment(path, str(error)) from error
    size = os.fstat(descriptor).st_size
    if size != header.room.size:
        raise InvalidSegment(path, f"{size} bytes, not {header.room.size}")
    return header
