"""A reader's index of a segment's names; each is parsed once, since names are only added."""

import os

from agent.stats.layout import LONGEST_NAME, WORD, Entry, Kind, SegmentLayout, check_of, decoded


class NameIndex:
    """Names by kind in the order of their slots, with a mask of slots for each kind."""

    def __init__(self, room: SegmentLayout) -> None:
        self.counters: dict[str, None] = {}
        self.gauges: dict[str, None] = {}
        self.are_counters: list[bool] = []
        self.are_gauges: list[bool] = []
        self._room = room
        self._used = 0  # bytes of the string table

    def __len__(self) -> int:
        return len(self.are_counters)

    def learn(self, descriptor: int, published: int) -> None:
        """Read names from the file until there are `published`.

        Raises ValueError if they are invalid, and keeps the names before the first invalid one.
        """
        if not len(self) <= published <= self._room.slots:
            raise ValueError(f"{published} names after {len(self)}, with {self._room.slots} slots")
        entries = self._entries(descriptor, published)
        size = sum(entry.length for entry in entries)
        texts = os.pread(descriptor, size, self._room.names + self._used)
        if len(texts) != size:
            raise ValueError("it has become shorter")
        start = self._used
        for entry in entries:
            self._add(entry, texts[entry.offset - start : entry.offset - start + entry.length])

    def _entries(self, descriptor: int, published: int) -> list[Entry]:
        """Return the new index entries; raise ValueError unless names are contiguous in the table."""
        size = (published - len(self)) * WORD
        raw = os.pread(descriptor, size, self._room.index + len(self) * WORD)
        if len(raw) != size:
            raise ValueError("it has become shorter")
        entries: list[Entry] = []
        used = self._used
        for word in memoryview(raw).cast("Q"):
            entry = Entry.parse(word)
            if entry.offset != used or not 1 <= entry.length <= LONGEST_NAME:
                raise ValueError(f"name {len(self) + len(entries)} does not follow the previous one")
            used += entry.length
            entries.append(entry)
        if used > self._room.strings:
            raise ValueError("names beyond the string table")
        return entries

    def _add(self, entry: Entry, text: bytes) -> None:
        if check_of(text) != entry.check:
            raise ValueError(f"name {len(self)} does not match its checksum")
        name = decoded(text)
        names = self.counters if entry.kind is Kind.COUNTER else self.gauges
        if name in names:
            raise ValueError(f"{name} twice")
        names[name] = None
        self.are_counters.append(entry.kind is Kind.COUNTER)
        self.are_gauges.append(entry.kind is Kind.GAUGE)
        self._used += entry.length
