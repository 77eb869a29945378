from itertools import pairwise
from typing import Any

import pytest

from agent.demo.results import ENOUGH, NEVER, Bucket, Kill, Results, Rotation, histogram
from agent.demo.summary import summary

KILL = Kill(epoch=3, struck=10.0, gone=10.05)


def report(**changes: object) -> dict[str, Any]:
    """Return a report of clients without failures."""
    usual: dict[str, Any] = {"served": 500, "connections": 200, "longest": 0.25, "deepest": 30}
    return {**usual, "serials": {}, "failures": [], **changes}


def failure(opened: float = 9.0, ended: float = 10.01, reason: str = "reset") -> dict[str, Any]:
    return {"opened": opened, "ended": ended, "reason": reason}


def proven() -> Results:
    """Return a score that proves the run."""
    score = Results(rotations=[Rotation("a1", written=1.0)])
    score.take(report(serials={"a1": [1.1, 2.0]}))
    return score


@pytest.mark.parametrize(
    ("failed", "is_cut"),
    [
        (failure(), True),
        (failure(opened=10.04, ended=10.06), True),
        (failure(ended=11.9), True),  # the client was not scheduled
        (failure(opened=10.06, ended=10.07), False),  # started after the exit: it was in the socket store's queue
        (failure(ended=9.99), False),  # before the kill
        (failure(ended=12.06), False),  # long after it
        (failure(reason="refused"), False),  # a process that has accepted a client does not refuse it
        (failure(reason="timed out"), False),
        (failure(reason="answered wrongly"), False),
    ],
)
def test_only_what_was_in_a_killed_process_is_cut(failed: dict[str, Any], is_cut: bool) -> None:
    score = Results(kills=[KILL])
    score.take(report(failures=[failed]))
    assert (score.cut, score.failed) == ((1, 0) if is_cut else (0, 1))


def test_what_fails_while_a_process_dies_is_cut_before_its_end_is_known() -> None:
    score = Results(kills=[Kill(epoch=3, struck=10.0)])
    score.take(report(failures=[failure(opened=9.9, ended=10.2)]))
    assert (score.cut, score.failed) == (1, 0)


def test_failures_add_up_over_reports_and_the_rest_is_the_newest() -> None:
    score = Results()
    score.take(report(failures=[failure(), failure(reason="refused")]))
    score.take(report(served=700, failures=[failure(reason="refused")]))
    assert score.served == 700
    assert score.failed == 3
    assert score.reasons == {"refused": 2, "reset": 1}


def test_a_rotation_took_from_the_write_to_the_first_handshake() -> None:
    score = Results(rotations=[Rotation("a1", 1.0), Rotation("b2", 2.0)])
    assert score.take(report(serials={"0f": [0.5, 0.9]})) == []
    assert [each.serial for each in score.take(report(serials={"a1": [1.25, 1.5]}))] == ["a1"]
    assert score.take(report(serials={"a1": [1.6, 1.9]})) == [], "it is new only once"
    assert score.spans == [0.25]
    assert score.last_serial == "a1"
    assert score.overtaken == 1


def test_a_rotation_that_was_hindered_is_not_measured() -> None:
    score = Results(rotations=[Rotation("a1", 1.0, hindered=True)])
    score.take(report(serials={"a1": [2.0, 2.1]}))
    assert score.spans == []
    assert score.overtaken == 0


def test_the_serial_served_last_is_the_one_seen_last() -> None:
    score = Results()
    score.take(report(serials={"new": [1.0, 3.0], "old": [0.5, 2.0]}))
    score.take(report(serials={"straggler": [2.5, 2.5]}))
    assert score.last_serial == "new"


def test_a_good_demonstration_says_so() -> None:
    lines, good = summary(proven())
    assert good
    assert lines[0] == "500 requests on 200 connections, failed: 0"
    assert lines[1] == "1 rotation: 100 ms from write to first handshake (median; longest 100 ms)"
    assert lines[-1] == "longest wait 250 ms, deepest accept queue 30 clients"


def test_a_failed_request_is_the_end_of_it() -> None:
    score = proven()
    score.take(report(failures=[failure(reason="refused")]))
    lines, good = summary(score)
    assert not good
    assert lines[:2] == ["500 requests on 200 connections, failed: 1", "1 refused"]


def test_connections_cut_by_a_kill_are_reported_and_no_failure() -> None:
    score = proven()
    score.kills.append(KILL)
    score.take(report(failures=[failure()]))
    lines, good = summary(score)
    assert good
    assert "1 cut with the proxy that was killed, no client refused" in lines


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"served": ENOUGH - 1}, "only 99 requests"),
        ({"deepest": 0}, "no client ever waited in the accept queue"),
    ],
)
def test_too_little_load_proves_nothing(changes: dict[str, Any], why: str) -> None:
    score = proven()
    score.take(report(**changes))
    lines, good = summary(score)
    assert not good
    assert lines[-1].startswith(f"this proves nothing: {why}")


def test_an_unknown_accept_queue_is_no_failure() -> None:
    score = proven()
    score.take(report(deepest=None))
    assert summary(score)[1]


def test_no_rotation_proves_nothing() -> None:
    score = Results(rotations=[Rotation("a1", 1.0)])
    score.take(report())
    lines, good = summary(score)
    assert not good
    assert "1 rotation, none of them seen by a client" in lines
    assert lines[-1] == "this proves nothing: no new certificate was seen by a client"


def test_the_histogram_shows_what_there_is() -> None:
    buckets = histogram([0.06, 0.07, 0.15], rows=4)
    assert buckets == [Bucket(0.0, 0.05, 0), Bucket(0.05, 0.1, 2), Bucket(0.1, 0.2, 1), Bucket(0.2, NEVER, 0)]


def test_the_histogram_moves_to_where_the_values_are() -> None:
    buckets = histogram([0.3, 0.6, 0.7], rows=4)
    assert [(bucket.low, bucket.high, bucket.count) for bucket in buckets] == [
        (0.0, 0.2, 0),
        (0.2, 0.5, 1),
        (0.5, 1.0, 2),
        (1.0, NEVER, 0),
    ]


@pytest.mark.parametrize("rows", [2, 3, 4, 7])
def test_the_histogram_loses_no_value(rows: int) -> None:
    values = [0.001, 0.05, 0.1, 0.3, 0.9, 1.0, 2.0, 60.0]
    buckets = histogram(values, rows)
    assert len(buckets) == rows
    assert sum(bucket.count for bucket in buckets) == len(values)
    assert (buckets[0].low, buckets[-1].high) == (0.0, NEVER)
    assert all(one.high == other.low for one, other in pairwise(buckets))


def test_the_histogram_of_nothing_is_empty() -> None:
    assert [bucket.count for bucket in histogram([], rows=4)] == [0, 0, 0, 0]
