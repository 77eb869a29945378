import errno
import mmap
import os
from pathlib import Path

import pytest

from agent.stats.errors import Unwritable
from agent.stats.layout import LARGEST_WORD, LONGEST_NAME, SegmentLayout
from agent.stats.segment_file import reserve
from agent.stats.writer import Writer
from tests.stats.segments import SMALL, reading, written


def create(path: Path, room: SegmentLayout = SMALL) -> Writer:
    return Writer.create(path, epoch=1, pid=2, started_at=3, nonce=bytes(16), room=room)


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with written(tmp_path / "stats") as writer, reading(tmp_path / "stats") as segment:
        with pytest.raises(Unwritable, match="another writer uses it"):
            create(tmp_path / "stats")
        writer.counter("a").add()
        assert segment.read().counters == {"a": 1}
    with pytest.raises(Unwritable, match="another writer used it"):
        create(tmp_path / "stats")


def test_what_is_no_file_is_no_place_for_statistics(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "nothing"):
        with pytest.raises(Unwritable):
            create(path)


def test_a_full_disk_is_an_error_at_the_start_and_not_a_signal_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reserve(tmp_path / "stats")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unwritable, match="no space left"):
        create(tmp_path / "stats")


def test_the_blocks_of_a_segment_are_there_from_the_start(tmp_path: Path) -> None:
    with written(tmp_path / "stats", room=SegmentLayout()):
        status = (tmp_path / "stats").stat()
        assert status.st_blocks * 512 >= status.st_size == SegmentLayout().size


def test_a_name_is_registered_once() -> None:
    writer = Writer.private()
    assert writer.counter("a") is writer.counter("a")
    assert writer.gauge("a") is writer.gauge("a")
    writer.counter("a").add(2)
    writer.gauge("a").set(5)
    assert (writer.read().counters, writer.read().gauges) == ({"a": 2}, {"a": 5})


def test_a_counter_wraps_and_does_not_go_down() -> None:
    counter = Writer.private().counter("a")
    counter.add(LARGEST_WORD)
    counter.add(3)
    assert counter.value == 2
    counter.add(0)
    with pytest.raises(ValueError, match="cannot go down"):
        counter.add(-1)
    assert counter.value == 2


def test_a_gauge_stops_at_both_ends() -> None:
    gauge = Writer.private().gauge("a")
    gauge.add(2)
    gauge.sub(3)
    assert gauge.value == 0
    gauge.set(LARGEST_WORD + 5)
    gauge.add()
    assert gauge.value == LARGEST_WORD
    gauge.set(-1)
    assert gauge.value == 0


def test_names_beyond_the_table_are_dropped_and_counted() -> None:
    writer = Writer.private(SegmentLayout(2, 64))
    writer.counter("a").add()
    writer.gauge("b").add()
    lost = writer.counter("c")
    lost.add(5)
    writer.gauge("d").set(1)
    writer.counter("a").add()
    assert lost.value == 5
    assert writer.read().counters == {"a": 2}
    assert writer.read().dropped == 2


def test_names_beyond_the_string_table_are_dropped_and_shorter_ones_still_fit() -> None:
    writer = Writer.private(SegmentLayout(8, 8))
    writer.counter("abcdef").add()
    writer.counter("ghi").add()
    writer.counter("gh").add()
    assert writer.read().counters == {"abcdef": 1, "gh": 1}
    assert writer.read().dropped == 1


@pytest.mark.parametrize("name", ["", "a\nb", "\0", "\x7f", "\ud800", "x" * (LONGEST_NAME + 1), "ü" * 512])
def test_what_is_no_name_is_dropped_and_never_stops_a_proxy(name: str) -> None:
    writer = Writer.private()
    writer.counter(name).add()
    assert writer.read().counters == {}
    assert writer.read().dropped == 1


def test_a_file_that_cannot_be_mapped_is_an_error_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    reserve(tmp_path / "stats")
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", fails)
        with pytest.raises(Unwritable, match=f"cannot map {tmp_path}/stats: Cannot allocate memory"):
            create(tmp_path / "stats")


def test_a_name_that_fills_the_string_table_to_its_end_fits() -> None:
    writer = Writer.private(SegmentLayout(2, 8))
    writer.counter("abcd").add()
    writer.gauge("efgh").set(7)
    assert (writer.read().counters, writer.read().gauges, writer.read().dropped) == ({"abcd": 1}, {"efgh": 7}, 0)


def test_each_call_for_a_dropped_name_counts_and_has_a_value_of_its_own() -> None:
    writer = Writer.private(SegmentLayout(1, 8))
    writer.counter("a")
    first, second = writer.counter("b"), writer.counter("b")
    first.add(3)
    assert (first.value, second.value, writer.read().dropped) == (3, 0, 2)
    gauge = writer.gauge("b")
    gauge.set(9)
    assert (gauge.value, writer.read().gauges, writer.read().dropped) == (9, {}, 3)


def test_a_counter_takes_a_step_of_more_than_a_word() -> None:
    counter = Writer.private().counter("a")
    counter.add(5)
    counter.add(2**64)
    assert counter.value == 5
    counter.add()
    assert counter.value == 6


def test_a_gauge_goes_up_and_down_by_one_unless_told_otherwise() -> None:
    gauge = Writer.private().gauge("a")
    gauge.add()
    gauge.add(5)
    gauge.sub()
    gauge.sub(2)
    assert gauge.value == 3
    gauge.sub(-4)
    gauge.add(-1)
    assert gauge.value == 6


def test_the_file_tells_who_writes(tmp_path: Path) -> None:
    with written(tmp_path / "stats", 7), reading(tmp_path / "stats") as segment:
        assert (segment.header.epoch, segment.header.pid) == (7, os.getpid())


def test_a_closed_writer_counts_no_more() -> None:
    writer = Writer.private()
    counter = writer.counter("a")
    writer.close()
    with pytest.raises(ValueError, match="released"):
        counter.add()


@pytest.mark.parametrize(("slots", "strings"), [(0, 8), (2**16 + 1, 8), (1, 7), (1, -8), (1, 2**24 + 8)])
def test_the_layout_has_limits(slots: int, strings: int) -> None:
    with pytest.raises(ValueError, match="are n"):
        SegmentLayout(slots, strings)
