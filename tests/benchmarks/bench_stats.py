"""The cost of statistics in shared memory: `python -m tests.benchmarks.bench_stats`.

Prints, from one run: an add beside the increment of a dictionary's value, a read of 10,000 counters beside a copy of a
dictionary of the same size, and the number of torn words in a reader's copies, each beside a busy writer.
"""

import mmap
import os
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from agent.stats.layout import MAGIC, VALUES_WORD, WORD, SegmentLayout
from agent.stats.reader import Segment
from agent.stats.segment_file import reserve
from agent.stats.totals import Totals
from agent.stats.writer import Writer
from tests.stats.programs import HALVES, running

COUNTERS = 10_000
READS = 3_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def seconds(call: Callable[[], object], times: int) -> float:
    """Return the duration of a call, in seconds: the best of nine rounds."""
    return min(timeit.repeat(call, number=times, repeat=9)) / times


def looped(statement: str, **names: object) -> float:
    """Return the duration of a statement, in seconds, without the call around it."""
    return min(timeit.repeat(statement, globals=names, number=200_000, repeat=9)) / 200_000


def adds() -> None:
    """Measure the hot path of a writer."""
    writer = Writer.private()
    counter, gauge = writer.counter("a"), writer.gauge("b")
    plain = looped("counts['a'] += 1", counts={"a": 0})
    for what, taken in (
        ("dict[name] += 1", plain),
        ("Counter.add()", looped("add()", add=counter.add)),
        ("Gauge.add()", looped("add()", add=gauge.add)),
        ("Gauge.set(7)", looped("put(7)", put=gauge.set)),
    ):
        tell(what, f"{taken * 1e9:.0f} ns", taken / plain)


def reads(place: Path) -> None:
    """Measure reads of 10,000 counters."""
    room = SegmentLayout(16_384, 16_384 * 64)
    reserve(place / "many")
    writer = Writer.create(place / "many", epoch=1, pid=1, started_at=0, nonce=bytes(16), room=room)
    counters = [writer.counter(f"cluster.outbound_{number}.upstream_rq_total") for number in range(COUNTERS)]
    segment = Segment.open(place / "many")
    first = timeit.timeit(segment.read, number=1)
    counts = dict.fromkeys((f"cluster.outbound_{number}.upstream_rq_total" for number in range(COUNTERS)), 1)
    plain = seconds(lambda: {name: value + 0 for name, value in counts.items()}, 20)
    totals = Totals()
    totals.attach(1, segment)

    def all_changed() -> None:
        for counter in counters:
            counter.add()

    def changed_and_read() -> None:
        all_changed()
        totals.read()

    changing = seconds(all_changed, 5)
    rows = [
        ("copy of a dict, 10,000 names", plain),
        ("first read, all names new", first),
        ("Segment.read()", seconds(segment.read, 20)),
        ("Totals.read(), nothing changed", seconds(totals.read, 20)),
        ("Totals.read(), all changed", seconds(changed_and_read, 5) - changing),
    ]
    for what, taken in rows:
        tell(what, f"{taken * 1e6:.0f} µs", taken / plain)
    totals.close()
    writer.close()


def tears(place: Path) -> None:
    """Count words whose halves differ in plain copies by the kernel, by the alignment of the buffer."""
    reserve(place / "halves")
    with running("halves", place / "halves"):
        descriptor = os.open(place / "halves", os.O_RDONLY)
        size = (VALUES_WORD + HALVES) * WORD
        pages = memoryview(mmap.mmap(-1, size + PAGE))
        for shift in (0, 1, 8, 16):
            torn = sum(torn_words(descriptor, pages[shift : shift + size]) for _ in range(READS))
            tell(f"torn of {READS * HALVES:,} words, buffer {shift} off", str(torn), None)
        os.close(descriptor)


def torn_words(descriptor: int, buffer: memoryview) -> int:
    """Copy all values once into the buffer; return the number of torn words."""
    os.preadv(descriptor, [buffer], 0)
    words = memoryview(bytes(buffer)).cast("Q")
    assert words[0] == MAGIC
    return sum(word >> 32 != word & 0xFFFFFFFF for word in words[VALUES_WORD:])


def tell(what: str, taken: str, ratio: float | None) -> None:
    """Print a row of the table."""
    sys.stdout.write(f"| {what:44} | {taken:>10} | {'' if ratio is None else f'{ratio:.2f}':>6} |\n")


def main() -> None:
    """Run all measurements."""
    sys.stdout.write(f"| {'':44} | {'':>10} | {'ratio':>6} |\n|{'-' * 46}|{'-' * 12}|{'-' * 8}|\n")
    with tempfile.TemporaryDirectory() as place:
        adds()
        reads(Path(place))
        tears(Path(place))


if __name__ == "__main__":
    main()
