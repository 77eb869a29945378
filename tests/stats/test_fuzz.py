"""A file of any content is refused or read, without other effects."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.stats.errors import InvalidSegment
from agent.stats.layout import HEADER_SIZE, LARGEST_WORD, MAGIC, PUBLISHED_WORD, WORD, Header, SegmentLayout
from agent.stats.reader import Segment
from agent.stats.snapshot import Snapshot
from tests.stats.segments import SMALL, written

FUZZ = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
BYTE = st.integers(0, 255)


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    """A good segment, full."""
    with written(tmp_path / "good") as writer:
        for number in range(6):
            writer.counter(f"counter.{number}").add(number)
        writer.gauge("gauge").set(9)
        writer.counter("x" * 200)
        return (tmp_path / "good").read_bytes()


def looked_at(path: Path, *images: bytes) -> list[Snapshot]:
    """Open the first image, read it and its replacements; return the values that were accepted."""
    found: list[Snapshot] = []
    path.touch(0o600)
    path.write_bytes(images[0])
    try:
        segment = Segment.open(path)
    except InvalidSegment:
        return found
    for content in images:
        path.write_bytes(content)
        try:
            found.append(segment.read())
        except InvalidSegment:
            continue
    segment.close()
    for snapshot in found:
        _sensible(snapshot, segment.header.room)
    return found


def _sensible(snapshot: Snapshot, room: SegmentLayout) -> None:
    names = [*snapshot.counters, *snapshot.gauges]
    assert len(names) <= room.slots
    assert sum(len(name.encode()) for name in names) <= room.strings
    values = [*snapshot.counters.values(), *snapshot.gauges.values(), snapshot.dropped]
    assert all(0 <= value <= LARGEST_WORD for value in values)


def test_the_good_one_is_read(tmp_path: Path, image: bytes) -> None:
    (snapshot,) = looked_at(tmp_path / "stats", image)
    assert (len(snapshot.counters), snapshot.gauges, snapshot.dropped) == (6, {"gauge": 9}, 1)


@FUZZ
@given(content=st.binary(max_size=700))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    assert looked_at(tmp_path / "stats", content) == []


@FUZZ
@given(size=st.integers(0, SMALL.size - 1), data=st.data())
def test_any_truncation(tmp_path: Path, image: bytes, size: int, data: st.DataObject) -> None:
    assert looked_at(tmp_path / "stats", image[:size]) == []
    assert len(looked_at(tmp_path / "stats", image, image[:size], image)) >= 2


@FUZZ
@given(bit=st.integers(0, SMALL.size * 8 - 1))
def test_any_flip(tmp_path: Path, image: bytes, bit: int) -> None:
    flipped = bytearray(image)
    flipped[bit // 8] ^= 1 << bit % 8
    found = looked_at(tmp_path / "stats", bytes(flipped))
    if bit // 8 < HEADER_SIZE:
        assert found == []
    looked_at(tmp_path / "stats", image, bytes(flipped), image)


@FUZZ
@given(changes=st.lists(st.tuples(st.integers(HEADER_SIZE, SMALL.size - 1), BYTE), max_size=20), body=st.booleans())
def test_a_good_header_before_anything(
    tmp_path: Path, image: bytes, changes: list[tuple[int, int]], body: bool
) -> None:
    changed = bytearray(image if body else image[:HEADER_SIZE].ljust(len(image), b"\0"))
    for offset, value in changes:
        changed[offset] = value
    looked_at(tmp_path / "stats", bytes(changed), image)
    looked_at(tmp_path / "stats", image, bytes(changed), image)


@FUZZ
@given(
    slots=st.integers(1, 64),
    strings=st.integers(0, 64),
    published=st.integers(0, 70) | st.integers(0, LARGEST_WORD),
    body=st.binary(max_size=1024),
    repeated=st.integers(1, 64),
)
def test_a_valid_header_of_any_layout_before_any_body(
    tmp_path: Path, slots: int, strings: int, published: int, body: bytes, repeated: int
) -> None:
    room = SegmentLayout(slots, strings * WORD)
    changed = bytearray(Header(1, 2, 3, bytes(16), room).image().ljust(room.size, b"\0"))
    changed[:WORD] = MAGIC.to_bytes(WORD, sys.byteorder)
    changed[PUBLISHED_WORD * WORD : (PUBLISHED_WORD + 1) * WORD] = published.to_bytes(WORD, sys.byteorder)
    behind = slice(room.index, room.size)
    changed[behind] = (body * repeated).ljust(room.size, b"\0")[: room.size - room.index]
    looked_at(tmp_path / "stats", bytes(changed))
