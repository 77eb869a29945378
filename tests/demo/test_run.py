"""The order of a demonstration, over fakes of its environment and its clock."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from agent.core.errors import MachineError
from agent.demo import run as module
from agent.demo.results import Rotation
from agent.demo.run import Run
from agent.demo.settings import Settings
from agent.demo.watch import Event, Watch
from tests.demo.places import Place

FOREVER = 3600.0


@dataclass
class View:
    """Keeps what it is to display."""

    said: list[tuple[list[str], bool]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    closed: int = 0
    breaks: bool = False

    def event(self, event: Event) -> None:
        self.events.append(event.text)

    def began(self, at: float) -> None:
        self.begun.append(at)

    async def draw(self, _: Settings, __: Watch) -> None:
        if self.breaks:
            raise ZeroDivisionError
        await asyncio.sleep(FOREVER)

    def close(self) -> None:
        self.closed += 1

    def say(self, lines: Sequence[str], *, good: bool) -> None:
        self.said.append(([*lines], good))


class Process:
    """A process that ends when a test says so."""

    def __init__(self) -> None:
        self.ending: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self.ending)


class Scene(Place):
    """An environment whose clients are a stream that a test feeds."""

    def begin(self) -> None:
        self.agent, self.origin, self.reports = Process(), Process(), asyncio.StreamReader()
        self.ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ended = True

    async def start_clients(self) -> asyncio.StreamReader:
        return self.reports

    def stop_clients(self) -> None:
        super().stop_clients()
        if not self.reports.at_eof():
            self.reports.feed_eof()


class Clock:
    """Time that only passes while somebody sleeps until a moment."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    async def sleep_until(self, moment: float) -> None:
        self.slept.append(moment)
        self.now = max(self.now, moment)
        await asyncio.sleep(0)


@dataclass
class Fault:
    """A fault that is written down."""

    name: str
    rotates: bool
    done: list[str]
    rotate: Callable[[], Rotation]

    async def do(self) -> None:
        self.done.append(self.name)
        if self.rotates:
            self.rotate()


@dataclass
class FakeScene:
    """A demonstration that is about to begin."""

    scene: Scene
    view: View
    clock: Clock
    done: list[str]
    faults: list[tuple[str, bool]] = field(default_factory=lambda: [("kill", False), ("garbage", True)])
    pauses: list[float] = field(default_factory=list)

    def run(self, every: float = 2.0, length: float = 8.0) -> Run:
        return Run(Settings("p", every, length), self.view)

    def make_faults(self, watch: Watch, authority: object, rotate: Callable[[], Rotation], pause: float) -> object:
        assert authority is watch.scene.authority
        self.pauses.append(pause)
        turn = iter(range(1000))

        def following() -> Fault:
            name, rotates = self.faults[next(turn) % len(self.faults)]
            return Fault(name, rotates, self.done, rotate)

        return SimpleNamespace(next=following)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeScene:
    made = FakeScene(Scene(tmp_path), View(), Clock(), [])
    monkeypatch.setattr(module, "Environment", lambda _: made.scene)
    monkeypatch.setattr(module, "Faults", made.make_faults)
    monkeypatch.setattr(module, "_sleep_until", made.clock.sleep_until)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.clock.now))
    monkeypatch.setattr(module, "write_pair", lambda *_: made.done.append("rotate"))
    monkeypatch.setattr(Watch, "start", lambda _: None)
    return made


def proving(stage: FakeScene, monkeypatch: pytest.MonkeyPatch, *, holds: bool = True) -> list[float]:
    """Let what is waited for hold; return the timeouts."""
    waits: list[float] = []

    async def until(watch: Watch, condition: Callable[[], bool], timeout: float) -> None:
        waits.append(timeout)
        if holds and not condition():
            watch.score.served, watch.score.deepest = 5000, 3
            for rotation in watch.score.rotations:
                rotation.seen = rotation.written + 0.1
            watch.look()
        await asyncio.sleep(0)

    monkeypatch.setattr(Watch, "until", until)
    return waits


async def serving(stage: FakeScene) -> None:
    stage.scene.begin()
    stage.scene.writes_state((1, "serving", 42))


async def test_it_rotates_at_every_turn_and_breaks_something_at_each_second_one(
    stage: FakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = proving(stage, monkeypatch)
    await serving(stage)
    assert await stage.run().run()
    assert stage.done == ["rotate", "rotate", "kill", "rotate", "garbage", "rotate"]
    assert stage.clock.slept == [100.0, 102.0, 103.0, 104.0, 106.0, 108.0]
    assert (stage.view.begun, stage.pauses) == ([100.0], [1.0])
    assert waits == [60.0, 60.0, 5.0, 5.0, 60.0]
    ((lines, good),) = stage.view.said
    assert (good, "5,000" in lines[0]) == (True, True)
    assert (stage.scene.stopped, stage.scene.ended, stage.view.closed) == (1, True, 1)
    assert len(stage.view.events) == 1


@pytest.mark.parametrize(("every", "length", "turns"), [(2.0, 1.0, 1), (2.0, 2.9, 1), (2.0, 3.1, 2), (1.0, 5.0, 5)])
async def test_there_is_at_least_one_turn_and_else_as_many_as_fit(
    every: float, length: float, turns: int, stage: FakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    proving(stage, monkeypatch)
    stage.faults = [("garbage", True)]
    await serving(stage)
    assert await stage.run(every, length).run()
    assert stage.done.count("rotate") == turns
    assert stage.clock.slept[-1] == 100.0 + length


async def test_a_machine_that_is_too_slow_ends_it_early(stage: FakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    proving(stage, monkeypatch)
    await serving(stage)

    async def slowly(moment: float) -> None:
        stage.clock.now = max(stage.clock.now, moment) + 6.0
        await asyncio.sleep(0)

    monkeypatch.setattr(module, "_sleep_until", slowly)
    await stage.run(2.0, 8.0).run()
    assert stage.done.count("rotate") < 4


async def test_what_proves_nothing_is_not_good(stage: FakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    proving(stage, monkeypatch, holds=False)
    await serving(stage)
    run = stage.run()
    monkeypatch.setattr(Run, "_begins", lambda *_: asyncio.sleep(0))
    assert not await run.run()
    assert stage.view.said[0][1] is False


async def test_it_does_not_begin_while_nothing_serves(stage: FakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    proving(stage, monkeypatch, holds=False)
    stage.scene.begin()
    for number in range(20):
        stage.scene.logs("x", f"line {number}", "ERROR")
    with pytest.raises(MachineError, match="no epoch serves") as caught:
        await stage.run().run()
    assert [f"line {number}" in str(caught.value) for number in (7, 8, 19)] == [False, True, True]
    assert (stage.done, stage.view.said, stage.view.closed, stage.scene.ended) == ([], [], 1, True)


@pytest.mark.parametrize("name", ["agent", "origin"])
async def test_a_process_that_ends_too_early_is_named_with_its_code(
    name: str, stage: FakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serving(stage)
    never_ending(stage, monkeypatch)
    stage.scene.logs("x", "it broke", "ERROR")
    getattr(stage.scene, name).ending.set_result(7)
    with pytest.raises(MachineError, match="ended with 7") as caught:
        await stage.run().run()
    assert ("agent" in str(caught.value).partition(" ended")[0]) is (name == "agent")
    assert "it broke" in str(caught.value)
    assert stage.scene.ended


def never_ending(stage: FakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it serve, and the clients be at work for ever."""

    async def until(watch: Watch, condition: Callable[[], bool], _: float) -> None:
        watch.look()
        if not condition():
            await asyncio.sleep(FOREVER)

    monkeypatch.setattr(Watch, "until", until)


async def test_clients_that_end_too_early_are_an_error(stage: FakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    await serving(stage)
    never_ending(stage, monkeypatch)
    stage.scene.reports.feed_eof()
    with pytest.raises(MachineError, match="clients"):
        await stage.run().run()
    assert stage.view.closed == 1


async def test_a_view_that_breaks_is_not_hidden(stage: FakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    await serving(stage)
    never_ending(stage, monkeypatch)
    stage.view.breaks = True
    with pytest.raises(ZeroDivisionError):
        await stage.run().run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_first_signal_ends_it_in_order(
    number: signal.Signals, stage: FakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serving(stage)
    never_ending(stage, monkeypatch)
    running = asyncio.create_task(stage.run().run())
    for _ in range(20):
        await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    assert await running is False
    assert (len(stage.view.said), stage.scene.stopped, stage.scene.ended) == (1, 1, True)


async def test_the_second_signal_cancels_it(stage: FakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    await serving(stage)

    async def stubborn(*_: object) -> None:
        stage.done.append("cleaning")
        await asyncio.sleep(FOREVER)

    monkeypatch.setattr(Scene, "__aexit__", stubborn)
    never_ending(stage, monkeypatch)
    running = asyncio.create_task(stage.run().run())
    for _ in range(20):
        await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGINT)
    await until(lambda: "cleaning" in stage.done)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def until(condition: Callable[[], object]) -> None:
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it does not happen")


# Its parts


async def test_a_turn_is_over_when_a_client_has_seen_its_pair(stage: FakeScene) -> None:
    watch = Watch(stage.scene.as_environment(), lambda _: None)
    turn = module._Turn(watch)
    assert turn.was_seen()
    rotation = turn.rotate()
    assert (rotation.written, watch.score.rotations, stage.done) == (100.0, [rotation], ["rotate"])
    assert not turn.was_seen()
    second = turn.rotate()
    rotation.seen = 101.0
    assert (second.serial != rotation.serial, turn.was_seen()) == (True, False)
    second.seen = 102.0
    assert turn.was_seen()


@pytest.mark.parametrize(
    ("act", "end", "expected"),
    [(0, None, True), (None, 0, False), (ValueError("act"), None, ValueError), (None, ValueError("end"), ValueError)],
)
async def test_an_act_goes_on_until_it_or_an_end_is_reached(act: object, end: object, expected: object) -> None:
    async def lasting(how: object) -> None:
        if how is None:
            await asyncio.sleep(FOREVER)
        if isinstance(how, Exception):
            raise how

    ends: list[asyncio.Task[Any]] = [asyncio.create_task(lasting(each)) for each in (None, end)]
    how: Awaitable[bool] = module._unless(ends, lasting(act))
    if isinstance(expected, bool):
        assert await how is expected
    else:
        with pytest.raises(ValueError, match="act" if isinstance(act, Exception) else "end"):
            await how
    for each in ends:
        each.cancel()
    await asyncio.gather(*ends, return_exceptions=True)


async def test_a_task_that_takes_too_long_is_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(FOREVER))
    await module._within(task, 0.0)
    assert task.cancelled()
    await module._within(asyncio.create_task(asyncio.sleep(0)), FOREVER)
