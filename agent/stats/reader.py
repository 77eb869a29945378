"""The agent's side: a segment is read while it is written, and costs the agent nothing but a refusal when it is broken.

Nothing of the file is mapped (why: `agent.stats.torn_reads`), nothing is believed twice: the header is compared with
that of the opening at each read, a short read is a refusal, names must lie back to back in their table, so that what a
reader holds is bounded by the file's size, at most 17 MiB, and the file's size by its header.
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
"""How often a counter is looked at until two looks agree; one that never pauses is then taken a little low."""


class Segment:
    """A segment open for reading: one descriptor, and two copies of its values."""

    def __init__(self, path: Path, descriptor: int, header: Header) -> None:
        """Take over a descriptor whose header has been read; `open` is the way in."""
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

        Raises `Unpublished` as long as its writer has not got so far, `InvalidSegment` for everything else: a link,
        another mode than 0600, a header that does not fit, a file longer or shorter than its header says.
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
        """Return all values as of now; raise `InvalidSegment`, whereupon the next read may succeed again.

        A counter is what it was at some moment of the read. One that moved between all of eight looks is what it has
        reached for sure, which is never too much, and not below what was read before. A gauge is what
        the second copy says.
        """
        try:
            return self._read()
        except OSError as error:
            raise InvalidSegment(self.path, str(error.strerror).lower()) from error

    def close(self) -> None:
        """Give descriptor and memory back; a second time does nothing."""
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
        """Copy header and values; raise `InvalidSegment` if it is not the segment any more that was opened."""
        size = (VALUES_WORD + slots) * WORD
        if copy.take(0, size) != size:
            raise InvalidSegment(self.path, "it has become shorter")
        if copy.words[MAGIC_WORD] != MAGIC or copy.bytes[WORD:HEADER_SIZE] != self._image:
            raise InvalidSegment(self.path, "its header has changed")

    def _learn(self, published: int) -> None:
        """Read the index and the names that are new."""
        try:
            self._names.learn(self._descriptor, published)
        except ValueError as error:
            raise InvalidSegment(self.path, str(error)) from error

    def _agreed(self, slots: int) -> list[int]:
        """Return the values on which both copies agree, or are made to."""
        before, after = (copy.words[VALUES_WORD : VALUES_WORD + slots].tolist() for copy in self._copies)
        if before == after:
            return after
        known = self._values + [0] * (slots - len(self._values))
        for slot, (first, second) in enumerate(zip(before, after, strict=True)):
            if first != second and self._names.are_counters[slot]:
                after[slot] = max(self._settle(slot, first, second), known[slot])
        return after

    def _settle(self, slot: int, first: int, second: int) -> int:
        """Look at one counter again until two looks agree; return what it stood at, or has reached for sure."""
        for _ in range(_LOOKS):
            if settled(first, second):
                return first
            at = VALUES_WORD + slot
            if self._copies[1].take(at * WORD, WORD) != WORD:
                raise InvalidSegment(self.path, "it has become shorter")
            first, second = second, self._copies[1].words[at]
        return at_least(first, second)


class _Copy:
    """A buffer that starts a page, for words to lie in it as they lie in the file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(-1, size)
        self.bytes = memoryview(self._memory)
        self.words: memoryview[int] = self.bytes.cast("Q")

    def take(self, start: int, size: int) -> int:
        """Copy this part of the file to the same place here; return how many bytes there were."""
        with self.bytes[start : start + size] as part:
            return os.preadv(self._descriptor, [part], start)

    def close(self) -> None:
        """Give the memory back."""
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
        raise Unpublished(path, "nothing is published there yet")
    try:
        header = Header.parse(image)
    except ValueError as error:
        raise InvalidSegment(path, str(error)) from error
    size = os.fstat(descriptor).st_size
    if size != header.room.size:
        raise InvalidSegment(path, f"{size} bytes, not {header.room.size}")
    return header
