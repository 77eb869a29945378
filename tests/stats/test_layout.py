"""The bytes of a segment, as the table in the module describes them to programs in other languages."""

import struct
import sys
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.stats import layout
from agent.stats.layout import (
    DROPPED_WORD,
    HEADER_SIZE,
    LARGEST_SLOTS,
    LARGEST_STRINGS,
    LONGEST_NAME,
    MAGIC,
    PUBLISHED_WORD,
    VALUES_WORD,
    Entry,
    Header,
    Kind,
    SegmentLayout,
    check_of,
    decoded,
    encoded,
)

ROOM = SegmentLayout(8, 128)
HEADER = Header(7, 4711, 1_700_000_000_000_000_000, bytes(range(16)), ROOM)


def published(image: bytes) -> bytes:
    """Put the magic in, as a writer does in the end."""
    return b"agntstat" + image[8:]


# Where things lie


def test_the_parts_lie_where_the_table_says() -> None:
    assert (HEADER_SIZE, PUBLISHED_WORD * 8, DROPPED_WORD * 8, VALUES_WORD * 8) == (128, 128, 136, 256)
    assert (ROOM.index, ROOM.names, ROOM.size) == (256 + 64, 256 + 128, 256 + 128 + 128)
    assert MAGIC.to_bytes(8, sys.byteorder) == b"agntstat"


def test_the_largest_segment_has_seventeen_megabytes() -> None:
    assert SegmentLayout(65_536, 16 << 20).size == 256 + (1 << 20) + (16 << 20)


def test_a_segment_has_four_thousand_slots_unless_told_otherwise() -> None:
    assert (SegmentLayout().slots, SegmentLayout().strings) == (4096, 262_144)


@pytest.mark.parametrize(
    ("slots", "strings"), [(1, 0), (LARGEST_SLOTS, LARGEST_STRINGS), (65_536, 16_777_216), (1, 8), (1, 1024)]
)
def test_a_room_within_the_limits_is_one(slots: int, strings: int) -> None:
    assert SegmentLayout(slots, strings).slots == slots


@pytest.mark.parametrize(
    ("slots", "strings", "named"),
    [
        (0, 8, "0 slots"),
        (-1, 8, "-1 slots"),
        (65_537, 8, "65537 slots"),
        (1, -8, "-8 bytes"),
        (1, 1, "1 bytes"),
        (1, 12, "12 bytes"),
        (1, 16_777_224, "16777224 bytes"),
        (2**64, 0, "18446744073709551616 slots"),
    ],
)
def test_a_room_beyond_them_is_refused_with_its_number(slots: int, strings: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SegmentLayout(slots, strings)


# The header


def test_a_header_is_written_byte_by_byte_as_the_table_says() -> None:
    image = HEADER.image()
    assert len(image) == 128
    assert image[:8] == bytes(8), "the magic is stored last"
    assert struct.unpack_from("=QQQQQQ", image, 8) == (
        1, layout.abi_hash(), ROOM.size, 7, 4711, 1_700_000_000_000_000_000,
    )  # fmt: skip
    assert image[56:72] == bytes(range(16))
    assert struct.unpack_from("=QQ", image, 72) == (8, 128)
    assert struct.unpack_from("=Q", image, 88) == (zlib.crc32(image[8:88]),)
    assert image[96:] == bytes(32)


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        replace(HEADER, epoch=0, pid=0, started_at=0, nonce=bytes(16)),
        replace(HEADER, epoch=2**64 - 1, pid=2**64 - 1, started_at=2**64 - 1, nonce=b"\xff" * 16),
        replace(HEADER, room=SegmentLayout(1, 0)),
    ],
    ids=["usual", "zeros", "largest", "smallest room"],
)
def test_what_is_written_is_read_back(header: Header) -> None:
    assert Header.parse(published(header.image())) == header


@pytest.mark.parametrize(
    ("offset", "content", "reason"),
    [
        (0, bytes(8), "magic"),
        (0, b"tatstnga", "magic"),
        (8, b"\0", "version 0"),
        (8, b"\2", "version 2"),
        (16, bytes(8), "ABI"),
        (24, b"\xff", "bytes"),
        (32, b"\x63", "CRC"),
        (71, b"\x63", "CRC"),
        (72, bytes(8), "0 slots"),
        (72, b"\xff" * 8, "slots"),
        (80, b"\1", "129 bytes|1 bytes|bytes of names"),
        (88, b"\x63" * 4, "CRC"),
        (95, b"\1", "CRC"),
        (96, b"\1", "CRC"),
        (127, b"\1", "CRC"),
    ],
)
def test_a_header_that_is_wrong_anywhere_is_refused_with_the_reason(offset: int, content: bytes, reason: str) -> None:
    image = bytearray(published(HEADER.image()))
    image[offset : offset + len(content)] = content
    with pytest.raises(ValueError, match=reason):
        Header.parse(bytes(image))


@given(st.binary(min_size=128, max_size=128))
def test_any_bytes_are_no_header(image: bytes) -> None:
    with pytest.raises(ValueError, match="magic"):
        Header.parse(image)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VERSION", 2),
        ("WORD", 4),
        ("MAGIC_WORD", 1),
        ("PUBLISHED_WORD", 18),
        ("DROPPED_WORD", 18),
        ("VALUES_WORD", 64),
        ("LARGEST_SLOTS", 1),
        ("LARGEST_STRINGS", 1),
        ("LONGEST_NAME", 1024),
        ("_IDENTITY", struct.Struct("=QQQQQ24sQQ")),
        ("_ENTRY_BITS", (32, 8, 16, 8)),
    ],
)
def test_another_layout_has_another_hash(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = layout.abi_hash()
    monkeypatch.setattr(layout, name, value)
    assert layout.abi_hash() != ours


def test_the_hash_is_a_word_and_the_same_each_time() -> None:
    assert 0 < layout.abi_hash() < 2**64
    assert layout.abi_hash() == layout.abi_hash()


@pytest.mark.skipif(sys.byteorder != "little", reason="written down for little-endian machines")
def test_the_hash_of_the_first_version_stays_what_it_is() -> None:
    """Proxies that were built with an earlier agent write it."""
    assert layout.abi_hash() == 0xB5CEC49AD936B6A9
    assert layout.LARGEST_WORD == 0xFFFF_FFFF_FFFF_FFFF


# An index word


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (Entry(Kind.COUNTER, 0, 0, 0), 0x01_0000_0000_000000),
        (Entry(Kind.GAUGE, 0xABCD, 0x0102, 0x030405), 0x02_ABCD_0102_030405),
        (Entry(Kind.COUNTER, 0xFFFF, 0xFFFF, 0xFFFFFF), 0x01_FFFF_FFFF_FFFFFF),
    ],
)
def test_an_index_word_has_from_the_top_kind_check_length_and_offset(entry: Entry, word: int) -> None:
    assert entry.word() == word
    assert Entry.parse(word) == entry
    assert (Entry.parse(word).check, Entry.parse(word).length, Entry.parse(word).offset) == entry[1:]


@pytest.mark.parametrize("kind", [0, 3, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(ValueError, match=str(kind)):
        Entry.parse(kind << 56)


# Names


def test_a_check_is_the_low_half_of_the_crc() -> None:
    assert check_of(b"123456789") == 0x3926, "of 0xCBF43926, the value that every CRC-32 is tested with"
    assert check_of(b"") == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", b"a"),
        (" ", b" "),
        ("cluster.a.b", b"cluster.a.b"),
        ("grüße", "grüße".encode()),
        ("\U0001f600", b"\xf0\x9f\x98\x80"),
        ("x" * 1023, b"x" * 1023),
        ("\x80", b"\xc2\x80"),
    ],
)
def test_a_name_is_its_utf_8(name: str, text: bytes) -> None:
    assert encoded(name) == text
    assert decoded(text) == name


@pytest.mark.parametrize(
    "name", ["", "x" * (LONGEST_NAME + 1), "ü" * 512, "a\0", "a\n", "\x1f", "\x7f", "\ud800", "a\tb"]
)
def test_what_is_no_name_has_no_bytes(name: str) -> None:
    assert encoded(name) is None


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"a\nb", b"\x7f", b"\0", b"\xed\xa0\x80", b"\xc0\x80"])
def test_bytes_that_no_writer_writes_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the decoder's own or ours
        decoded(text)
