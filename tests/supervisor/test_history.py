import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.certificates.x509 import Leaf
from agent.core import events as on
from agent.core.attempts import AttemptResult
from agent.core.epochs import State
from agent.core.policy import Policy
from agent.core.reconciler import Reconciler
from agent.core.revision import Revision
from agent.host import clock, listen_counters
from agent.host.listen_counters import ListenCounters
from agent.host.run_directory import RunDirectory
from agent.status.model import AttemptView, Change, End, Evidence, Phase, ProbeResult
from agent.supervisor.history import History
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import NOW, TODAY, logged

WEB = Leaf("CN=a", (), "CN=b", 0x1F, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), "RSA", "ab")
SEEN = (ProbeResult("tcp://127.0.0.1:1", "20", matches=True),)


class Life:
    """A reconciler whose history is saved in a directory; revision `a` has serial 1f, and `b` 20."""

    def __init__(self, directory: RunDirectory) -> None:
        self.core = Reconciler(Policy(quiet_timeout=0.0), jitter=lambda: 0.5)
        self.history = History(self.core.epochs, directory, self.leaves)

    @staticmethod
    def leaves(revision: Revision) -> dict[str, Leaf]:
        return {"/c/web.pem": replace(WEB, serial=0x1F if revision.digest == "a" else 0x20)}

    def tell(self, event: on.Event) -> list[AttemptView]:
        return self.history.enter(event, self.core.handle(event))

    def ready(self, name: str) -> None:
        self.tell(on.RevisionReady(at=clock.monotonic(), revision=Revision(name, "shape")))

    def rotate(self, name: str) -> None:
        self.ready(name)
        candidate = self.core.candidate
        assert candidate is not None
        now, number = clock.monotonic(), candidate.number
        self.tell(on.EpochStarted(at=now, epoch=number, pid=number))
        self.tell(on.EpochReachedGate(at=now, epoch=number))
        self.tell(on.EpochJudged(at=now, epoch=number))
        self.tell(on.EpochServes(at=now, epoch=number))
        self.history.committed(number, 3)
        self.history.handed_over(number)
        self.history.proved(number, SEEN)

    def dies(self, number: int) -> list[AttemptView]:
        failure = on.Failure(on.FailureKind.TRANSIENT, "it fell over")
        return self.tell(on.EpochExited(at=clock.monotonic(), epoch=number, code=1, failure=failure))


@pytest.fixture
def life(directory: RunDirectory) -> Life:
    life = Life(directory)
    life.rotate("a")
    life.rotate("b")
    return life


def test_an_attempt_has_its_serials_and_its_evidence(life: Life) -> None:
    newest, first = life.history.views()
    assert (newest.epoch, newest.trigger, newest.outcome) == (2, "certificate", "serving")
    assert newest.changes == (Change("web", "1f", "20"),)
    assert first.changes == (Change("web", None, "1f"),)
    assert [phase.name for phase in newest.phases] == ["launch", "start", "judge", "open", "handover"]
    evidence = newest.evidence
    assert evidence is not None
    assert (evidence.queued, evidence.seen, evidence.cut) == (3, SEEN, None)
    assert evidence.overflows is not None
    assert evidence.overflows >= 0


def test_the_end_of_an_epoch_is_kept_for_the_next_agent(life: Life, directory: RunDirectory) -> None:
    end = End(datetime(2026, 1, 2, tzinfo=UTC), "signal", "was killed by SIGKILL", 8.5, "serving")
    life.history.exited(2, end)
    life.history.exited(99, end)
    assert [each.end for each in life.history.views()] == [end, None]
    assert Life(directory).history.views()[0].end == end


def test_an_earlier_agents_attempts_have_no_end(life: Life, directory: RunDirectory) -> None:
    kept = directory.recall("history.json")
    rows = kept["attempts"]
    assert isinstance(rows, list)
    for row in rows:
        del row["end"]
    directory.remember(kept, "history.json")
    assert [each.end for each in Life(directory).history.views()] == [None, None]


def test_what_was_left_at_the_deadline_is_of_the_one_that_took_over(life: Life) -> None:
    life.history.cut(1, 5)
    life.dies(1)
    assert life.history.drained(1) is not None
    evidence = life.history.views()[0].evidence
    assert evidence is not None
    assert (evidence.cut, evidence.cut_at_end) == (5, None)


def test_what_the_end_of_an_epoch_cuts_is_kept_though_nothing_takes_over(life: Life, directory: RunDirectory) -> None:
    life.history.cut(2, 7)
    evidence = History({}, directory, lambda _: {}).views()[0].evidence
    assert evidence is not None
    assert evidence.cut_at_end == 7


def test_a_completed_drain_has_cut_no_connection(life: Life) -> None:
    life.dies(1)
    life.history.drained(1)
    evidence = life.history.views()[0].evidence
    assert evidence is not None
    assert evidence.cut == 0
    assert life.history.views()[0].phases[-1].name == "drain"


def test_an_epoch_that_nothing_took_over_from_has_not_drained(life: Life) -> None:
    assert life.history.drained(2) is None


def test_a_failure_is_recorded_at_once(life: Life) -> None:
    life.ready("c")
    (attempt,) = life.dies(3)
    assert (attempt.outcome, attempt.reason) == ("failed", "it fell over")


def test_the_next_agent_knows_what_was(life: Life, directory: RunDirectory) -> None:
    life.dies(1)
    life.history.drained(1)
    life.ready("c")
    life.history.keep()
    before = life.history.views()
    after = Life(directory).history.views()
    assert after[1:] == before[1:]
    assert after[0] == replace(before[0], outcome=AttemptResult.DROPPED.value)  # its end was not observed


@pytest.mark.parametrize("kept", ["[]", "{}", '{"attempts": 3}', '{"attempts": [1, {}, {"epoch": "x"}]}', "{"])
def test_a_file_that_makes_no_sense_is_no_history(directory: RunDirectory, kept: str) -> None:
    Path(directory.path / "history.json").write_text(kept)
    assert Life(directory).history.views() == ()


def adopted(number: int) -> on.EpochAdopted:
    """An epoch of an earlier agent."""
    revision = Revision("a", "shape")
    return on.EpochAdopted(at=clock.monotonic(), epoch=number, revision=revision, pid=9, state=State.SERVING)


def rows(directory: RunDirectory) -> list[dict[str, Any]]:
    """Return what is kept in the run directory."""
    found: list[dict[str, Any]] = json.loads((directory.path / "history.json").read_text())["attempts"]
    return found


def test_the_last_hundred_are_kept_over_all_agents(directory: RunDirectory) -> None:
    life = Life(directory)
    for number in range(1, 61):
        life.tell(adopted(number))
    life.history.keep()
    after = Life(directory)
    for number in range(61, 111):
        after.tell(adopted(number))
    assert [each.epoch for each in after.history.views()] == list(range(110, 10, -1))
    after.history.keep()
    assert [each["epoch"] for each in rows(directory)] == list(range(11, 111))
    assert [each.epoch for each in Life(directory).history.views()] == list(range(110, 10, -1))


def test_of_one_agent_too_the_last_hundred_are_kept(directory: RunDirectory) -> None:
    life = Life(directory)
    for number in range(1, 103):
        life.tell(adopted(number))
    assert [each.epoch for each in life.history.views()] == list(range(102, 2, -1))
    assert (life.history.view(2), life.history.view(3) is None) == (None, False)


def test_an_adopted_epoch_is_an_entry(directory: RunDirectory) -> None:
    life = Life(directory)
    life.tell(adopted(7))
    assert [(each.epoch, each.trigger) for each in life.history.views()] == [(7, "adoption")]


# Times


def test_an_attempt_began_when_its_event_says(time: Time, directory: RunDirectory) -> None:
    life = Life(directory)
    time.leap(60.9996)
    life.tell(on.RevisionReady(at=NOW + 10.9996, revision=Revision("a", "shape")))
    (view,) = life.history.views()
    assert view.began_at == TODAY + timedelta(seconds=10, milliseconds=999)


def test_an_attempt_has_the_time_of_its_change_and_another_agent_reads_it(time: Time, directory: RunDirectory) -> None:
    life = Life(directory)
    life.rotate("a")
    time.leap(60.0)
    life.tell(on.RevisionReady(at=NOW + 60.0, revision=Revision("b", "shape"), changed_at=NOW + 59.75))
    life.dies(2)
    expected = TODAY + timedelta(seconds=59, milliseconds=750)
    assert [view.changed_at for view in life.history.views()] == [expected, expected, None], "the retry as well"
    assert [view.changed_at for view in Life(directory).history.views()][-2:] == [expected, None]


def test_phases_are_told_in_microseconds(time: Time, directory: RunDirectory) -> None:
    life = Life(directory)
    life.ready("a")
    life.tell(on.EpochStarted(at=NOW + 1.23456789, epoch=1, pid=1))
    (view,) = life.history.views()
    assert view.phases == (Phase("launch", 1.234568),)


def test_an_attempt_names_its_revisions(life: Life) -> None:
    life.ready("0123456789abcdef")
    newest, *_ = life.history.views()
    assert (newest.revision, newest.before, newest.outcome) == ("0123456789ab", "b", "running")


# Evidence that comes late, or never


def test_what_is_not_an_attempt_has_no_evidence(life: Life) -> None:
    before = life.history.views()
    life.history.committed(99, 3)
    life.history.handed_over(99)
    life.history.proved(99, SEEN)
    life.history.cut(99, 3)
    assert life.history.views() == before
    assert life.history.view(99) is None


def test_before_the_commit_nothing_can_be_proved(life: Life) -> None:
    life.ready("c")
    life.history.handed_over(3)
    life.history.proved(3, SEEN)
    newest, *_ = life.history.views()
    assert newest.evidence is None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[ListenCounters | None]:
    """The kernel's counters: the last of this list."""
    counters: list[ListenCounters | None] = [ListenCounters(10, 20)]
    monkeypatch.setattr(listen_counters, "read", lambda: counters[-1])
    return counters


def commit(life: Life) -> None:
    """Let epoch 1 serve."""
    life.ready("a")
    life.tell(on.EpochStarted(at=clock.monotonic(), epoch=1, pid=1))
    life.tell(on.EpochReachedGate(at=clock.monotonic(), epoch=1))
    life.tell(on.EpochJudged(at=clock.monotonic(), epoch=1))
    life.tell(on.EpochServes(at=clock.monotonic(), epoch=1))
    life.history.committed(1, 3)


def evidence(life: Life, epoch: int = 1) -> Evidence:
    view = life.history.view(epoch)
    assert view is not None
    assert view.evidence is not None
    return view.evidence


def test_what_the_kernel_lost_is_counted_from_the_start_to_the_handover(
    kernel: list[ListenCounters | None], directory: RunDirectory
) -> None:
    life = Life(directory)
    kernel.append(ListenCounters(100, 200))
    commit(life)
    kernel.append(ListenCounters(103, 208))
    life.history.handed_over(1)
    kernel.append(ListenCounters(500, 500))
    assert (evidence(life).overflows, evidence(life).drops) == (3, 8)


@pytest.mark.parametrize("missing", ["before", "after"])
def test_a_kernel_that_does_not_count_proves_nothing(
    kernel: list[ListenCounters | None], directory: RunDirectory, missing: str
) -> None:
    life = Life(directory)
    kernel.append(None if missing == "before" else ListenCounters(1, 1))
    commit(life)
    kernel.append(ListenCounters(1, 1) if missing == "before" else None)
    life.history.handed_over(1)
    assert (evidence(life).overflows, evidence(life).drops, evidence(life).queued) == (None, None, 3)


def test_a_drain_that_was_cut_keeps_its_number(life: Life) -> None:
    life.history.cut(1, 5)
    life.dies(1)
    life.history.drained(1)
    assert evidence(life, 2).cut == 5


def test_a_drain_takes_until_the_exit(time: Time, directory: RunDirectory) -> None:
    life = Life(directory)
    life.rotate("a")
    life.rotate("b")
    time.leap(7)
    life.dies(1)
    assert life.history.drained(1) == 7


# The file


def test_an_attempt_that_serves_is_written_with_its_evidence_and_not_before(directory: RunDirectory) -> None:
    life = Life(directory)
    commit(life)
    assert not (directory.path / "history.json").exists()
    life.history.proved(1, SEEN)
    assert [each["outcome"] for each in rows(directory)] == ["serving"]


def test_each_piece_of_evidence_is_kept_at_once(life: Life, directory: RunDirectory) -> None:
    (directory.path / "history.json").unlink()
    life.history.proved(2, SEEN)
    assert rows(directory)[-1]["evidence"]["seen"] == [
        {"address": "tcp://127.0.0.1:1", "serial": "20", "matches": True, "error": ""}
    ]
    life.dies(1)
    life.history.drained(1)
    assert rows(directory)[-1]["evidence"]["cut"] == 0
    life.ready("c")
    life.dies(3)
    assert [each["outcome"] for each in rows(directory)] == ["serving", "serving", "failed", "running"]


def test_what_ends_an_epoch_is_in_the_file_though_its_row_was_settled(life: Life, directory: RunDirectory) -> None:
    life.dies(1)
    life.history.drained(1)
    assert rows(directory)[-1]["evidence"]["cut_at_end"] is None
    life.history.cut(2, 9)
    assert rows(directory)[-1]["evidence"]["cut_at_end"] == 9


def test_an_attempt_that_runs_is_in_the_file_as_it_is_now(life: Life, directory: RunDirectory) -> None:
    life.ready("c")
    life.history.keep()
    assert rows(directory)[-1]["phases"] == []
    life.tell(on.EpochStarted(at=clock.monotonic(), epoch=3, pid=1))
    life.history.keep()
    assert [each["name"] for each in rows(directory)[-1]["phases"]] == ["launch"]


def test_a_serving_epoch_without_evidence_is_not_settled(directory: RunDirectory) -> None:
    life = Life(directory)
    life.tell(adopted(7))
    life.history.keep()
    assert rows(directory)[-1]["evidence"] is None
    life.history.committed(7, 2)
    life.history.keep()
    assert rows(directory)[-1]["evidence"]["queued"] == 2


def test_rows_that_make_no_sense_are_skipped_one_by_one(life: Life, directory: RunDirectory) -> None:
    life.history.keep()
    good = rows(directory)
    bad: list[Any] = [
        {**good[0], "epoch": "x"},
        {**good[0], "began_at": "yesterday"},
        {**good[0], "changes": [{"set": "web"}]},
        {**good[0], "phases": None},
        {key: value for key, value in good[0].items() if key != "reason"},
        None,
        [],
    ]
    (directory.path / "history.json").write_text(json.dumps({"attempts": [good[0], *bad, good[1]]}))
    assert [each.epoch for each in Life(directory).history.views()] == [2, 1]


def test_what_was_read_is_as_it_was_written(life: Life, directory: RunDirectory) -> None:
    life.dies(1)
    life.history.drained(1)
    life.history.cut(2, 4)
    assert Life(directory).history.views() == life.history.views()


def test_the_history_goes_on_where_it_cannot_be_written(life: Life, directory: RunDirectory) -> None:
    (directory.path / "history.json").unlink()
    (directory.path / "history.json").mkdir()
    with logged() as events:
        life.history.cut(2, 4)
    (event,) = events
    assert (event.level, event.name) == (logging.DEBUG, "history.unwritable")
    assert str(directory.path / "history.json") in event.text
    assert evidence(life, 2).cut_at_end == 4


# Changes


def test_a_set_that_comes_or_goes_is_a_change(directory: RunDirectory) -> None:
    leaves = {
        "a": {"/c/web.pem": WEB, "/c/old.pem": WEB, "/c/same.pem": WEB},
        "b": {"/c/web.pem": replace(WEB, serial=0x20), "/c/new.pem": WEB, "/c/same.pem": WEB},
    }
    life = Life(directory)
    life.history = History(life.core.epochs, directory, lambda each: leaves[each.digest])
    life.rotate("a")
    life.rotate("b")
    newest, _ = life.history.views()
    assert newest.changes == (Change("new", None, "1f"), Change("old", "1f", None), Change("web", "1f", "20"))


def test_the_same_again_changes_nothing(life: Life) -> None:
    life.tell(on.RestartAsked(at=clock.monotonic()))
    newest, *_ = life.history.views()
    assert (newest.trigger, newest.changes) == ("operator", ())


def pushed(life: Life, name: str, at: float | None = None) -> None:
    """Push a revision into the serving epoch."""
    now = clock.monotonic() if at is None else at
    assert life.core.serving is not None
    life.core.serving.takes_pushes = True
    life.core.serving.revision = Revision(life.core.serving.revision.digest, "shape", "base")
    revision = Revision(name, "shape", "base")
    life.tell(on.RevisionReady(at=now, revision=revision))
    event = on.EpochPushed(at=now, epoch=life.core.serving.number, revision=revision, phases={"apply": 0.5})
    life.tell(event)


def test_a_push_is_kept_beside_the_start_of_its_epoch(life: Life, directory: RunDirectory) -> None:
    pushed(life, "a")
    newest, start, _ = life.history.views()
    assert (newest.epoch, newest.push, newest.outcome) == (2, 1, "serving")
    assert newest.changes == (Change("web", "20", "1f"),)
    assert newest.phases == (Phase("apply", 0.5),)
    assert (newest.evidence, newest.end) == (None, None)
    assert (start.epoch, start.push) == (2, 0)
    assert start.evidence is not None
    assert [(each.epoch, each.push) for each in Life(directory).history.views()] == [(2, 1), (2, 0), (1, 0)]


def test_the_end_of_an_epoch_is_that_of_its_start_and_not_of_a_push(life: Life) -> None:
    pushed(life, "a")
    end = End(datetime(2026, 1, 2, tzinfo=UTC), "signal", "was killed by SIGKILL", 8.5, "serving")
    life.history.exited(2, end)
    assert [each.end for each in life.history.views()] == [None, end, None]


def test_a_row_of_an_agent_that_knew_no_pushes_is_no_push(life: Life, directory: RunDirectory) -> None:
    kept = directory.recall("history.json")
    rows = kept["attempts"]
    assert isinstance(rows, list)
    for row in rows:
        del row["push"]
    directory.remember(kept, "history.json")
    assert [each.push for each in Life(directory).history.views()] == [0, 0]
