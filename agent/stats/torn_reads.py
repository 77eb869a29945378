"""Determines a counter's value from two reads that the kernel may have torn.

A reader must not map the file: a process that truncates it (a proxy may, it owns the file) would kill the agent by
SIGBUS. So it has the kernel copy the values (preadv(2)), which does not guarantee that a copy reads a word in one
piece. Measured on x86-64 (AMD EPYC, Linux 6.18, ext4 and tmpfs) beside a writer in C that flips all bits of each word
as fast as it can: into a buffer that starts a page, as the file does, 0 torn of 980 million values; into one that is 1
… 16 bytes off, up to 8 in 100, since `rep movsb` then goes byte by byte. `os.pread` returns bytes that are always off.

The reader therefore copies into buffers that start a page. As no architecture guarantees that this is enough, it copies
twice and accepts values on which both copies agree: a wrong value would need both reads to be torn, into the same
number. (Two torn reads can agree, even for a counter that only grows: 1011 to 1101 and 1101 to 1110 can both be read as
1111.)
"""


def settled(first: int, second: int) -> bool:
    """Return whether two reads agree: the counter's value, provided that one read was whole."""
    return first == second


def at_least(first: int, second: int) -> int:
    """Return a lower bound from two reads, one of them whole: their common upper bytes."""
    differing_bytes = ((first ^ second).bit_length() + 7) // 8
    return first >> 8 * differing_bytes << 8 * differing_bytes
