import pytest

from agent.stats.snapshot import Snapshot


def test_a_snapshot_is_empty_unless_it_is_filled() -> None:
    assert Snapshot() == Snapshot({}, {}, 0)


def test_two_snapshots_share_nothing() -> None:
    Snapshot().counters["a"] = 1
    assert Snapshot().counters == {}


@pytest.mark.parametrize("other", [Snapshot({"a": 2}), Snapshot({}, {"a": 1}), Snapshot({"a": 1}, dropped=1)])
def test_snapshots_differ_in_each_of_their_parts(other: Snapshot) -> None:
    assert Snapshot({"a": 1}) != other
