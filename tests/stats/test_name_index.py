"""Names read from a file as the writer publishes them, and from files that no writer wrote."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.stats.layout import Entry, Kind, SegmentLayout, check_of
from agent.stats.name_index import NameIndex

ROOM = SegmentLayout(4, 64)
COUNTER, GAUGE = Kind.COUNTER, Kind.GAUGE


class File:
    """A segment's index and names, written entry by entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(ROOM.size))
        self.descriptor = os.open(path, os.O_RDWR)
        self.slots = 0
        self.used = 0

    def entry(self, slot: int, kind: int, check: int, length: int, offset: int) -> None:
        """Write an index word."""
        word = kind << 56 | check << 40 | length << 24 | offset
        os.pwrite(self.descriptor, struct.pack("=Q", word), ROOM.index + 8 * slot)

    def name(self, text: bytes, kind: Kind = COUNTER) -> None:
        """Publish a name as a writer does."""
        os.pwrite(self.descriptor, text, ROOM.names + self.used)
        self.entry(self.slots, kind, check_of(text), len(text), self.used)
        self.slots += 1
        self.used += len(text)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path / "segment")
    yield made
    os.close(made.descriptor)


def refused(index: NameIndex, file: File, published: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        index.learn(file.descriptor, published)


def test_names_are_learnt_by_kind_in_the_order_of_their_slots(file: File) -> None:
    for text, kind in ((b"b", COUNTER), (b"a", GAUGE), ("grüße".encode(), COUNTER), (b"c", GAUGE)):
        file.name(text, kind)
    index = NameIndex(ROOM)
    index.learn(file.descriptor, 4)
    assert (list(index.counters), list(index.gauges)) == (["b", "grüße"], ["a", "c"])
    assert index.are_counters == [True, False, True, False]
    assert index.are_gauges == [False, True, False, True]
    assert len(index) == 4


def test_nothing_is_learnt_of_an_empty_segment(file: File) -> None:
    index = NameIndex(ROOM)
    index.learn(file.descriptor, 0)
    assert (len(index), index.counters, index.gauges) == (0, {}, {})


def test_later_names_follow_those_that_are_known_already(file: File) -> None:
    index = NameIndex(ROOM)
    file.name(b"first")
    index.learn(file.descriptor, 1)
    file.name(b"second")
    file.name(b"third", GAUGE)
    index.learn(file.descriptor, 2)
    assert list(index.counters) == ["first", "second"]
    index.learn(file.descriptor, 3)
    index.learn(file.descriptor, 3)
    assert (list(index.counters), list(index.gauges)) == (["first", "second"], ["third"])


def test_known_names_are_not_read_again(file: File) -> None:
    index = NameIndex(ROOM)
    file.name(b"first")
    index.learn(file.descriptor, 1)
    os.pwrite(file.descriptor, b"other", ROOM.names)
    file.name(b"second")
    index.learn(file.descriptor, 2)
    assert list(index.counters) == ["first", "second"]


def test_one_name_may_be_a_counter_and_a_gauge(file: File) -> None:
    file.name(b"a", COUNTER)
    file.name(b"a", GAUGE)
    index = NameIndex(ROOM)
    index.learn(file.descriptor, 2)
    assert (list(index.counters), list(index.gauges)) == (["a"], ["a"])


@pytest.mark.parametrize("kind", [COUNTER, GAUGE])
def test_but_not_twice_the_same(kind: Kind, file: File) -> None:
    file.name(b"a", kind)
    file.name(b"a", kind)
    refused(NameIndex(ROOM), file, 2, "a twice")


def test_the_names_before_an_invalid_one_are_kept_and_the_rest_is_learnt_once_it_is_valid(file: File) -> None:
    index = NameIndex(ROOM)
    file.name(b"good")
    file.name(b"bad")
    os.pwrite(file.descriptor, b"B", ROOM.names + 4)
    refused(index, file, 2, "name 1")
    assert list(index.counters) == ["good"]
    os.pwrite(file.descriptor, b"b", ROOM.names + 4)
    index.learn(file.descriptor, 2)
    assert list(index.counters) == ["good", "bad"]


def test_a_count_that_goes_down_or_beyond_the_room_is_refused(file: File) -> None:
    index = NameIndex(ROOM)
    file.name(b"a")
    index.learn(file.descriptor, 1)
    refused(index, file, 0, "0 names after 1")
    refused(index, file, 5, "5 names after 1")
    refused(index, file, 2**64 - 1, "18446744073709551615")


@pytest.mark.parametrize(
    ("kind", "length", "offset", "reason"),
    [
        (COUNTER, 1, 1, "name 0"),
        (COUNTER, 0, 0, "name 0"),
        (COUNTER, 1024, 0, "name 0"),
        (COUNTER, 65, 0, "beyond"),
        (0, 1, 0, "0"),
        (9, 1, 0, "9"),
    ],
    ids=["a gap", "empty", "too long", "beyond the table", "no kind", "another kind"],
)
def test_an_entry_that_no_writer_writes_is_refused(
    kind: int, length: int, offset: int, reason: str, file: File
) -> None:
    file.entry(0, kind, 0, length, offset)
    index = NameIndex(ROOM)
    refused(index, file, 1, reason)
    assert len(index) == 0


def test_names_may_fill_the_table_to_its_end_and_not_one_byte_more(file: File) -> None:
    file.name(b"x" * 63)
    file.name(b"y")
    NameIndex(ROOM).learn(file.descriptor, 2)
    file.name(b"z")
    refused(NameIndex(ROOM), file, 3, "beyond the string table")


def test_the_longest_name_is_learnt(tmp_path: Path) -> None:
    room = SegmentLayout(1, 1024)
    (tmp_path / "segment").write_bytes(bytes(room.size))
    descriptor = os.open(tmp_path / "segment", os.O_RDWR)
    text = b"x" * 1023
    os.pwrite(descriptor, text, room.names)
    os.pwrite(descriptor, struct.pack("=Q", Entry(COUNTER, check_of(text), 1023, 0).word()), room.index)
    index = NameIndex(room)
    index.learn(descriptor, 1)
    os.close(descriptor)
    assert list(index.counters) == ["x" * 1023]


@pytest.mark.parametrize("size", [ROOM.index + 4, ROOM.index, ROOM.names, ROOM.names + 3])
def test_a_file_that_was_cut_off_is_shorter_and_nothing_of_it_is_learnt(size: int, file: File) -> None:
    file.name(b"name")
    os.truncate(file.descriptor, size)
    index = NameIndex(ROOM)
    refused(index, file, 1, "shorter")
    assert len(index) == 0


def test_a_name_with_a_control_character_is_refused(file: File) -> None:
    file.name(b"a\nb")
    refused(NameIndex(ROOM), file, 1, "invalid name")


def test_bytes_that_are_no_text_are_refused(file: File) -> None:
    file.name(b"\xff\xfe")
    refused(NameIndex(ROOM), file, 1, "utf-8")
