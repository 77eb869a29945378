import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.core import events as on
from agent.core.errors import BadInput, MachineError
from agent.core.policy import Policy
from agent.host.limits import WAITING_SIGNALS
from agent.host.log import log_event
from agent.host.memory import Footprint, Free
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.inputs.loader import LoadResult
from agent.processes.memory_check import MemoryCheck
from agent.processes.state_file import StateFile
from agent.status.actions import OperationResult, Progress, Timeline
from agent.status.model import Status
from agent.supervisor.operations import Operations
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import NOW, TODAY, Process, Scene, logged, settled, texts

STATUS = Status(TODAY, "1.2.3", 1, TODAY, ready=False, reason="", sentence="", epoch=None)
MIB = 1 << 20


class Desk(Scene):
    """A scene whose operator has wishes; `trial` is the result of the next dry run."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.stops: list[str] = []
        self.free = 1000 * MIB
        self.trial: tuple[int, str] | MachineError = (0, "the new program can take over epoch 1\n")
        self.trials = 0
        self.measured: list[int] = []
        state = cast("StateFile", SimpleNamespace(last={"epochs": []}))
        self.operations = Operations(
            self.service,
            state,
            self.posted.append,
            lambda: STATUS,
            self._stop,
            memory_check=MemoryCheck(lambda: Free(self.free, "memory.max"), self._footprint),
            dry_run=self._dry_run,
        )

    def _stop(self, who: str, *, now: bool = False) -> None:
        self.stops.append(f"{who}, now" if now else who)

    def _footprint(self, pid: int) -> Footprint:
        self.measured.append(pid)
        return Footprint(80 * MIB, 80 * MIB, 0, 0)

    async def _dry_run(self) -> tuple[int, str]:
        self.trials += 1
        if isinstance(self.trial, MachineError):
            raise self.trial
        return self.trial


@pytest.fixture
def desk(time: Time) -> Desk:
    return Desk()


async def items(timeline: Timeline) -> list[Progress | OperationResult]:
    """Return all of it."""
    return [item async for item in timeline]


class Restart:
    """A restart that runs: what it has yielded, and what it has asked for."""

    def __init__(self, desk: Desk, *, binary: bool = False, force: bool = False, now: bool = False) -> None:
        self.items: list[Progress | OperationResult] = []
        self._desk = desk
        self._timeline = desk.operations.restart(binary=binary, force=force, now=now)
        self.task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async for item in self._timeline:
            self.items.append(item)

    async def asked(self) -> on.RestartAsked:
        """Wait until a new epoch is asked for."""
        await settled(lambda: self._desk.posted)
        (event,) = self._desk.posted
        assert isinstance(event, on.RestartAsked)
        await asyncio.sleep(0)
        return event

    async def result(self) -> OperationResult:
        """Wait for its end."""
        await settled(self.task.done)
        last = self.items[-1]
        assert isinstance(last, OperationResult)
        return last

    async def goes_on(self) -> None:
        """See that it has not ended, and end it."""
        for _ in range(10):
            await asyncio.sleep(0)
        assert not self.task.done()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    @property
    def told(self) -> list[str]:
        """The texts of its progress."""
        return [item.text for item in self.items if isinstance(item, Progress)]


def serves(epoch: int, level: int = logging.INFO) -> None:
    log_event(level, "epoch.serving", f"epoch {epoch} serves", epoch=epoch)


def good(desk: Desk, name: str = "a", *refused: str) -> None:
    """Let the next load give the revision `name`."""
    desk.inputs.result = LoadResult(desk.serve(name).loaded, refused=refused)


# Restart


async def test_a_restart_reads_the_disk_forgives_and_asks_for_an_epoch(desk: Desk, time: Time) -> None:
    good(desk)
    time.leap(3)
    restart = Restart(desk)
    assert await restart.asked() == on.RestartAsked(at=NOW + 3, now=False)
    assert desk.inputs.calls == [("forgive",), ("load",)]
    assert desk.inputs.loader.programs.loaded == 0
    await restart.goes_on()


async def test_a_restart_ends_when_its_epoch_serves(desk: Desk, time: Time) -> None:
    good(desk)
    restart = Restart(desk)
    await restart.asked()
    time.leap(1.5)
    serves(2)
    assert await restart.result() == OperationResult("serving", 2)
    assert restart.items == [Progress(1.5, "epoch 2 serves"), OperationResult("serving", 2)]


async def test_what_is_logged_meanwhile_is_progress_but_for_details(desk: Desk, time: Time) -> None:
    good(desk)
    restart = Restart(desk)
    await restart.asked()
    log_event(logging.DEBUG, "epoch.starting", "a detail")
    log_event(logging.INFO, "epoch.starting", "epoch 2 starts")
    log_event(logging.WARNING, "candidate.waits", "it waits")
    serves(2)
    await restart.result()
    assert restart.told == ["epoch 2 starts", "it waits", "epoch 2 serves"]


async def test_what_was_logged_before_it_asked_is_no_progress(desk: Desk, time: Time) -> None:
    good(desk)
    restart = Restart(desk)
    serves(2)
    await restart.asked()
    assert restart.told == []
    await restart.goes_on()


async def test_an_epoch_from_before_is_not_its_result(desk: Desk, time: Time) -> None:
    good(desk)
    restart = Restart(desk)
    await restart.asked()
    serves(1)
    await restart.goes_on()
    assert restart.told == ["epoch 1 serves"]


async def test_an_epoch_of_an_older_revision_is_not_its_result(desk: Desk, time: Time) -> None:
    good(desk, "new")
    desk.begin("old")
    restart = Restart(desk)
    await restart.asked()
    serves(2)
    await restart.goes_on()


async def test_a_candidate_of_the_wanted_revision_is_its_result(desk: Desk, time: Time) -> None:
    desk.serve("a")
    desk.inputs.result = LoadResult(desk.begin("b").loaded)
    restart = Restart(desk)
    await restart.asked()
    serves(2)
    assert await restart.result() == OperationResult("serving", 2)


async def test_an_event_that_names_no_epoch_does_not_end_it(desk: Desk, time: Time) -> None:
    good(desk)
    restart = Restart(desk)
    await restart.asked()
    log_event(logging.INFO, "epoch.serving", "something serves")
    await restart.goes_on()


@pytest.mark.parametrize(
    ("event", "word"), [("revision.refused", "refused"), ("start.retry", "failed"), ("agent.gone", "stopped")]
)
async def test_a_restart_that_fails_says_how(desk: Desk, time: Time, event: str, word: str) -> None:
    good(desk)
    restart = Restart(desk)
    await restart.asked()
    log_event(logging.ERROR, event, "no such cluster")
    assert await restart.result() == OperationResult(word, None, "no such cluster")


async def test_without_any_revision_the_restart_waits_for_one(desk: Desk, time: Time) -> None:
    restart = Restart(desk)
    await restart.asked()
    serves(1)
    assert await restart.result() == OperationResult("serving", 1)


async def test_nothing_listens_to_the_log_after_it(desk: Desk, time: Time) -> None:
    good(desk)
    restart = Restart(desk)
    await restart.asked()
    serves(2)
    await restart.result()
    serves(3)
    assert restart.told == ["epoch 2 serves"]


async def test_a_restart_without_drains_is_asked_for_as_such(desk: Desk, time: Time) -> None:
    good(desk)
    restart = Restart(desk, now=True)
    assert (await restart.asked()).now is True
    await restart.goes_on()


async def test_unusable_files_refuse_a_restart(desk: Desk, time: Time) -> None:
    good(desk, "a", "cannot use /a", "cannot use /b")
    restart = Restart(desk)
    assert await restart.result() == OperationResult("refused", None, "cannot use /a; cannot use /b")
    assert (desk.posted, len(restart.items)) == ([], 1)


async def test_unusable_files_do_not_refuse_a_forced_restart(desk: Desk, time: Time) -> None:
    good(desk, "a", "cannot use /a")
    restart = Restart(desk, force=True)
    await restart.asked()
    await restart.goes_on()


async def test_an_agent_that_stops_refuses_a_restart(desk: Desk, time: Time) -> None:
    good(desk)
    desk.tell(on.StopAsked(at=NOW))
    (result,) = await items(desk.operations.restart(binary=True, force=True, now=True))
    assert isinstance(result, OperationResult)
    assert (result.word, "stopping" in result.reason) == ("refused", True)
    assert (desk.inputs.calls, desk.posted) == ([], [])


async def test_a_restart_with_the_binary_loads_the_program(desk: Desk, time: Time) -> None:
    good(desk)
    restart = Restart(desk, binary=True)
    await restart.asked()
    assert desk.inputs.loader.programs.loaded == 1
    await restart.goes_on()


async def test_an_unusable_program_refuses_a_restart(desk: Desk, time: Time) -> None:
    good(desk)
    desk.inputs.loader.programs.error = BadInput("cannot use /opt/proxy")
    restart = Restart(desk, binary=True, force=True)
    assert await restart.result() == OperationResult("refused", None, "cannot use /opt/proxy")
    assert (desk.inputs.calls, desk.posted) == ([], [])


@pytest.mark.parametrize(
    ("now", "waited", "told"),
    [
        (False, 10, ["rotations are paused for 90 s more"]),
        (False, 99.5, ["rotations are paused for 0 s more"]),
        (True, 10, []),
    ],
)
async def test_a_pause_is_told_at_once_unless_the_restart_ignores_it(
    desk: Desk, time: Time, now: bool, waited: float, told: list[str]
) -> None:
    good(desk)
    desk.tell(on.PauseAsked(at=NOW, until=NOW + 100))
    time.leap(waited)
    restart = Restart(desk, now=now)
    await restart.asked()
    assert [text for text in restart.told if "paused" in text] == told
    await restart.goes_on()


async def test_a_pause_that_is_over_is_not_told(desk: Desk, time: Time) -> None:
    good(desk)
    desk.tell(on.PauseAsked(at=NOW, until=NOW + 100))
    time.leap(100)
    restart = Restart(desk)
    await restart.asked()
    assert restart.told == []
    await restart.goes_on()


async def test_the_time_of_a_restart_begins_with_the_request(desk: Desk, time: Time) -> None:
    good(desk)
    desk.tell(on.PauseAsked(at=NOW, until=NOW + 100))

    async def slow() -> LoadResult:
        time.leap(4)
        return desk.inputs.result

    desk.inputs.load = slow  # type: ignore[method-assign]
    restart = Restart(desk)
    await restart.asked()
    await settled(lambda: restart.items)
    assert restart.items == [Progress(4, "rotations are paused for 96 s more")]
    await restart.goes_on()


# Upgrade


def blocked() -> set[int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


async def test_an_upgrade_that_passes_the_check_executes_the_program(desk: Desk, time: Time) -> None:
    desk.trial = (0, "first\nthe new program can take over epoch 1\n\n")
    with logged() as events:
        found = await items(desk.operations.upgrade())
    assert found == [Progress(0, "the new program can take over epoch 1"), OperationResult("executing")]
    assert (desk.operations.executes, desk.operations.leaves) == (True, True)
    assert desk.posted == [on.TimePassed(at=NOW)]
    assert set(WAITING_SIGNALS) <= blocked()
    (text,) = texts(events, "agent.leaving")
    assert text.startswith("upgrade: ")
    assert "program on disk" in text


async def test_the_client_hears_of_the_execution_before_it_begins(desk: Desk, time: Time) -> None:
    timeline = desk.operations.upgrade()
    await anext(timeline)
    assert await anext(timeline) == OperationResult("executing")
    assert not desk.operations.leaves
    assert [item async for item in timeline] == []
    assert desk.operations.leaves


async def refused(desk: Desk) -> str:
    """Return why an upgrade is refused; it has changed nothing."""
    (result,) = await items(desk.operations.upgrade())
    assert isinstance(result, OperationResult)
    assert result.word == "refused"
    assert (desk.operations.executes, desk.operations.leaves, desk.posted) == (False, False, [])
    assert not set(WAITING_SIGNALS) & blocked()
    return result.reason


async def test_an_upgrade_needs_memory_for_a_second_agent(desk: Desk, time: Time) -> None:
    desk.free = 10 * MIB
    reason = await refused(desk)
    assert "10 MiB" in reason
    assert "memory.max" in reason
    assert "agent" in reason
    assert (desk.trials, desk.measured) == (0, [os.getpid()])


async def test_a_program_that_cannot_take_over_is_refused_by_its_last_line(desk: Desk, time: Time) -> None:
    desk.trial = (1, "traceback\ncannot adopt epoch 1\n  \n")
    reason = await refused(desk)
    assert reason.endswith(": cannot adopt epoch 1")


@pytest.mark.parametrize("code", [1, -9, 78])
async def test_a_program_that_says_nothing_is_refused_too(desk: Desk, time: Time, code: int) -> None:
    desk.trial = (code, " \n")
    assert "no message" in await refused(desk)


async def test_a_program_that_does_not_end_is_refused(desk: Desk, time: Time) -> None:
    desk.trial = MachineError("cannot wait for agent: it did not end within 30 s")
    assert await refused(desk) == "cannot wait for agent: it did not end within 30 s"


def test_an_agent_that_leaves_executes_nothing(desk: Desk) -> None:
    with logged() as events:
        desk.operations.leave("SIGUSR2")
    assert (desk.operations.executes, desk.operations.leaves) == (False, True)
    assert desk.posted == [on.TimePassed(at=NOW)]
    assert set(WAITING_SIGNALS) <= blocked()
    (event,) = events
    assert (event.level, event.name) == (logging.INFO, "agent.leaving")
    assert event.text.startswith("SIGUSR2: ")
    assert "program on disk" not in event.text


def test_an_agent_neither_leaves_nor_executes_at_first(desk: Desk) -> None:
    assert not desk.operations.leaves
    assert not desk.operations.executes


# Shutdown


async def test_a_drain_ends_when_every_epoch_has_exited(desk: Desk, time: Time) -> None:
    desk.serve("a")
    drain = asyncio.create_task(desk.operations.drain())
    await settled(lambda: desk.posted)
    assert desk.posted == [on.DrainAsked(at=NOW)]
    desk.operations.note_readiness("no epoch serves")
    desk.tell(on.DrainAsked(at=NOW))
    desk.operations.note_readiness("the agent is stopping")
    await asyncio.sleep(0)
    assert not drain.done()
    desk.exits(1)
    desk.operations.note_readiness("the agent is stopping")
    assert await drain == "drained"


async def test_epochs_that_exit_without_a_drain_end_none(desk: Desk, time: Time) -> None:
    drain = asyncio.create_task(desk.operations.drain())
    await asyncio.sleep(0)
    desk.operations.note_readiness("no epoch serves")
    await asyncio.sleep(0)
    assert not drain.done()
    drain.cancel()


async def test_concurrent_drains_end_together(desk: Desk, time: Time) -> None:
    drains = [asyncio.create_task(desk.operations.drain()) for _ in range(3)]
    await asyncio.sleep(0)
    desk.tell(on.DrainAsked(at=NOW))
    desk.operations.note_readiness("the agent is stopping")
    assert await asyncio.gather(*drains, desk.operations.drain()) == ["drained"] * 4


async def test_a_stop_is_one_of_an_operator(desk: Desk, time: Time) -> None:
    await desk.operations.stop()
    await desk.operations.stop(now=True)
    assert desk.stops == ["stop requested", "stop requested, now"]


# Pauses


async def test_a_pause_ends_after_its_time(desk: Desk, time: Time) -> None:
    time.leap(5)
    await desk.operations.pause(60.5)
    assert desk.posted == [on.PauseAsked(at=NOW + 5, until=NOW + 65.5)]


async def test_to_resume_is_to_pause_until_now(desk: Desk, time: Time) -> None:
    time.leap(5)
    await desk.operations.resume()
    assert desk.posted == [on.PauseAsked(at=NOW + 5, until=NOW + 5)]


# Queries


async def test_an_agent_that_has_just_begun_is_not_ready(desk: Desk, time: Time) -> None:
    assert "no epoch serves" in await desk.operations.ready(0)


async def test_who_waits_hears_of_readiness_at_once(desk: Desk, time: Time) -> None:
    waiting = asyncio.create_task(desk.operations.ready(60))
    await asyncio.sleep(0)
    desk.operations.note_readiness("")
    assert await waiting == ""
    assert time.now == NOW


async def test_who_waits_too_long_hears_the_newest_reason(desk: Desk, time: Time) -> None:
    asyncio.get_running_loop().call_later(59, desk.operations.note_readiness, "no certificate")
    assert await desk.operations.ready(60) == "no certificate"
    assert time.now == NOW + 60


async def test_an_agent_may_cease_to_be_ready(desk: Desk, time: Time) -> None:
    desk.operations.note_readiness("")
    assert await desk.operations.ready(0.1) == ""
    assert time.now == NOW
    desk.operations.note_readiness("stopping")
    assert await desk.operations.ready(0.1) == "stopping"
    assert time.now == NOW + 0.1


async def test_the_state_is_that_of_the_state_file(desk: Desk, time: Time) -> None:
    assert await desk.operations.state() == {"epochs": []}


def test_the_overview_is_the_status(desk: Desk) -> None:
    assert desk.operations.overview() is STATUS


# Requests to an admin interface


@asynccontextmanager
async def console(process: Process, directory: Path) -> AsyncIterator[None]:
    """An admin interface that repeats what it is asked."""

    async def answer(request: Request) -> Response:
        return Response(200, f"{process.number}: {request.method} {request.target}".encode())

    process.admin.place = directory / f"admin{process.number}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(process.admin.place))
    server = Server(answer)
    await server.start(listener)
    try:
        yield
    finally:
        await server.close()


async def answer(desk: Desk, epoch: int | None, method: str = "GET", target: str = "/stats") -> tuple[int, str]:
    response = await desk.operations.request(method, target, epoch)
    body = response.body
    whole = body if isinstance(body, bytes) else b"".join([part async for part in body])
    return response.status, whole.decode()


@pytest.mark.parametrize(("epoch", "number"), [(None, 2), (1, 1), (2, 2)])
async def test_a_request_goes_to_the_epoch_it_names_or_to_the_one_that_serves(
    tmp_path: Path, epoch: int | None, number: int
) -> None:
    desk = Desk()
    async with console(desk.serve("a"), tmp_path), console(desk.serve("b"), tmp_path):
        assert await answer(desk, epoch, "POST", "/logging?level=debug") == (
            200,
            f"{number}: POST /logging?level=debug",
        )


async def test_a_request_to_an_epoch_that_is_not_there_names_those_that_are(desk: Desk, time: Time) -> None:
    desk.serve("a")
    desk.serve("b")
    desk.processes.epochs = dict(reversed(desk.processes.epochs.items()))
    status, text = await answer(desk, 7)
    assert status == 404
    assert "epoch 7" in text
    assert "1, 2" in text


async def test_while_nothing_serves_a_request_has_no_goal(desk: Desk, time: Time) -> None:
    status, text = await answer(desk, None)
    assert status == 404
    assert "no epoch serves" in text
    assert "none" in text
