import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.certificates.x509 import Leaf
from agent.core import events as on
from agent.core.attempts import AttemptResult
from agent.core.epochs import State
from agent.core.policy import Policy
from agent.core.reconciler import Reconciler
from agent.core.revision import Revision
from agent.host import clock
from agent.host.run_directory import RunDirectory
from agent.status.model import AttemptView, Change, End, ProbeResult
from agent.supervisor.history import History

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


def test_it_is_bounded_over_all_agents(life: Life, directory: RunDirectory) -> None:
    for _ in range(2):
        another = Life(directory)
        for number in range(1, 60):
            another.rotate("ab"[number % 2])
            if number > 1:
                another.dies(number - 1)
        assert len(another.history.views()) <= 100
    assert len(json.loads((directory.path / "history.json").read_text())["attempts"]) == 100


def test_an_adopted_epoch_is_an_entry(directory: RunDirectory) -> None:
    life = Life(directory)
    adopted = on.EpochAdopted(
        at=clock.monotonic(), epoch=7, revision=Revision("a", "shape"), pid=9, state=State.SERVING
    )
    life.tell(adopted)
    assert [(each.epoch, each.trigger) for each in life.history.views()] == [(7, "adoption")]
