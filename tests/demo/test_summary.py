from collections import Counter

import pytest

from agent.demo.faults import BAD_KEY, FREEZE, KILL
from agent.demo.results import ENOUGH, Kill, Results, Rotation
from agent.demo.summary import summary


def results(**more: object) -> Results:
    """Results that prove the claim."""
    made = Results(served=5000, connections=1200, longest=0.25, deepest=30)
    made.rotations = [Rotation("a", 1.0, 1.25), Rotation("b", 2.0, 2.75)]
    for name, value in more.items():
        setattr(made, name, value)
    return made


def said(made: Results) -> list[str]:
    return summary(made)[0]


def test_what_was_served_and_how_fast_is_said() -> None:
    lines, good = summary(results())
    assert (good, len(lines)) == (True, 3)
    assert [word in lines[0] for word in ("5,000 requests", "1,200 connections", "failed: 0")] == [True] * 3
    assert [word in lines[1] for word in ("2 rotations", "500 ms", "750 ms")] == [True] * 3
    assert [word in lines[2] for word in ("250 ms", "30 clients")] == [True] * 2


def test_failures_are_counted_by_their_reason_and_prove_the_opposite() -> None:
    failing = results()
    failing.reasons = Counter({"refused": 1, "reset": 1200})
    failing.failed = 1201
    lines, good = summary(failing)
    assert (good, "1201" in lines[0] or "1,201" in lines[0]) == (False, True)
    assert lines[1] == "1,200 reset, 1 refused"


@pytest.mark.parametrize(("kills", "words"), [(1, "7 cut"), (2, "2 prox")])
def test_what_was_cut_with_killed_proxies_is_no_failure(kills: int, words: str) -> None:
    made = results(kills=[Kill(3, 1.0, 1.1)] * kills, cut=7)
    lines, good = summary(made)
    assert (good, words in lines[1], "refused" in lines[1]) == (True, True, True)
    made.failed = 1
    made.reasons = Counter({"reset": 1})
    assert "refused" not in " ".join(said(made))


def test_faults_are_said_by_their_names_and_only_those_that_were() -> None:
    assert any(KILL in line for line in said(results(faults=Counter({KILL: 1}))))
    lines = said(results(faults=Counter({FREEZE: 2, BAD_KEY: 1, KILL: 0})))
    (faults,) = [line for line in lines if FREEZE in line]
    assert (faults.index(BAD_KEY) < faults.index(FREEZE), KILL in faults) == (True, False)


def test_rotations_that_no_client_saw_prove_nothing() -> None:
    made = results()
    made.rotations = [Rotation("a", 1.0)]
    lines, good = summary(made)
    assert (good, "1 rotation," in " ".join(lines), len(lines)) == (False, True, 4)


def test_overtaken_rotations_are_counted() -> None:
    made = results()
    made.rotations = [Rotation("a", 1.0), Rotation("b", 2.0), Rotation("c", 3.0, 3.5)]
    assert any("3 rotations, 2 " in line for line in said(made))
    assert not any("2 rotations, " in line for line in said(results()))


def test_too_few_requests_prove_nothing() -> None:
    lines, good = summary(results(served=ENOUGH - 1))
    assert (good, len(lines)) == (False, 4)


def test_a_queue_that_could_not_be_seen_is_not_mentioned() -> None:
    assert "queue" not in " ".join(said(results(deepest=None)))
    assert "0 clients" in " ".join(said(results(deepest=0)))
    assert not summary(results(deepest=0))[1]
