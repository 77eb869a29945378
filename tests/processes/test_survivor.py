"""A process is an earlier agent's epoch only if its pid and its start, or its manifest, say so."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from agent.core.epochs import State
from agent.handoff.socket_store import ListenAddress
from agent.host.carried import Carried
from agent.host.memfds import Memfds
from agent.host.processes import created_at
from agent.processes.survivor import Pushed, Survivor, described, find_survivor, pid_of

OURS = os.getpid()
GHOST = (1 << 22) + 1  # beyond the largest pid
MANIFEST = {"descriptor": 9, "mount": 12, "inode": 4711}


def entry(**changes: object) -> dict[str, Any]:
    """The state entry of an epoch whose process is this one."""
    return {
        "number": 3,
        "state": "serving",
        "stage": "serving",
        "pid": OURS,
        "created": created_at(OURS),
        "nonce": "abc",
        "base_id": 77,
        "manifest": MANIFEST,
        "places": [["tcp://127.0.0.1:1", "", 0], ["unix:///x", "/run/netns/a", 2]],
    } | changes


def test_an_epoch_that_runs_is_found_with_all_that_is_known_of_it() -> None:
    created = created_at(OURS)
    assert created is not None
    places = frozenset({ListenAddress("tcp://127.0.0.1:1"), ListenAddress("unix:///x", "/run/netns/a", 2)})
    assert find_survivor(entry()) == Survivor(3, State.SERVING, OURS, created, "abc", 77, Carried(9, 12, 4711), places)


def test_what_was_pushed_into_it_is_known() -> None:
    record = Pushed("d", "01", "c", is_torn=True)
    for pushed, expected in ((asdict(record), record), (None, None)):
        found = find_survivor(entry(pushed=pushed))
        assert isinstance(found, Survivor)
        assert found.pushed == expected


@pytest.mark.parametrize("pushed", [7, "x", [], {"digest": "d"}, {**asdict(Pushed("d", "0", "c")), "more": 1}])
def test_a_record_of_pushes_that_makes_no_sense_leaves_only_a_pid(pushed: object) -> None:
    assert find_survivor(entry(pushed=pushed)) == OURS


@pytest.mark.parametrize("stage", ["opening", "serving", "draining"])
def test_an_epoch_that_may_have_clients_is_adopted(stage: str) -> None:
    found = find_survivor(entry(stage=stage))
    assert isinstance(found, Survivor)
    assert found.state == stage


@pytest.mark.parametrize("stage", ["starting", "waiting", "leaving", "gone", "candidate", "", None, 3])
def test_an_epoch_without_clients_or_in_no_known_state_is_only_a_pid(stage: object) -> None:
    assert find_survivor(entry(stage=stage)) == OURS


@pytest.mark.parametrize(
    "changes",
    [
        {"number": "x"},
        {"number": None},
        {"base_id": "x"},
        {"manifest": None},
        {"manifest": []},
        {"manifest": {"descriptor": 9}},
        {"manifest": MANIFEST | {"more": 1}},
        {"places": None},
        {"places": [["a", "b", 0, "more"]]},
        {"places": [7]},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_read_is_only_a_pid(changes: dict[str, object]) -> None:
    assert find_survivor(entry(**changes)) == OURS


@pytest.mark.parametrize("field", ["number", "stage", "nonce", "base_id", "manifest", "places"])
def test_an_entry_that_lacks_a_field_is_only_a_pid(field: str) -> None:
    half = entry()
    del half[field]
    assert find_survivor(half) == OURS


@pytest.mark.parametrize(
    "changes",
    [{"created": 1}, {"created": None}, {"created": "1"}, {"pid": GHOST}, {"pid": GHOST, "created": None}, {"pid": -1}],
    ids=str,
)
def test_a_process_with_another_start_is_none_of_ours(changes: dict[str, object]) -> None:
    assert pid_of(entry(**changes)) is None
    assert find_survivor(entry(**changes)) is None


def test_an_entry_without_a_start_names_no_process() -> None:
    half = entry()
    del half["created"]
    assert pid_of(half) is None


@pytest.fixture
def memfds() -> Iterator[Memfds]:
    made = Memfds()
    yield made
    made.close()


def test_a_process_whose_pid_was_not_noted_is_found_by_its_manifest(memfds: Memfds) -> None:
    descriptor = memfds.hold("manifest", b"{}")
    half = entry(pid=None, created=None, manifest=asdict(Carried.of(descriptor)))
    assert pid_of(half) is None, "the agent holds it, too, and is no epoch"
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=[descriptor]) as process:
        assert pid_of(half) == process.pid
        assert find_survivor(half) == process.pid, "without a start it is not adopted"
        process.kill()


def test_a_file_that_nobody_carries_names_no_process(memfds: Memfds) -> None:
    descriptor = memfds.hold("manifest", b"{}")
    carried = Carried.of(descriptor)
    memfds.close()
    assert pid_of(entry(pid=None, manifest=asdict(carried))) is None


@pytest.mark.parametrize("manifest", [None, 7, "x", [], {}, {"descriptor": 9}, {"a": 1}])
@pytest.mark.parametrize("pid", [None, "x", 1.5])
def test_without_a_pid_and_a_manifest_there_is_no_process(pid: object, manifest: object) -> None:
    assert find_survivor(entry(pid=pid, manifest=manifest)) is None
    assert find_survivor({"pid": pid}) is None


def test_addresses_are_written_in_order_and_read_again() -> None:
    places = [ListenAddress("unix:///x", "/run/netns/a", 2), ListenAddress("tcp://127.0.0.1:1", worker=1)]
    written = described(places)
    assert written == [("tcp://127.0.0.1:1", "", 1), ("unix:///x", "/run/netns/a", 2)]
    found = find_survivor(entry(places=[list(each) for each in written]))
    assert isinstance(found, Survivor)
    assert found.places == set(places)
