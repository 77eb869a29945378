import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.stats.errors import InvalidSegment, Malformed
from agent.stats.layout import LARGEST_WORD, SegmentLayout
from agent.stats.reader import Segment
from agent.stats.segment_file import reserve
from agent.stats.totals import REMEMBERED, Totals
from tests.stats.programs import running
from tests.stats.segments import nonce_of, written


def test_counters_go_on_over_epochs_and_gauges_of_the_dead_vanish(tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "1", 1) as old, written(tmp_path / "2", 2) as new:
        totals.attach(1, Segment.open(tmp_path / "1"))
        totals.attach(2, Segment.open(tmp_path / "2"))
        old.counter("requests").add(5)
        old.gauge("connections").add(3)
        old.gauge("old only").add()
        new.counter("requests").add(2)
        new.gauge("connections").add()
        assert totals.read().counters == {"requests": 7}
        assert totals.read().gauges == {"connections": 4, "old only": 1}
        old.counter("requests").add()  # after the last read, before the exit
        totals.retire(1)
        assert totals.read().counters == {"requests": 8}
        assert totals.read().gauges == {"connections": 1}
        totals.retire(1)
        totals.retire(99)
        assert totals.read().counters == {"requests": 8}
        totals.close()


def test_dropped_names_add_up(tmp_path: Path) -> None:
    totals = Totals()
    for epoch in (1, 2):
        with written(tmp_path / str(epoch), epoch, SegmentLayout(1, 0)) as writer:
            writer.counter("a")
            totals.attach(epoch, Segment.open(tmp_path / str(epoch)))
            totals.read()
            totals.retire(epoch)
    assert totals.read().dropped == 2


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "1") as writer:
        totals.attach(1, Segment.open(tmp_path / "1"))
        for _ in range(5):
            writer.counter("a").add(2**62)
            totals.read()
        assert writer.counter("a").value == 2**62
        assert totals.read().counters == {"a": 5 * 2**62}
        totals.close()


def test_a_counter_that_its_writer_takes_back_waits_until_it_is_past(tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "1") as writer:
        totals.attach(1, Segment.open(tmp_path / "1"))
        writer.counter("a").add(10)
        assert totals.read().counters == {"a": 10}
        writer.counter("a").add(LARGEST_WORD - 3)
        assert writer.counter("a").value == 6
        assert totals.read().counters == {"a": 10}
        writer.counter("a").add(6)
        assert totals.read().counters == {"a": 12}
        totals.close()


def test_what_was_last_seen_holds_while_a_segment_is_refused(tmp_path: Path) -> None:
    totals = Totals()
    path = tmp_path / "1"
    with written(path) as writer:
        totals.attach(1, Segment.open(path))
        writer.counter("a").add(4)
        writer.gauge("b").add(4)
        before = totals.read()
        whole = path.read_bytes()
        os.truncate(path, 10)
        assert totals.read() == before
        path.write_bytes(whole)
        assert totals.read() == before
        os.truncate(path, 0)
        totals.retire(1)
        assert (totals.read().counters, totals.read().gauges) == ({"a": 4}, {})
        path.write_bytes(whole)


def test_a_segment_of_another_epoch_is_refused_and_stays_with_its_owner(tmp_path: Path) -> None:
    with written(tmp_path / "1", 1):
        segment = Segment.open(tmp_path / "1")
        with pytest.raises(InvalidSegment, match="of epoch 1, not 2"):
            Totals().attach(2, segment)
        segment.read()
        segment.close()


def test_an_agent_that_comes_back_goes_on(tmp_path: Path) -> None:
    first = Totals()
    with written(tmp_path / "1", 1) as gone, written(tmp_path / "2", 2) as live, written(tmp_path / "3", 3) as lost:
        for epoch, writer in ((1, gone), (2, live), (3, lost)):
            writer.counter("a").add(10**epoch)
            writer.gauge("b").add()
            first.attach(epoch, Segment.open(tmp_path / str(epoch)))
        first.retire(1)
        first.read()
        state = json.loads(json.dumps(first.to_state()))
        first.close()
        live.counter("a").add(5)
        second = Totals.from_state(state)
        assert second.read().counters == {"a": 1110}
        assert second.read().gauges == {}
        second.attach(2, Segment.open(tmp_path / "2"))
        assert second.read().counters == {"a": 1115}
        assert second.read().gauges == {"b": 1}
        second.retire(3)
        assert second.read().counters == {"a": 1115}
        second.attach(1, Segment.open(tmp_path / "1"))  # its directory still existed
        assert second.read().counters == {"a": 1115}
        assert second.to_state()["epochs"].keys() == {"2"}
        second.close()


def test_an_epoch_that_restarts_its_counters_adds_to_its_earlier_ones(tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "a", 1) as one, written(tmp_path / "b", 1, nonce=nonce_of(9)) as other:
        one.counter("a").add(3)
        other.counter("a").add(1)
        totals.attach(1, Segment.open(tmp_path / "a"))
        totals.attach(1, Segment.open(tmp_path / "a"))
        totals.attach(1, Segment.open(tmp_path / "b"))
        assert totals.read().counters == {"a": 4}
        totals.close()


def test_an_epoch_that_was_retired_is_closed_and_not_counted_again(tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "1") as writer:
        writer.counter("a").add(3)
        totals.attach(1, Segment.open(tmp_path / "1"))
        totals.retire(1)
        again = Segment.open(tmp_path / "1")
        totals.attach(1, again)
        writer.counter("a").add(3)
        assert totals.read().counters == {"a": 3}
        assert totals.gauges(1) == {}


def test_the_gauges_of_one_epoch_are_those_of_the_last_read(tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "1", 1) as one, written(tmp_path / "2", 2) as two:
        for epoch, writer in ((1, one), (2, two)):
            writer.gauge("g").set(epoch)
            totals.attach(epoch, Segment.open(tmp_path / str(epoch)))
        assert totals.gauges(1) == {}
        totals.read()
        one.gauge("g").set(9)
        assert (totals.gauges(1), totals.gauges(2), totals.gauges(3)) == ({"g": 1}, {"g": 2}, {})
        totals.close()


def test_the_same_segment_may_be_attached_again(tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "1") as writer:
        segment = Segment.open(tmp_path / "1")
        totals.attach(1, segment)
        totals.attach(1, segment)
        writer.counter("a").add()
        assert totals.read().counters == {"a": 1}
        totals.close()


def test_a_counter_of_zero_is_shown_and_saved(tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "1") as writer:
        writer.counter("a")
        totals.attach(1, Segment.open(tmp_path / "1"))
        assert totals.read().counters == {"a": 0}
        totals.retire(1)
    assert totals.to_state()["gone"] == {"counters": {"a": 0}, "dropped": 0}


@pytest.mark.parametrize(("step", "counts"), [(2**63 - 1, 10 + 2**63 - 1), (2**63, 10)])
def test_a_step_of_half_a_word_or_more_is_a_decrease(step: int, counts: int, tmp_path: Path) -> None:
    totals = Totals()
    with written(tmp_path / "1") as writer:
        totals.attach(1, Segment.open(tmp_path / "1"))
        writer.counter("a").add(10)
        totals.read()
        writer.counter("a").add(step)
        assert totals.read().counters == {"a": counts}
        totals.close()


def test_what_is_remembered_of_the_dead_is_bounded(tmp_path: Path) -> None:
    totals = Totals()
    for epoch in range(1, REMEMBERED + 10):
        with written(tmp_path / str(epoch), epoch) as writer:
            writer.counter("a").add()
            totals.attach(epoch, Segment.open(tmp_path / str(epoch)))
            totals.retire(epoch)
    assert len(totals.to_state()["retired"]) == REMEMBERED
    assert totals.read().counters == {"a": REMEMBERED + 9}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["gone", "epochs", "retired", "counters", "dropped", "nonce", "1"]), inner, max_size=4
        )
    ),
)


@given(st.dictionaries(st.sampled_from(["gone", "epochs", "retired", "1"]), JSON))
def test_any_state_is_restored_or_refused(state: dict[str, object]) -> None:
    try:
        totals = Totals.from_state(state)
    except Malformed:
        return
    totals.read()
    assert Totals.from_state(totals.to_state()).to_state() == totals.to_state()


@pytest.mark.parametrize("value", [-1, 1.5, True, "7", None])
def test_what_is_no_count_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match="cannot restore totals"):
        Totals.from_state({"gone": {"counters": {"a": value}, "dropped": 0}, "epochs": {}, "retired": []})


def test_totals_never_go_down_over_writers_killed_in_the_middle(tmp_path: Path) -> None:
    totals = Totals()
    before = totals.read()
    for epoch in range(1, 16):
        path = tmp_path / str(epoch)
        reserve(path)
        with running("pairs", path, epoch) as process:
            totals.attach(epoch, Segment.open(path))
            reads, counted = 0, before.counters.get("first", 0)
            while reads < 10 or before.counters["first"] <= counted + 1:
                reads += 1
                after = totals.read()
                assert all(after.counters[name] >= value for name, value in before.counters.items())
                before = after
            process.kill()
            process.wait()
        last = totals.read()
        totals.retire(epoch)
        after = totals.read()
        assert after.counters == last.counters
        assert after.gauges == {}
        assert 0 <= after.counters["first"] - after.counters["second"] <= epoch
        before = after
        path.unlink()
