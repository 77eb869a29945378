"""What a counter stands at, told from two reads of it that the kernel may have torn.

A reader must not map the file: who truncates it (a proxy may, it is its own) would kill the agent by SIGBUS, and with
it everything. So it asks the kernel for copies (preadv(2)), and nobody promises that a copy takes a word in one piece.
Measured on x86-64 (AMD EPYC, Linux 6.18, ext4 and tmpfs) beside a writer in C that flips all bits of each word as fast
as it can: into a buffer that starts a page, as the file does, 0 torn of 980 million values; into one that is 1 … 16
bytes off, up to 8 in 100, since `rep movsb` then goes byte by byte. `os.pread` returns bytes that are always off.

The reader therefore copies into buffers that start a page, and since no architecture promises that this is enough, it
copies twice and believes what both copies say: of two reads of a word, one after the other, one would have to be torn
for any doubt, and both, into the same number, for a mistake. (That two torn reads never agree is not so, not even for
a counter that only grows: 1011 to 1101 and 1101 to 1110 can both be read as 1111.)
"""


def settled(first: int, second: int) -> bool:
    """Whether two reads agree: then the counter stood at this, provided that one of them was whole."""
    return first == second


def at_least(first: int, second: int) -> int:
    """What a counter has reached for sure, provided that one of two reads was whole: their common upper bytes."""
    differing_bytes = ((first ^ second).bit_length() + 7) // 8
    return first >> 8 * differing_bytes << 8 * differing_bytes
