"""The proxy's side: registers names at any time; updates values by one machine store each.

A writer must be used by one thread of one process: `add` loads, adds and stores, so concurrent calls lose counts. A
process that forks must not count in both. There are no locks and no system calls.

    writer = Writer.create(Path(os.environ[ENVIRONMENT]), epoch=…, pid=os.getpid(), started_at=…, nonce=…)
    requests = writer.counter("http.ingress_http.downstream_rq_total")   # once
    requests.add()                                                       # on the hot path
"""

import mmap
from pathlib import Path
from typing import Self

from agent.stats.errors import Unwritable
from agent.stats.layout import (
    DROPPED_WORD,
    LARGEST_WORD,
    MAGIC,
    MAGIC_WORD,
    PUBLISHED_WORD,
    VALUES_WORD,
    WORD,
    Entry,
    Header,
    Kind,
    SegmentLayout,
    check_of,
    encoded,
)
from agent.stats.segment_file import claimed
from agent.stats.snapshot import Snapshot

DEFAULT_ROOM = SegmentLayout()


class _Slot:
    """One value: a word in a view of words."""

    __slots__ = ("_at", "_words")

    def __init__(self, words: "memoryview[int]", at: int) -> None:
        self._words = words
        self._at = at

    @property
    def value(self) -> int:
        """The current value."""
        return self._words[self._at]


class Counter(_Slot):
    """A count of events: only grows, in steps of `n` >= 0, and wraps at 2**64."""

    __slots__ = ()

    def add(self, n: int = 1) -> None:
        """Add `n`; raise ValueError for a negative number."""
        if n < 0:
            raise ValueError(f"a counter cannot go down by {-n}")
        try:
            self._words[self._at] += n
        except ValueError:  # more than a word
            self._words[self._at] = (self.value + n) & LARGEST_WORD


class Gauge(_Slot):
    """A current amount: stops at 0 and at 2**64 - 1 instead of wrapping."""

    __slots__ = ()

    def set(self, value: int) -> None:
        """Set the value."""
        try:
            self._words[self._at] = value
        except ValueError:  # outside the range of a word
            self._words[self._at] = min(max(value, 0), LARGEST_WORD)

    def add(self, n: int = 1) -> None:
        """Add `n`."""
        try:
            self._words[self._at] += n
        except ValueError:  # outside the range of a word
            self.set(self.value + n)

    def sub(self, n: int = 1) -> None:
        """Subtract `n`."""
        self.add(-n)


class Writer:
    """A segment and its only writer; do not share it between threads or with a forked child."""

    def __init__(self, memory: mmap.mmap, header: Header) -> None:
        """Lay out an empty segment in zeroed memory, and publish it; use `create` or `private`."""
        self.header = header
        self._memory = memory
        self._bytes = memoryview(memory)
        self._words: memoryview[int] = self._bytes.cast("Q")
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._used = 0  # bytes of the string table
        image = header.image()
        self._bytes[WORD : len(image)] = image[WORD:]
        self._words[MAGIC_WORD] = MAGIC

    @classmethod
    def create(
        cls, path: Path, *, epoch: int, pid: int, started_at: int, nonce: bytes, room: SegmentLayout = DEFAULT_ROOM
    ) -> Self:
        """Size and fill the empty file that the agent created at `path`, and publish it.

        `started_at` in nanoseconds since 1970, a nonce of 16 bytes. Raises `Unwritable` if the file is missing, not
        empty or not accessible; the proxy can then count in `private`.
        """
        header = Header(epoch, pid, started_at, nonce, room)
        with claimed(path, room.size) as descriptor:
            try:
                memory = mmap.mmap(descriptor, room.size)
            except OSError as error:
                raise Unwritable(f"cannot map {path}: {error.strerror}") from error
        return cls(memory, header)

    @classmethod
    def private(cls, room: SegmentLayout = DEFAULT_ROOM) -> Self:
        """Create a writer without a file, for a proxy that no agent has started."""
        return cls(mmap.mmap(-1, room.size), Header(0, 0, 0, bytes(16), room))

    def counter(self, name: str) -> Counter:
        """Return the counter of this name, the same one each time.

        If there is no room, or the name is invalid (empty, beyond 1,023 bytes, control characters), each call counts
        one dropped name and returns a counter that only its holder can read.
        """
        found = self._counters.get(name)
        if found is not None:
            return found
        at = self._register(name, Kind.COUNTER)
        if at is None:
            return Counter(self._drop(), 0)
        return self._counters.setdefault(name, Counter(self._words, at))

    def gauge(self, name: str) -> Gauge:
        """Return the gauge of this name, like `counter`; a counter may have the same name."""
        found = self._gauges.get(name)
        if found is not None:
            return found
        at = self._register(name, Kind.GAUGE)
        if at is None:
            return Gauge(self._drop(), 0)
        return self._gauges.setdefault(name, Gauge(self._words, at))

    def read(self) -> Snapshot:
        """Return the current values, for the proxy's own admin interface."""
        return Snapshot(
            {name: counter.value for name, counter in self._counters.items()},
            {name: gauge.value for name, gauge in self._gauges.items()},
            self._words[DROPPED_WORD],
        )

    def close(self) -> None:
        """Release the memory; counts stay in the file, and counting further raises ValueError."""
        self._words.release()
        self._bytes.release()
        self._memory.close()

    def _register(self, name: str, kind: Kind) -> int | None:
        """Publish a name: its bytes, index word, slot count; return its word, or None without room."""
        text = encoded(name)
        room, slot = self.header.room, self._words[PUBLISHED_WORD]
        if text is None or slot == room.slots or self._used + len(text) > room.strings:
            return None
        start = room.names + self._used
        self._bytes[start : start + len(text)] = text
        entry = Entry(kind, check_of(text), len(text), self._used)
        self._words[room.index // WORD + slot] = entry.word()
        self._words[PUBLISHED_WORD] = slot + 1
        self._used += len(text)
        return VALUES_WORD + slot

    def _drop(self) -> "memoryview[int]":
        """Count a dropped name; return one word for its holder alone."""
        self._words[DROPPED_WORD] += 1
        return memoryview(bytearray(WORD)).cast("Q")
