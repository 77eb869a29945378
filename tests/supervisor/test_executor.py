import asyncio
import logging
from datetime import timedelta
from typing import cast

import pytest

from agent.core import effects as do
from agent.core import events as on
from agent.core.effects import Effect, LogTopic
from agent.core.events import Failure, FailureKind
from agent.core.revision import Revision
from agent.inputs.revisions import RevisionStore
from agent.processes.epoch_process import EpochProcess
from agent.supervisor.endpoints import Endpoints
from agent.supervisor.executor import Executor
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import NOW, TODAY, Scene, group, leaf, logged, settled

A_DAY = 86400.0


class Console:
    """The addresses of the agent: it lists the epochs that they were routed to, and may take its time for it."""

    def __init__(self) -> None:
        self.routed: list[int] = []

    async def route_to(self, serving: EpochProcess) -> None:
        self.routed.append(serving.number)


class ExecutorScene(Scene):
    """A scene with an executor in it."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console()
        revisions = cast("RevisionStore", self.revisions)
        self.executor = Executor(self.service, revisions, cast("Endpoints", self.console), self.posted.append)


@pytest.fixture
def stage(time: Time) -> ExecutorScene:
    return ExecutorScene()


REVISION = Revision("0123456789abcdef", "shape")


@pytest.mark.parametrize(
    ("effect", "call"),
    [
        (do.StartEpoch(4, REVISION, validate=True), ("start", 4, REVISION, True)),
        (do.StartEpoch(4, REVISION, validate=False, again=True), ("start", 4, REVISION, False)),
        (do.JudgeEpoch(5), ("judge", 5)),
        (do.OpenGate(6), ("open_gate", 6)),
        (do.DropEpoch(7, "it is late"), ("drop", 7)),
        (do.DrainEpoch(8), ("drain", 8, False)),
        (do.AwaitEmpty(8), ("await_empty", 8)),
        (do.EndEpoch(9), ("end", 9)),
        (do.KillEpoch(10), ("kill", 10)),
        (do.PushRevision(3, REVISION), ("push", 3, REVISION, False)),
        (do.PushRevision(3, REVISION, restores=True), ("push", 3, REVISION, True)),
        (do.RefuseClients(), ("refuse_clients",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_effect_is_one_call_of_the_process_table(
    stage: ExecutorScene, effect: Effect, call: tuple[object, ...]
) -> None:
    stage.executor.execute(effect)
    assert stage.processes.calls == [call]


def test_a_drain_after_a_stop_request_is_the_last_one(stage: ExecutorScene) -> None:
    stage.serve("a")
    stage.core.handle(on.DrainAsked(at=NOW))
    stage.executor.execute(do.DrainEpoch(1))
    assert stage.processes.calls == [("drain", 1, True)]


@pytest.mark.parametrize(
    ("effect", "level", "name", "epoch", "word"),
    [
        (do.StartEpoch(4, REVISION, validate=True), logging.INFO, "epoch.starting", 4, "revision 0123456789ab"),
        (do.StartEpoch(4, REVISION, True, again=True), logging.DEBUG, "epoch.starting", 4, "0123456789ab"),
        (do.DropEpoch(7, "it is late"), logging.INFO, "epoch.dropped", 7, "it is late"),
        (do.DrainEpoch(8), logging.INFO, "epoch.draining", 8, "epoch 8"),
        (do.KillEpoch(10), logging.WARNING, "epoch.killed", 10, "epoch 10"),
        (do.PushRevision(3, REVISION), logging.INFO, "push.started", 3, "0123456789ab is pushed into epoch 3"),
        (do.PushRevision(3, REVISION, True), logging.INFO, "push.started", 3, "epoch 3 again, to undo a push"),
        (do.LogMessage(LogTopic.PUSH_FAILED, "F", 3), logging.WARNING, "push.failed", 3, "F"),
        (do.LogMessage(LogTopic.PUSH_UNDONE, "U", 3), logging.INFO, "push.undone", 3, "U"),
        (do.RefuseClients(), logging.ERROR, "service.refused", None, "clients"),
        (do.LogMessage(LogTopic.REFUSED, "R", None), logging.ERROR, "revision.refused", None, "R"),
        (do.LogMessage(LogTopic.DOWN, "D", 3), logging.ERROR, "service.down", 3, "D"),
        (do.LogMessage(LogTopic.REPLACED, "P", 3), logging.ERROR, "service.replaced", 3, "P"),
        (do.LogMessage(LogTopic.RETRY, "Y", 3), logging.WARNING, "start.retry", 3, "Y"),
        (do.LogMessage(LogTopic.SHORT, "S", 3), logging.WARNING, "memory.short", 3, "S"),
        (do.LogMessage(LogTopic.AWAITED, "A", 3), logging.WARNING, "candidate.waits", 3, "A"),
        (do.LogMessage(LogTopic.HELD_BY_DRAINS, "H", 3), logging.INFO, "rotation.waits", 3, "H"),
        (do.LogMessage(LogTopic.DRAIN_CUT, "C", 3), logging.INFO, "drain.cut", 3, "C"),
    ],
)
def test_what_an_operator_wants_to_know_is_one_log_event(
    stage: ExecutorScene, effect: Effect, level: int, name: str, epoch: int | None, word: str
) -> None:
    with logged() as events:
        stage.executor.execute(effect)
    (event,) = events
    assert (event.level, event.name, event.epoch) == (level, name, epoch)
    assert word in event.text


@pytest.mark.parametrize("effect", [do.JudgeEpoch(5), do.OpenGate(6), do.EndEpoch(9)])
def test_steps_that_succeed_are_silent(stage: ExecutorScene, effect: Effect) -> None:
    with logged() as events:
        stage.executor.execute(effect)
    assert not events


def test_the_end_of_the_agent_is_not_its_matter(stage: ExecutorScene) -> None:
    with pytest.raises(AssertionError):
        stage.executor.execute(do.Finish(0, "stopped"))


# Cut drains


@pytest.mark.parametrize(
    ("clients", "shown"),
    [(None, "C"), (0, "C (0 connections)"), (1, "C (1 connection)"), (12345, "C (12,345 connections)")],
)
def test_a_cut_drain_says_how_many_connections_it_costs(stage: ExecutorScene, clients: int | None, shown: str) -> None:
    stage.serve("a").clients = clients
    with logged() as events:
        stage.executor.execute(do.LogMessage(LogTopic.DRAIN_CUT, "C", 1))
    assert [event.text for event in events] == [shown]


@pytest.mark.parametrize(
    "note",
    [
        do.LogMessage(LogTopic.DRAIN_CUT, "C", 99),
        do.LogMessage(LogTopic.DRAIN_CUT, "C"),
        do.LogMessage(LogTopic.DOWN, "C", 1),
    ],
)
def test_other_messages_count_no_connections(stage: ExecutorScene, note: do.LogMessage) -> None:
    stage.serve("a").clients = 5
    with logged() as events:
        stage.executor.execute(note)
    assert [event.text for event in events] == ["C"]


# Refused revisions


def refuse(stage: ExecutorScene, *, pinned: bool) -> do.LogMessage:
    """Let the candidate of `b` be refused beside `a`, and return what is logged about it."""
    stage.serve("a")
    stage.begin("b")
    failure = Failure(FailureKind.PERMANENT, "no such cluster", pinned)
    effects = stage.core.handle(on.EpochExited(at=NOW, epoch=2, code=1, failure=failure))
    return next(each for each in effects if isinstance(each, do.LogMessage))


def test_the_loader_learns_of_a_refused_revision_before_it_reads_again(stage: ExecutorScene) -> None:
    stage.executor.execute(refuse(stage, pinned=False))
    assert stage.inputs.calls == [("refuse", "b", "no such cluster"), ("reload_soon",)]


def test_with_pinned_groups_the_configuration_is_not_refused(stage: ExecutorScene) -> None:
    stage.executor.execute(refuse(stage, pinned=True))
    assert stage.inputs.calls == [("reload_soon",)]


def test_a_message_about_something_else_is_no_refusal(stage: ExecutorScene) -> None:
    refuse(stage, pinned=False)
    stage.executor.execute(do.LogMessage(LogTopic.RETRY, "again", 2))
    assert not stage.inputs.calls


def test_a_refusal_that_is_forgiven_meanwhile_has_no_effect(stage: ExecutorScene) -> None:
    message = refuse(stage, pinned=False)
    stage.core.handle(on.RestartAsked(at=NOW))
    stage.executor.execute(message)
    assert not stage.inputs.calls


# Commits


async def test_a_commit_makes_the_revision_the_last_good_one_and_routes_the_admin_address(
    stage: ExecutorScene, time: Time
) -> None:
    stage.serve("a")
    stage.executor.execute(do.CommitEpoch(1))
    assert stage.processes.calls == [("commit", 1)]
    assert stage.inputs.calls == [("serves", "a")]
    await settled(lambda: stage.console.routed)
    assert stage.console.routed == [1]


async def test_a_route_that_is_not_made_yet_is_given_up_at_the_end(stage: ExecutorScene, time: Time) -> None:
    stage.serve("a")
    stage.executor.execute(do.CommitEpoch(1))
    await stage.executor.close()
    await asyncio.sleep(0)
    assert not stage.console.routed


async def test_a_commit_foresees_when_the_first_leaf_is_urgent_and_expires(stage: ExecutorScene, time: Time) -> None:
    long, short = leaf(life=timedelta(days=100)), leaf(2, TODAY - timedelta(days=7), timedelta(days=10))
    stage.serve("a", group("/c/long.crt", long), group("/c/short.crt", short))
    stage.executor.execute(do.CommitEpoch(1))
    await stage.executor.close()
    assert stage.posted == [on.ExpiryForeseen(at=NOW, urgent_at=NOW + 2 * A_DAY, expires_at=NOW + 3 * A_DAY)]


async def test_the_first_to_be_urgent_need_not_be_the_first_to_expire(stage: ExecutorScene, time: Time) -> None:
    old, young = leaf(1, TODAY - timedelta(days=190), timedelta(days=200)), leaf(2, life=timedelta(days=5))
    stage.serve("a", group("/c/old.crt", old), group("/c/young.crt", young))
    stage.executor.execute(do.CommitEpoch(1))
    await stage.executor.close()
    assert stage.posted == [on.ExpiryForeseen(at=NOW, urgent_at=NOW - 10 * A_DAY, expires_at=NOW + 5 * A_DAY)]


async def test_without_a_leaf_nothing_expires(stage: ExecutorScene, time: Time) -> None:
    stage.serve("a")
    stage.executor.execute(do.CommitEpoch(1))
    await stage.executor.close()
    assert stage.posted == [on.ExpiryForeseen(at=NOW, urgent_at=None, expires_at=None)]


async def test_after_a_clock_step_expiry_is_foreseen_anew(stage: ExecutorScene, time: Time) -> None:
    stage.serve("a", group("/c/web.crt", leaf(life=timedelta(days=10))))
    time.set_clock(timedelta(days=4))
    stage.executor.clock_stepped()
    assert stage.posted == [on.ExpiryForeseen(at=NOW, urgent_at=NOW + 5 * A_DAY, expires_at=NOW + 6 * A_DAY)]
    assert stage.inputs.calls == [("clock_stepped",), ("reload_soon",)]


def test_a_clock_step_while_nothing_serves_concerns_the_inputs_alone(stage: ExecutorScene) -> None:
    stage.executor.clock_stepped()
    assert not stage.posted
    assert stage.inputs.calls == [("clock_stepped",), ("reload_soon",)]


async def test_a_pushed_revision_becomes_the_last_good_one_and_its_expiry_is_foreseen(
    stage: ExecutorScene, time: Time
) -> None:
    process = stage.serve("a", group("web.crt", leaf()))
    stage.executor.execute(do.CommitPush(1, process.loaded.revision))
    assert stage.processes.calls == [("commit_push", 1, process.loaded.revision)]
    assert ("serves", "a") in stage.inputs.calls
    assert [type(event) for event in stage.posted] == [on.ExpiryForeseen]


async def sentence(stage: ExecutorScene) -> str:
    """Commit epoch 1 and return what is logged about it."""
    with logged() as events:
        stage.executor.execute(do.CommitEpoch(1))
        await stage.executor.close()
    (event,) = events
    assert (event.level, event.name, event.epoch) == (logging.INFO, "epoch.serving", 1)
    return event.text


async def test_the_log_says_who_serves_after_how_long_with_which_certificates(stage: ExecutorScene, time: Time) -> None:
    stage.serve("a", group("/c/1.crt", leaf(0x1F)), group("/c/2.crt", leaf(0xABC)))
    time.leap(4.0)
    text = await sentence(stage)
    assert "epoch 1 (pid 101)" in text
    assert ", 4000 ms " in text
    assert "serial 1f until 2026-08-12 12:00Z; serial 0abc until" in text
    assert "more" not in text


@pytest.mark.parametrize(("count", "more"), [(3, "and 1 more"), (5, "and 3 more")])
async def test_of_many_certificates_the_log_names_two(stage: ExecutorScene, time: Time, count: int, more: str) -> None:
    stage.serve("a", *(group(f"/c/{number}.crt", leaf(number)) for number in range(1, count + 1)))
    text = await sentence(stage)
    assert text.count("serial") == 2
    assert text.endswith(more)


async def test_an_adopted_epoch_has_no_duration(stage: ExecutorScene, time: Time) -> None:
    stage.serve("a").adopted = True
    text = await sentence(stage)
    assert "adopted" in text
    assert " ms" not in text
    assert ";" not in text
