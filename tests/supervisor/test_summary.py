from datetime import timedelta

import pytest

from agent.core import events as on
from agent.core.events import Failure, FailureKind
from agent.core.policy import Policy
from agent.supervisor.summary import Summary
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import NOW, Scene, group, leaf, rejection


class Told(Scene):
    """A scene that is summed up."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.summary = Summary(self.service)

    @property
    def sentence(self) -> str:
        return self.summary.sentence()

    @property
    def why_not_ready(self) -> str:
        return self.summary.why_not_ready()


@pytest.fixture
def told(time: Time) -> Told:
    return Told()


# The sentence


def test_before_the_first_epoch_nothing_serves(told: Told) -> None:
    assert told.sentence == "no epoch serves"


def test_an_epoch_serves_until_its_first_certificate_ends(told: Told) -> None:
    told.serve("a", group("/c/1.crt", leaf()), group("/c/2.crt", leaf(life=timedelta(days=1, minutes=5))))
    assert told.sentence == "epoch 1 serves, certificate until 2026-05-05 12:05Z"


def test_an_epoch_without_a_certificate_serves_without_a_date(told: Told) -> None:
    told.serve("a")
    assert told.sentence == "epoch 1 serves"


def test_an_epoch_whose_process_is_not_there_has_no_date(told: Told) -> None:
    told.serve("a", group("/c/1.crt", leaf()))
    told.processes.epochs.clear()
    assert told.sentence == "epoch 1 serves"


def test_a_candidate_comes_after_the_epoch_that_serves(told: Told) -> None:
    told.serve("a")
    told.begin("b")
    assert told.sentence == "epoch 1 serves; epoch 2 starts"


def test_a_candidate_says_what_it_waits_for(told: Told) -> None:
    told.begin("a")
    told.core.handle(on.EpochStarted(at=NOW, epoch=1, pid=7))
    told.core.handle(on.EpochAwaits(at=NOW, epoch=1, reason="cluster web has no endpoints"))
    assert told.sentence == "no epoch serves; epoch 1 starts: cluster web has no endpoints"


def test_draining_epochs_are_listed_from_new_to_old_with_their_connections(told: Told) -> None:
    for name in "abc":
        told.serve(name)
    told.processes.epochs[1].clients = 1
    told.processes.epochs[2].clients = 0
    assert told.sentence == "epoch 3 serves; epoch 2 draining, 0 connections; epoch 1 draining, 1 connection"


def test_an_epoch_that_was_told_to_exit_counts_no_connections_any_more(told: Told) -> None:
    told.serve("a").clients = 5
    told.serve("b")
    told.core.handle(on.EpochEmptied(at=NOW, epoch=1))
    assert told.sentence == "epoch 2 serves; epoch 1 draining"


def test_a_draining_epoch_whose_process_is_not_there_has_no_connections(told: Told) -> None:
    told.serve("a")
    told.serve("b")
    del told.processes.epochs[1]
    assert told.sentence == "epoch 2 serves; epoch 1 draining"


# Refusals


@pytest.mark.parametrize(
    ("count", "more"),
    [(0, []), (1, []), (2, []), (3, ["1 more are refused"]), (9, ["7 more are refused"])],
)
def test_of_many_refusals_the_sentence_has_two(told: Told, count: int, more: list[str]) -> None:
    told.serve("a")
    told.inputs.loader.reports.refusals = [rejection(f"/c/{number}.crt") for number in range(count)]
    parts = told.sentence.split("; ")
    assert [part for part in parts if part.startswith("cannot use")] == [
        f"cannot use /c/{number}.crt: it is empty" for number in range(min(count, 2))
    ]
    assert [part for part in parts if part.endswith("more are refused")] == more


def test_a_refused_configuration_or_program_is_a_rejection_too(told: Told) -> None:
    told.inputs.loader.reports.refusals = [rejection("/c/1.crt")]
    told.inputs.loader.found = [("/etc/proxy.yaml", "configuration", "cannot read /etc/proxy.yaml: line 3")]
    assert told.summary.rejections() == [rejection("/c/1.crt").message, "cannot read /etc/proxy.yaml: line 3"]
    assert "line 3" in told.sentence


def refuse(told: Told, reason: str) -> None:
    """Let the proxy refuse the candidate."""
    assert told.core.candidate is not None
    failure = Failure(FailureKind.PERMANENT, reason)
    told.core.handle(on.EpochExited(at=NOW, epoch=told.core.candidate.number, code=1, failure=failure))


def test_what_the_proxy_refused_is_told_while_the_old_epoch_serves(told: Told) -> None:
    told.serve("a")
    told.begin("b")
    refuse(told, "no such cluster")
    assert told.sentence == "epoch 1 serves; no such cluster"


def test_what_is_a_complaint_of_the_loader_already_is_told_once(told: Told) -> None:
    told.serve("a")
    told.begin("b")
    refuse(told, "no such cluster")
    told.inputs.loader.found = [("/etc/proxy.yaml", "proxy", "no such cluster")]
    assert told.sentence == "epoch 1 serves; no such cluster"


def test_the_last_failure_is_told_only_while_nothing_serves(told: Told) -> None:
    told.serve("a")
    told.begin("b")
    told.exits(2, "it fell over")
    assert told.sentence == "epoch 1 serves; epoch 3 starts"
    told.exits(3)
    told.exits(1, "out of memory")
    assert told.sentence == "no epoch serves; epoch 4 starts; out of memory"


def test_a_refusal_comes_before_the_last_failure(told: Told) -> None:
    told.begin("a")
    refuse(told, "no such cluster")
    assert told.sentence == "no epoch serves; no such cluster"


# Readiness


def test_the_agent_is_ready_while_an_epoch_serves(told: Told) -> None:
    told.serve("a")
    told.begin("b")
    assert told.why_not_ready == ""


def test_an_epoch_that_has_lost_its_listeners_is_not_ready(told: Told) -> None:
    told.serve("a")
    told.processes.unserved = "epoch 1 has only its own listeners"
    assert told.why_not_ready == "epoch 1 has only its own listeners"


def test_an_agent_that_stops_is_not_ready_though_its_epoch_still_serves() -> None:
    told = Told(Policy(drain_delay=5.0))
    told.serve("a")
    told.core.handle(on.StopAsked(at=NOW))
    assert told.core.serving is not None
    assert "stopping" in told.why_not_ready


def test_before_the_first_epoch_it_is_told_what_is_missing(told: Told) -> None:
    assert told.why_not_ready == "no epoch serves: waiting for /etc/certs/tls.crt"


def test_during_the_first_start_it_is_told_what_the_candidate_waits_for(told: Told) -> None:
    told.begin("a")
    assert told.why_not_ready == "no epoch serves: epoch 1 starts"
    told.core.handle(on.EpochStarted(at=NOW, epoch=1, pid=7))
    told.core.handle(on.EpochAwaits(at=NOW, epoch=1, reason="the control plane"))
    assert told.why_not_ready == "no epoch serves: epoch 1 starts: the control plane"


def test_after_a_failure_it_is_told_instead_of_what_is_missing(told: Told) -> None:
    told.begin("a")
    told.exits(1)
    told.exits(2)
    assert told.core.candidate is None
    assert told.why_not_ready == "no epoch serves: it fell over"


def test_refusals_say_why_nothing_serves(told: Told) -> None:
    told.inputs.loader.reports.refusals = [rejection("/c/1.crt")]
    reason = told.why_not_ready
    assert reason.startswith("no epoch serves: waiting for /etc/certs/tls.crt; cannot use /c/1.crt")
