"""The counters of epochs in shared memory, over exits of epochs and of the agent."""

from pathlib import Path

import pytest

from agent.host.run_directory import RunDirectory
from agent.metrics.shared_counters import SharedCounters, make_room
from agent.stats.layout import ENVIRONMENT
from agent.stats.writer import Writer
from tests.stats.segments import STARTED, nonce_of

REQUESTS = "http.inbound.downstream_rq_total"


def begin(directory: RunDirectory, epoch: int) -> tuple[Path, Writer]:
    """Create an epoch's directory, and a writer that counts in it as the epoch would."""
    home = directory.make_epoch(epoch, None)
    path = Path(make_room(home, None)[ENVIRONMENT])
    return home, Writer.create(path, epoch=epoch, pid=1, started_at=STARTED, nonce=nonce_of(epoch))


def counted(counting: SharedCounters) -> int:
    return counting.read().counters.get(REQUESTS, 0)


def test_totals_go_on_where_an_epoch_stopped(directory: RunDirectory) -> None:
    counting = SharedCounters(directory)
    for epoch, requests in ((1, 5), (2, 3)):
        home, writer = begin(directory, epoch)
        counting.follow(epoch, home)
        writer.counter(REQUESTS).add(requests)
        writer.gauge("server.live").set(1)
        assert counting.read().gauges == {"server.live": 1}
        counting.retire(epoch)
        directory.remove_epoch(epoch)
        writer.close()
    assert counted(counting) == 8
    assert counting.read().gauges == {}


def test_an_agent_that_comes_back_counts_on(directory: RunDirectory) -> None:
    counting = SharedCounters(directory)
    home, writer = begin(directory, 1)
    counting.follow(1, home)
    writer.counter(REQUESTS).add(5)
    counting.retire(1)
    writer.close()
    assert counted(SharedCounters(directory)) == 5


def test_what_an_epoch_counted_after_its_agent_died_counts_once(directory: RunDirectory) -> None:
    killed = SharedCounters(directory)
    home, writer = begin(directory, 1)
    killed.follow(1, home)
    writer.counter(REQUESTS).add(5)
    killed.close()
    writer.close()
    for _ in range(2):
        counting = SharedCounters(directory)
        counting.follow(1, home)
        counting.retire(1)
        assert counted(counting) == 5


def test_an_epoch_that_keeps_its_statistics_to_itself_is_no_warning(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    home = directory.make_epoch(1, None)
    make_room(home, None)
    counting = SharedCounters(directory)
    counting.follow(1, home)
    counting.retire(1)
    assert not caplog.records
    assert not (directory.path / "totals.json").exists()


@pytest.mark.parametrize("content", [b"no segment at all", bytes(4096)])
def test_a_segment_that_makes_no_sense_is_left_out(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    home = directory.make_epoch(1, None)
    path = Path(make_room(home, None)[ENVIRONMENT])
    path.write_bytes(content)
    counting = SharedCounters(directory)
    counting.follow(1, home)
    counting.retire(1)
    assert counting.read().counters == {}
    assert len(caplog.records) == (1 if any(content) else 0)


def test_an_epoch_starts_without_space_for_statistics(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    home = directory.make_epoch(1, None)
    (home / "stats").mkdir()
    assert make_room(home, None) == {}
    assert "this epoch's counters are lost when it exits" in caplog.text


def test_totals_that_were_spoilt_begin_at_nothing(directory: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    directory.remember({"gone": "a lot"}, "totals.json")
    assert counted(SharedCounters(directory)) == 0
    assert "counters start at 0" in caplog.text


def test_a_segment_of_another_epoch_is_left_out(directory: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    home = directory.make_epoch(1, None)
    path = Path(make_room(home, None)[ENVIRONMENT])
    writer = Writer.create(path, epoch=2, pid=1, started_at=STARTED, nonce=nonce_of(2))
    writer.counter(REQUESTS).add(5)
    writer.close()
    counting = SharedCounters(directory)
    counting.follow(1, home)
    counting.retire(1)
    assert counted(counting) == 0
    [record] = caplog.records
    assert vars(record)["event"] == "stats.refused"
    assert str(path) in record.getMessage()


def test_an_epoch_is_followed_once_however_often_that_is_asked(directory: RunDirectory) -> None:
    counting = SharedCounters(directory)
    home, writer = begin(directory, 1)
    for _ in range(3):
        counting.follow(1, home)
    writer.counter(REQUESTS).add(5)
    writer.close()
    assert counted(counting) == 5
    counting.retire(1)
    counting.follow(1, home)
    counting.retire(1)
    assert counted(counting) == 5, "nor after it has retired"


def test_what_cannot_be_saved_is_told_kept_in_memory_and_saved_with_the_next_epoch(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    counting, saved = SharedCounters(directory), directory.path / "totals.json"
    saved.mkdir()
    for epoch in (1, 2):
        home, writer = begin(directory, epoch)
        counting.follow(epoch, home)
        writer.counter(REQUESTS).add(5)
        counting.retire(epoch)
        writer.close()
        assert counted(counting) == 5 * epoch
        if epoch == 1:
            saved.rmdir()
    assert [vars(record)["event"] for record in caplog.records] == ["state.unwritable"]
    assert counted(SharedCounters(directory)) == 10


def test_the_totals_are_saved_only_if_they_changed(directory: RunDirectory) -> None:
    counting, saved = SharedCounters(directory), directory.path / "totals.json"
    home, writer = begin(directory, 1)
    counting.follow(1, home)
    writer.counter(REQUESTS).add(5)
    counting.retire(1)
    writer.close()
    written = saved.stat().st_ino
    counting.retire(1)
    counting.retire(99)
    assert saved.stat().st_ino == written


def test_gauges_of_one_epoch_are_those_of_the_last_read(directory: RunDirectory) -> None:
    counting = SharedCounters(directory)
    for epoch in (1, 2):
        home, writer = begin(directory, epoch)
        counting.follow(epoch, home)
        writer.gauge("server.live").set(epoch)
        writer.close()
    assert counting.read().gauges == {"server.live": 3}
    assert [dict(counting.gauges(epoch)) for epoch in (1, 2, 3)] == [{"server.live": 1}, {"server.live": 2}, {}]
    counting.close()


def test_a_new_epoch_is_told_where_to_count(directory: RunDirectory, tmp_path: Path) -> None:
    home = directory.make_epoch(1, None)
    own = tmp_path.stat()
    assert make_room(home, (own.st_uid, own.st_gid)) == {ENVIRONMENT: str(home / "stats")}
    assert (home / "stats").stat().st_uid == own.st_uid
