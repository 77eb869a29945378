"""The binary layout of a segment. Words: unsigned, 64 bits, aligned, native byte order.

======  =====  ==========================================================================================
offset  bytes  meaning
======  =====  ==========================================================================================
     0      8  magic, the bytes ``agntstat``; written last, never changed
     8      8  layout version, 1
    16      8  ABI hash: the first 8 bytes of a SHA-256 over version, byte order, sizes and offsets
    24      8  size of the file in bytes
    32      8  epoch
    40      8  process id of the writer
    48      8  start of the writer, nanoseconds since 1970
    56     16  nonce, distinguishes segments of the same epoch
    72      8  S, capacity in slots, 1 … 65,536
    80      8  T, bytes of the string table, a multiple of 8, at most 16 MiB
    88      8  CRC-32 of the bytes 8 … 87
    96     32  zero
   128      8  slots published; only grows
   136      8  names dropped because there was no room or they were invalid
   144    112  zero
   256    8 S  values, one word a slot
 + 8 S   8 S  index, one word a slot: its name's position and its kind
+ 16 S     T  string table: names in UTF-8, contiguous, without a separator
======  =====  ==========================================================================================

An index word is, from the top: kind (8 bits; 1 counter, 2 gauge), check (16 bits, the low ones of the name's CRC-32),
length of the name in bytes (16 bits, 1 … 1,023), offset in the string table (24 bits). The names follow one another in
the order of their slots, so the offset is the sum of the lengths before it. No kind has the same name twice.

The first 128 bytes never change once the magic is written. A name is published in this order: its bytes, its index
word, the number of slots. On a machine that reorders stores (arm64), a reader may see a number before the name; then
check or kind do not match, this read fails, and the next one may succeed.

Values are stored as whole aligned words and nothing else (`memoryview.cast("Q")[i] = v`, one machine store): with
`struct.pack_into` 15 % of concurrently read values were torn, this way none of 11 million.
A counter wraps at 2**64; `agent.stats.totals` continues across the wrap. A gauge stops at 0 and at 2**64 - 1.
"""

import hashlib
import re
import struct
import sys
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Self

ENVIRONMENT = "PROXY_AGENT_STATS"
"""The environment variable that passes the path of the empty segment file to the proxy."""

MAGIC = int.from_bytes(b"agntstat", sys.byteorder)
VERSION = 1
WORD = 8
LARGEST_WORD = 2**64 - 1

MAGIC_WORD, PUBLISHED_WORD, DROPPED_WORD, VALUES_WORD = 0, 16, 17, 32
HEADER_SIZE = PUBLISHED_WORD * WORD
"""Size in bytes of the part that never changes once it is published."""

LARGEST_SLOTS = 2**16
LARGEST_STRINGS = 2**24
LONGEST_NAME = 1023
"""In bytes."""

_IDENTITY = struct.Struct("=QQQQQQ16sQQ")  # the fields after the magic that the CRC covers
_CHECKED = slice(WORD, WORD + _IDENTITY.size)
_CHECK = struct.Struct("=Q")
_ENTRY_BITS = (24, 16, 16, 8)  # offset, length, check, kind
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


class Kind(IntEnum):
    """The kind of value in a slot."""

    COUNTER = 1
    GAUGE = 2


def abi_hash() -> int:
    """Return a number that two programs share only if they use the same layout."""
    facts = (
        VERSION,
        sys.byteorder,
        WORD,
        (MAGIC_WORD, PUBLISHED_WORD, DROPPED_WORD, VALUES_WORD),
        _IDENTITY.format,
        _ENTRY_BITS,
        (LARGEST_SLOTS, LARGEST_STRINGS, LONGEST_NAME),
        [(kind.name, kind.value) for kind in Kind],
    )
    return int.from_bytes(hashlib.sha256(repr(facts).encode()).digest()[:WORD], "big")


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """The number of slots and the bytes for their names; raises ValueError beyond the limits."""

    slots: int = 4096
    strings: int = 4096 * 64

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= LARGEST_SLOTS:
            raise ValueError(f"{self.slots} slots are not between 1 and {LARGEST_SLOTS}")
        if not 0 <= self.strings <= LARGEST_STRINGS or self.strings % WORD:
            raise ValueError(f"{self.strings} bytes of names are not a multiple of {WORD} up to {LARGEST_STRINGS}")

    @property
    def index(self) -> int:
        """Offset of the index in bytes."""
        return (VALUES_WORD + self.slots) * WORD

    @property
    def names(self) -> int:
        """Offset of the string table in bytes."""
        return (VALUES_WORD + 2 * self.slots) * WORD

    @property
    def size(self) -> int:
        """Size of the whole file in bytes."""
        return self.names + self.strings


@dataclass(frozen=True, slots=True)
class Header:
    """A segment's writer and layout.

    `started_at` in nanoseconds since 1970, a nonce of 16 bytes.
    """

    epoch: int
    pid: int
    started_at: int
    nonce: bytes
    room: SegmentLayout

    def image(self) -> bytes:
        """Return the first 128 bytes of the file, with zero for the magic, which is stored last."""
        assert len(self.nonce) == 16, "a nonce has 16 bytes"
        who = (self.epoch, self.pid, self.started_at, self.nonce)
        identity = _IDENTITY.pack(VERSION, abi_hash(), self.room.size, *who, self.room.slots, self.room.strings)
        return (bytes(WORD) + identity + _CHECK.pack(zlib.crc32(identity))).ljust(HEADER_SIZE, b"\0")

    @classmethod
    def parse(cls, image: bytes) -> Self:
        """Parse the first 128 bytes of a file; raise ValueError with the reason if they are invalid."""
        version, abi, size, epoch, pid, started_at, nonce, slots, strings = _IDENTITY.unpack(image[_CHECKED])
        if int.from_bytes(image[:WORD], sys.byteorder) != MAGIC:
            raise ValueError("not a segment: wrong magic number")
        if version != VERSION:
            raise ValueError(f"layout version {version}, not {VERSION}")
        if abi != abi_hash():
            raise ValueError(f"ABI hash {abi:016x}, not {abi_hash():016x}")
        header = cls(epoch, pid, started_at, nonce, SegmentLayout(slots, strings))
        if size != header.room.size:
            raise ValueError(f"its header states {size} bytes, but its layout needs {header.room.size}")
        if header.image()[WORD:] != image[WORD:]:
            raise ValueError("the header's CRC does not fit")
        return header


class Entry(NamedTuple):
    """An index word: a slot's kind, and the position of its name in the string table, in bytes."""

    kind: Kind
    check: int
    length: int
    offset: int

    def word(self) -> int:
        """Pack it."""
        return self.kind << 56 | self.check << 40 | self.length << 24 | self.offset

    @classmethod
    def parse(cls, word: int) -> Self:
        """Unpack it; raise ValueError for an unknown kind."""
        return cls(Kind(word >> 56), word >> 40 & 0xFFFF, word >> 24 & 0xFFFF, word & 0xFFFFFF)


def check_of(name: bytes) -> int:
    """Return a 16-bit check that distinguishes a name from bytes that are not yet written."""
    return zlib.crc32(name) & 0xFFFF


def encoded(name: str) -> bytes | None:
    """Return a name's bytes in the file, or None if it is invalid.

    Invalid: empty, too long, with control characters or surrogates.
    """
    if _CONTROL_CHARACTER.search(name):
        return None
    try:
        text = name.encode()
    except UnicodeEncodeError:
        return None
    return text if 1 <= len(text) <= LONGEST_NAME else None


def decoded(text: bytes) -> str:
    """Decode a name from the file; raise ValueError if no writer would write it."""
    name = text.decode()
    if _CONTROL_CHARACTER.search(name):
        raise ValueError("an invalid name")
    return name
