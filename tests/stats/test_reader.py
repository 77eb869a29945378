import os
import resource
from pathlib import Path

import pytest

from agent.stats import layout
from agent.stats.errors import InvalidSegment, Unpublished
from agent.stats.layout import PUBLISHED_WORD, VALUES_WORD, WORD, SegmentLayout
from agent.stats.reader import Segment, _Copy
from agent.stats.segment_file import reserve
from tests.stats.programs import HALVES, running
from tests.stats.segments import SMALL, STARTED, nonce_of, reading, written


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_what_another_process_has_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    reserve(path)
    with running("done", path, 7) as process:
        process.wait()
        with reading(path) as segment:
            assert (segment.header.epoch, segment.header.pid) == (7, process.pid)
            snapshot = segment.read()
    assert (snapshot.counters, snapshot.gauges, snapshot.dropped) == ({"requests": 7}, {"connections": 3}, 0)


def test_names_and_values_that_come_later_are_read(tmp_path: Path) -> None:
    with written(tmp_path / "stats") as writer, reading(tmp_path / "stats") as segment:
        assert segment.read().counters == {}
        writer.counter("a").add()
        assert segment.read().counters == {"a": 1}
        writer.gauge("grüße").set(4)
        writer.counter("b").add(2**64 - 1)
        writer.counter("a").add()
        assert segment.read().counters == {"a": 2, "b": 2**64 - 1}
        assert segment.read().gauges == {"grüße": 4}
        header = segment.header
    assert (header.epoch, header.started_at, header.nonce, header.room) == (1, STARTED, nonce_of(1), SMALL)


def test_dropped_names_are_counted(tmp_path: Path) -> None:
    with written(tmp_path / "stats", room=SegmentLayout(1, 8)) as writer, reading(tmp_path / "stats") as segment:
        writer.counter("a")
        writer.counter("b")
        assert segment.read().dropped == 1


def test_no_value_is_torn_while_it_is_written(tmp_path: Path) -> None:
    reserve(tmp_path / "stats")
    seen: set[int] = set()
    reads = 0
    with running("halves", tmp_path / "stats"), reading(tmp_path / "stats") as segment:
        while reads < 100 or len(seen) < 200:
            reads += 1
            values = segment.read().counters.values()
            assert len(values) == HALVES
            assert [hex(value) for value in values if value >> 32 != value & 0xFFFFFFFF] == []
            seen.update(values)


def test_a_counter_that_never_pauses_never_goes_down(tmp_path: Path) -> None:
    reserve(tmp_path / "stats")
    with running("pairs", tmp_path / "stats"), reading(tmp_path / "stats") as segment:
        before, reads = segment.read().counters, 0
        while reads < 2000 or before["first"] <= 2000:
            reads += 1
            after = segment.read().counters
            assert all(after[name] >= value for name, value in before.items())
            before = after


def test_nothing_is_published_before_the_magic(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    reserve(path)
    with pytest.raises(Unpublished):
        Segment.open(path)
    os.truncate(path, SMALL.size)
    with pytest.raises(Unpublished):
        Segment.open(path)


@pytest.mark.parametrize(
    ("offset", "content", "reason"),
    [
        (0, b"tatstnga", "magic"),
        (8, b"\2", "layout version"),
        (16, b"\0" * 8, "ABI hash"),
        (32, b"\x99", "CRC"),
        (120, b"\1", "CRC"),
        (72, b"\xff" * 8, "slots are not between"),
        (80, b"\xff" * 8, "bytes of names"),
        (24, b"\xff" * 8, "its layout needs"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, offset: int, content: bytes, reason: str) -> None:
    path = tmp_path / "stats"
    with written(path), reading(path) as segment:
        overwrite(path, offset, content)
        with pytest.raises(InvalidSegment, match="header has changed"):
            segment.read()
    with pytest.raises(InvalidSegment, match=reason) as refusal:
        Segment.open(path)
    assert not isinstance(refusal.value, Unpublished)
    assert reason in refusal.value.reason


def test_another_layout_has_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = layout.abi_hash()
    monkeypatch.setattr(layout, "VALUES_WORD", VALUES_WORD + 1)
    assert layout.abi_hash() != ours


def test_links_modes_and_other_things_are_refused(tmp_path: Path) -> None:
    path, link, fifo = tmp_path / "stats", tmp_path / "link", tmp_path / "fifo"
    with written(path):
        link.symlink_to(path)
        os.mkfifo(fifo, 0o600)
        for other in (link, fifo, tmp_path, tmp_path / "nothing", Path("a\0b")):
            with pytest.raises(InvalidSegment):
                Segment.open(other)
        path.chmod(0o640)
        with pytest.raises(InvalidSegment, match="mode 0640, not 0600"):
            Segment.open(path)


@pytest.mark.parametrize("size", [0, 64, 127, 136, VALUES_WORD * WORD, VALUES_WORD * WORD + 12])
def test_a_file_truncated_during_a_read_is_refused_without_a_crash(tmp_path: Path, size: int) -> None:
    path = tmp_path / "stats"
    with written(path) as writer, reading(path) as segment:
        writer.counter("a").add()
        writer.gauge("b").add()
        whole = path.read_bytes()
        segment.read()
        os.truncate(path, size)
        with pytest.raises(InvalidSegment, match=r"shorter|changed"):
            segment.read()
        with pytest.raises(InvalidSegment):
            Segment.open(path)
        os.truncate(path, len(whole))
        if size <= PUBLISHED_WORD * WORD:
            with pytest.raises(InvalidSegment, match=r"header has changed|0 names after 2"):
                segment.read()
        overwrite(path, 0, whole)
        assert segment.read().counters == {"a": 1}


@pytest.mark.parametrize("offset", [PUBLISHED_WORD * WORD, SMALL.index + WORD + 7, SMALL.index + WORD, SMALL.names + 1])
def test_names_that_make_no_sense_are_refused_until_they_do(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "stats"
    with written(path) as writer, reading(path) as segment:
        writer.counter("a").add()
        writer.counter("b").add()
        right = path.read_bytes()[offset : offset + 1]
        overwrite(path, offset, b"\x99")
        with pytest.raises(InvalidSegment):
            segment.read()
        overwrite(path, offset, right)
        assert segment.read().counters == {"a": 1, "b": 1}
        overwrite(path, PUBLISHED_WORD * WORD, b"\1")
        with pytest.raises(InvalidSegment, match="1 names after 2"):
            segment.read()


def test_an_invalid_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    with written(path) as writer, reading(path) as segment:
        writer.counter("a")
        check = layout.check_of(b"\n").to_bytes(2, "little")
        overwrite(path, SMALL.index + 5, check)
        overwrite(path, SMALL.names, b"\n")
        with pytest.raises(InvalidSegment, match="an invalid name"):
            segment.read()


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    with written(path) as writer, reading(path) as segment:
        writer.counter("a")
        image = path.read_bytes()
        entry = int.from_bytes(image[SMALL.index : SMALL.index + WORD], "little") + 1
        overwrite(path, SMALL.index + WORD, entry.to_bytes(WORD, "little"))
        overwrite(path, SMALL.names + 1, b"a")
        overwrite(path, PUBLISHED_WORD * WORD, b"\2")
        with pytest.raises(InvalidSegment, match="a twice"):
            segment.read()


def test_an_error_of_the_disk_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with written(tmp_path / "stats"), reading(tmp_path / "stats") as segment:
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", broken)
            with pytest.raises(InvalidSegment, match="input/output error"):
                segment.read()
            with pytest.raises(InvalidSegment):
                Segment.open(tmp_path / "stats")
        segment.read()


class Hasty:
    """A copy of a segment in which a counter is another one at each read."""

    def __init__(self, copy: _Copy, values: list[int]) -> None:
        self.copy, self.values = copy, values

    def __getattr__(self, name: str) -> object:
        return getattr(self.copy, name)

    def take(self, start: int, size: int) -> int:
        taken = self.copy.take(start, size)
        self.copy.words[VALUES_WORD] = self.values.pop(0)
        return taken


@pytest.mark.parametrize(
    ("values", "read", "looks"),
    [
        ([5, 7, 7], 7, 3),
        ([5, 7, 9, 9], 9, 4),
        ([0x100, *range(0x101, 0x10A)], 0x100, 10),
        ([0x1FF, *range(0x200, 0x209)], 0x200, 10),
    ],
    ids=["the third read agrees", "the fourth", "never, within a byte", "never, after a carry"],
)
def test_a_counter_is_read_until_two_reads_agree_or_else_is_a_lower_bound(
    values: list[int], read: int, looks: int, tmp_path: Path
) -> None:
    with written(tmp_path / "stats") as writer, reading(tmp_path / "stats") as segment:
        writer.counter("a")
        segment.read()
        left = [*values, *[0] * 9]
        copies = segment._copies
        segment._copies = [Hasty(copy, left) for copy in copies]  # type: ignore[misc]
        assert segment.read().counters == {"a": read}
        assert len(values) + 9 - len(left) == looks
        segment._copies = copies


def test_a_file_that_is_cut_off_between_two_looks_at_a_counter_is_refused(tmp_path: Path) -> None:
    class Cutting(Hasty):
        def take(self, start: int, size: int) -> int:
            if len(self.values) == 1:
                return 0
            return super().take(start, size)

    with written(tmp_path / "stats") as writer, reading(tmp_path / "stats") as segment:
        writer.counter("a")
        segment.read()
        values = [5, 7, 9]
        copies = segment._copies
        segment._copies = [Cutting(copy, values) for copy in copies]  # type: ignore[misc]
        with pytest.raises(InvalidSegment, match="shorter"):
            segment.read()
        segment._copies = copies


def test_a_huge_file_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    with written(path):
        os.truncate(path, 2**33)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(InvalidSegment, match="8589934592 bytes"):
            Segment.open(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_a_segment_is_closed_twice(tmp_path: Path) -> None:
    with written(tmp_path / "stats"), reading(tmp_path / "stats") as segment:
        segment.close()
