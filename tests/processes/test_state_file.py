"""The state that the next agent finds: whole, the newest that could be written, and without what makes no sense."""

import json
import os
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.core.epochs import State
from agent.core.events import EpochAdopted, StopAsked
from agent.core.policy import Policy
from agent.core.reconciler import Reconciler
from agent.core.revision import Revision
from agent.handoff.segment import Segment
from agent.handoff.socket_store import ListenAddress
from agent.host.carried import Carried
from agent.host.processes import boot
from agent.host.run_directory import RunDirectory
from agent.inputs.revisions import LoadedRevision
from agent.processes.epoch_process import EpochProcess
from agent.processes.reserved_segments import ReservedSegments
from agent.processes.state_file import StateFile
from agent.processes.survivor import Pushed


def remembered(directory: RunDirectory, *epochs: object, **more: object) -> StateFile:
    directory.remember({"format": 1, "epochs": list(epochs), **more})
    return StateFile(directory)


def test_numbers_of_epochs_are_never_used_again(directory: RunDirectory) -> None:
    assert StateFile(directory).first_epoch == 1
    assert remembered(directory, next_epoch=7).first_epoch == 7


@pytest.mark.parametrize("number", [0, -3, "7", None, 1.5, [], True])
def test_a_number_that_makes_no_sense_is_the_first(directory: RunDirectory, number: object) -> None:
    assert remembered(directory, next_epoch=number).first_epoch == 1


def test_the_state_is_written_when_it_is_another_one(directory: RunDirectory) -> None:
    state_file, core = StateFile(directory), Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=7)
    state_file.write(core, [], 1_700_000_000)
    path = directory.path / "state.json"
    first = path.stat().st_ino
    state = json.loads(path.read_text())
    assert state["agent"]["pid"] == os.getpid()
    assert state["next_epoch"] == 7
    assert state["ready"] is False
    state_file.write(core, [], 1_700_000_000)
    assert path.stat().st_ino == first


def test_a_full_disk_is_said_once_and_costs_nothing_else(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    (directory.path / "state.json").mkdir()
    state_file = StateFile(directory)
    for number in (1, 2, 3):
        state_file.write(Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=number), [], 0)
    assert len([record for record in caplog.records if "without saved state" in record.getMessage()]) == 1


def test_what_could_not_be_written_is_written_as_soon_as_that_is_possible(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """Even without a further change: the next agent would read the older state."""
    caplog.set_level("INFO")
    path = directory.path / "state.json"
    state_file, core = StateFile(directory), Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=7)
    path.mkdir()
    state_file.write(core, [], 0)
    behind = [state_file.behind]
    path.rmdir()
    state_file.write(core, [], 0)
    assert [*behind, state_file.behind] == [True, False]
    assert json.loads(path.read_text()) == state_file.last
    assert [record.getMessage() for record in caplog.records][-1] == "the state can be written again"


def core(first_epoch: int = 1) -> Reconciler:
    return Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=first_epoch)


def serving(number: int = 3, state: State = State.SERVING) -> Reconciler:
    """A reconciler with one epoch."""
    made = core()
    made.handle(EpochAdopted(at=0.0, epoch=number, revision=Revision("d" * 64, "c"), pid=4711, state=state))
    return made


def process(number: int = 3, target: object = None) -> EpochProcess:
    told = SimpleNamespace(
        number=number,
        nonce="abc",
        segment=Segment(77),
        created=99,
        manifest=Carried(9, 12, 13),
        target=target,
        loaded=SimpleNamespace(revision=Revision("d" * 64, "c")),
        asked={ListenAddress("unix:///x"), ListenAddress("tcp://127.0.0.1:1", "/run/netns/a", 2)},
    )
    return cast(EpochProcess, told)


def written(directory: RunDirectory) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((directory.path / "state.json").read_text())
    return state


def test_an_epoch_is_written_with_all_that_identifies_it(directory: RunDirectory) -> None:
    segments = cast(ReservedSegments, SimpleNamespace(spare=Segment(78), upcoming=79))
    StateFile(directory).write(serving(), [process()], 1_700_000_000, segments)
    state = written(directory)
    assert state["epochs"] == [
        {
            "number": 3,
            "state": "serving",
            "stage": "serving",
            "revision": "d" * 64,
            "pid": 4711,
            "nonce": "abc",
            "base_id": 77,
            "created": 99,
            "manifest": {"descriptor": 9, "mount": 12, "inode": 13},
            "places": [["tcp://127.0.0.1:1", "/run/netns/a", 2], ["unix:///x", "", 0]],
            "pushed": None,
        }
    ]
    assert (state["format"], state["boot"]) == (2, boot())
    assert (state["served_since"], state["spare"], state["next_epoch"]) == (1_700_000_000, 78, 4)
    assert (state["ready"], state["wanted"], state["last_good"]) == (True, "d" * 64, "d" * 64)
    assert (state["refused"], state["last_failure"]) == (None, None)
    assert state["agent"]["pid"] == os.getpid()
    assert datetime.fromisoformat(state["agent"]["started_at"]).tzinfo is not None


def test_an_epoch_without_a_process_is_written_without_one(directory: RunDirectory) -> None:
    StateFile(directory).write(serving(), [process(4)], 0)
    [epoch] = written(directory)["epochs"]
    assert "nonce" not in epoch
    assert epoch["number"] == 3


def test_the_words_of_the_state_are_for_people_and_the_stage_for_the_next_agent(directory: RunDirectory) -> None:
    StateFile(directory).write(serving(state=State.OPENING), [], 0)
    state = written(directory)
    assert (state["epochs"][0]["state"], state["epochs"][0]["stage"]) == ("candidate", "opening")
    assert state["ready"] is False


def test_an_agent_that_stops_is_not_ready(directory: RunDirectory) -> None:
    made = serving()
    made.handle(StopAsked(at=1.0))
    StateFile(directory).write(made, [], 0)
    assert written(directory)["ready"] is False


def test_without_a_revision_none_is_named(directory: RunDirectory) -> None:
    StateFile(directory).write(core(), [], 0)
    state = written(directory)
    assert (state["wanted"], state["last_good"], state["spare"]) == (None, None, None)


def test_what_was_refused_and_what_failed_is_written(directory: RunDirectory) -> None:
    made = core()
    made.desired.refused = cast(Any, SimpleNamespace(reason="bad key"))
    made.last_failure = cast(Any, SimpleNamespace(reason="no memory"))
    StateFile(directory).write(made, [], 0)
    state = written(directory)
    assert (state["refused"], state["last_failure"]) == ("bad key", "no memory")


class Target:
    """What takes pushes; it has a record of them."""

    def __init__(self) -> None:
        self.torn: list[bool] = []

    def pushed(self, loaded: LoadedRevision, *, is_torn: bool) -> Pushed:
        """Note whether it is torn."""
        self.torn.append(is_torn)
        return Pushed(loaded.revision.digest, "01", "c" * 64, is_torn)


@pytest.mark.parametrize(
    ("under_way", "is_torn", "written_torn"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_an_epoch_that_took_pushes_is_written_with_what_it_runs(
    directory: RunDirectory, under_way: bool, is_torn: bool, written_torn: bool
) -> None:
    """During a push, the next agent cannot know what it serves."""
    core, target = serving(), Target()
    core.epochs[3].pushing = Revision("e" * 64, "c") if under_way else None
    core.epochs[3].is_torn = is_torn
    StateFile(directory).write(core, [process(target=target)], 0)
    [epoch] = written(directory)["epochs"]
    assert epoch["pushed"] == {"digest": "d" * 64, "used": "01", "contents": "c" * 64, "is_torn": written_torn}
    assert target.torn == [written_torn]


# An earlier agent's


def test_entries_of_an_earlier_agent_stay_until_they_are_settled(directory: RunDirectory) -> None:
    """An agent that is killed while it adopts leaves none behind."""
    entries = [{"number": 7, "pid": 1}, {"number": 3, "pid": 2}]
    state_file = remembered(directory, *entries)
    assert state_file.inherited == entries
    state_file.write(serving(3), [], 0)
    assert [each["number"] for each in written(directory)["epochs"]] == [3, 7], "its own entry replaces the older one"
    state_file.settle(entries[0])
    assert state_file.inherited == [entries[1]]
    state_file.write(serving(3), [], 0)
    assert [each["number"] for each in written(directory)["epochs"]] == [3]


def test_after_a_reboot_no_process_is_an_earlier_agents(directory: RunDirectory) -> None:
    state_file = remembered(directory, {"number": 7}, boot="another", spare=77, served_since=5, next_epoch=8)
    assert state_file.inherited == []
    assert (state_file.reserved, state_file.served_since) == ([], None)
    assert state_file.first_epoch == 8, "the numbers go on"


def test_before_a_reboot_they_are(directory: RunDirectory) -> None:
    state_file = remembered(directory, {"number": 7}, boot=boot(), spare=77, upcoming=78, served_since=5)
    assert state_file.inherited == [{"number": 7}]
    assert (state_file.reserved, state_file.served_since) == ([Segment(77), Segment(78)], 5)


def test_a_service_without_an_epoch_begins_anew(directory: RunDirectory) -> None:
    assert remembered(directory, boot=boot(), served_since=5).served_since is None


@pytest.mark.parametrize("value", [None, "5", 1.5, []])
def test_a_start_and_a_spare_that_make_no_sense_are_none(directory: RunDirectory, value: object) -> None:
    state_file = remembered(directory, {"number": 7}, boot=boot(), served_since=value, spare=value, upcoming=value)
    assert (state_file.served_since, state_file.reserved) == (None, [])


@pytest.mark.parametrize(
    ("epochs", "left"), [(None, []), ("x", []), ({"number": 7}, []), ([1, None, "x", {"number": 7}], [{"number": 7}])]
)
def test_entries_that_make_no_sense_are_left_out(directory: RunDirectory, epochs: object, left: list[object]) -> None:
    directory.remember({"epochs": epochs})
    assert StateFile(directory).inherited == left


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"epochs": [{"number": 7}', "\x00"])
def test_a_file_that_is_half_written_or_empty_is_an_empty_state(directory: RunDirectory, text: str) -> None:
    (directory.path / "state.json").write_text(text)
    state_file = StateFile(directory)
    assert (state_file.inherited, state_file.first_epoch, state_file.reserved) == ([], 1, [])


# Writing


def test_a_reader_sees_the_old_state_or_the_new_one(directory: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    """The file is replaced by rename: one who has it open reads on in the older one."""
    caplog.set_level("INFO")
    state_file = StateFile(directory)
    state_file.write(core(1), [], 0)
    with (directory.path / "state.json").open() as reader:
        state_file.write(core(2), [], 0)
        assert json.load(reader)["next_epoch"] == 1
    assert written(directory)["next_epoch"] == 2
    assert caplog.records == [], "that is no news"
    assert {path.name for path in directory.path.iterdir()} == {"lock", "state.json"}


def test_a_state_that_cannot_be_written_leaves_the_older_one_and_no_half_of_a_newer(directory: RunDirectory) -> None:
    state_file = StateFile(directory)
    (directory.path / "state.json").mkdir()
    state_file.write(core(1), [], 0)
    assert state_file.behind
    assert state_file.last["next_epoch"] == 1
    assert {path.name for path in directory.path.iterdir()} == {"lock", "state.json"}


def test_a_failure_is_told_again_after_it_was_over(directory: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    state_file, path = StateFile(directory), directory.path / "state.json"
    for number in (1, 2):
        path.unlink(missing_ok=True)
        path.mkdir()
        state_file.write(core(2 * number), [], 0)
        path.rmdir()
        state_file.write(core(2 * number + 1), [], 0)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"] * 2
    assert [cast(Any, record).event for record in caplog.records] == ["state.unwritable", "state.written"] * 2


def test_nothing_is_behind_before_anything_was_written(directory: RunDirectory) -> None:
    state_file = StateFile(directory)
    assert not state_file.behind
    state_file.write(core(), [], 0)
    assert not state_file.behind
