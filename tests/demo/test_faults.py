import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.demo import faults as module
from agent.demo.authority import CHAIN, KEY, write_pair
from agent.demo.environment import Environment
from agent.demo.faults import (
    BAD_CERTIFICATE,
    BAD_KEY,
    FREEZE,
    KILL,
    KILL_LIMIT,
    KILL_WINDOW,
    KILLED_CANDIDATE,
    Faults,
)
from agent.demo.results import Kill, Rotation
from agent.demo.settings import Settings
from agent.demo.watch import Event, Watch
from tests.demo.places import Place

PERIOD = 6


@pytest.fixture
def watch() -> Watch:
    """Return a watch over a scene that has not begun."""
    return Watch(Environment(Settings("envoy", 2.0, 30.0)), print)


def faults(watch: Watch) -> Faults:
    return Faults(watch, watch.scene.authority, lambda: Rotation("a1", 0.0), 1.0)


def test_faults_come_in_the_same_order_again_and_again(watch: Watch) -> None:
    drawn = faults(watch)
    order = [drawn.next() for _ in range(2 * PERIOD)]
    assert order[:PERIOD] == order[PERIOD:]
    assert len(set(order)) == PERIOD
    assert sum(fault.kills for fault in order[:PERIOD]) == 2


def test_thirty_seconds_at_the_usual_pace_show_every_fault() -> None:
    rotations = 30 // 2
    assert rotations // 2 >= PERIOD


def test_no_more_is_killed_than_the_agent_answers_at_once(watch: Watch) -> None:
    now = time.monotonic()
    watch.score.kills += [Kill(number, now - number) for number in range(KILL_LIMIT)]
    drawn = faults(watch)
    assert not any(drawn.next().kills for _ in range(2 * PERIOD))
    watch.score.kills[-1].struck = now - KILL_WINDOW - 1
    assert any(drawn.next().kills for _ in range(PERIOD))


# What each of them does

GARBAGE_, KILL_, FOREIGN_, FREEZE_, BOTH_, CANDIDATE_ = range(PERIOD)


class Processes:
    """In place of the kernel's: a pidfd is a pipe, which ends with SIGKILL."""

    def __init__(self) -> None:
        self.writing: dict[int, int] = {}
        self.sent: list[signal.Signals] = []
        self.is_gone = False

    def open(self, _: int) -> int:
        if self.is_gone:
            raise ProcessLookupError
        reading, writing = os.pipe()
        self.writing[reading] = writing
        return reading

    def send(self, pidfd: int, number: signal.Signals) -> None:
        self.sent.append(number)
        if number is signal.SIGKILL:
            os.close(self.writing.pop(pidfd))


@dataclass
class Scene:
    """A demonstration at work, in which everything that is waited for happens at once."""

    place: Place
    watch: Watch
    processes: Processes
    faults: Faults
    events: list[str]
    rotations: list[Rotation] = field(default_factory=list)
    happens: Callable[[], None] = lambda: None

    def at(self, number: int) -> "module.Fault":
        return [self.faults.next() for _ in range(number + 1)][-1]

    def has(self, *epochs: tuple[int, str]) -> None:
        self.place.writes_state(*((number, state, os.getpid()) for number, state in epochs))
        self.watch.look()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    place, processes, events = Place(tmp_path), Processes(), list[str]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "pidfd_open", processes.open)
    monkeypatch.setattr(signal, "pidfd_send_signal", processes.send)

    def hear(event: Event) -> None:
        events.append(event.text)

    watch = Watch(place.as_environment(), hear)
    rotations: list[Rotation] = []

    def rotate() -> Rotation:
        rotations.append(Rotation("a1", 0.0))
        made.happens()
        return rotations[-1]

    async def until(_: Watch, condition: Callable[[], bool], __: float) -> None:
        if not condition():
            made.happens()
            watch.look()

    monkeypatch.setattr(Watch, "until", until)
    made = Scene(place, watch, processes, Faults(watch, place.authority, rotate, 0.0), events, rotations)
    write_pair(place.certs, place.authority.issue())
    watch.score.last_serial = "abcdef99"
    yield made
    for writing in processes.writing.values():
        os.close(writing)


async def test_garbage_is_written_and_what_is_still_served_is_told(scene: Scene) -> None:
    key = (scene.place.certs / KEY).read_bytes()
    await scene.at(GARBAGE_).do()
    assert b"BEGIN" not in (scene.place.certs / CHAIN).read_bytes()
    assert (scene.place.certs / KEY).read_bytes() == key
    assert (scene.watch.score.faults, len(scene.events)) == ({BAD_CERTIFICATE: 1}, 1)
    assert ("abcdef" in scene.events[0], "abcdef99" in scene.events[0]) == (True, False)


async def test_a_foreign_key_is_written(scene: Scene) -> None:
    chain, key = ((scene.place.certs / name).read_bytes() for name in (CHAIN, KEY))
    await scene.at(FOREIGN_).do()
    assert (scene.place.certs / CHAIN).read_bytes() == chain
    assert (scene.place.certs / KEY).read_bytes() not in {key, b""}
    assert (scene.watch.score.faults, "abcdef" in scene.events[0]) == ({BAD_KEY: 1}, True)


@pytest.mark.parametrize(("number", "garbage"), [(KILL_, False), (BOTH_, True)])
async def test_the_serving_epoch_is_killed_and_its_end_awaited(number: int, garbage: bool, scene: Scene) -> None:
    scene.has((6, "draining"), (7, "serving"), (8, "candidate"))
    began = time.monotonic()
    await scene.at(number).do()
    (kill,) = scene.watch.score.kills
    assert (kill.epoch, began <= kill.struck <= kill.gone <= time.monotonic()) == (7, True)
    assert scene.processes.sent == [signal.SIGKILL]
    assert scene.watch.score.faults == ({BAD_CERTIFICATE: 1, KILL: 1} if garbage else {KILL: 1})
    assert (len(scene.events), "epoch 7" in scene.events[0]) == (1, True)
    assert (b"BEGIN" not in (scene.place.certs / CHAIN).read_bytes()) is garbage


async def test_where_nothing_serves_nothing_is_killed(scene: Scene) -> None:
    await scene.at(KILL_).do()
    assert (scene.processes.sent, scene.watch.score.kills, scene.events) == ([], [], [])


async def test_a_process_that_is_gone_or_works_elsewhere_is_left_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.has((7, "serving"))
    scene.processes.is_gone = True
    await scene.at(KILL_).do()
    scene.processes.is_gone = False
    monkeypatch.chdir("/")
    await scene.at(KILL_ + PERIOD - 2).do()
    assert (scene.processes.sent, scene.watch.score.faults[KILL]) == ([], 0)


@pytest.mark.parametrize(
    ("number", "name", "sent"),
    [
        (FREEZE_, FREEZE, [signal.SIGSTOP, signal.SIGCONT]),
        (CANDIDATE_, KILLED_CANDIDATE, [signal.SIGKILL]),
    ],
)
async def test_a_new_candidate_is_struck_before_it_serves(
    number: int, name: str, sent: list[signal.Signals], scene: Scene
) -> None:
    scene.has((7, "serving"))
    scene.happens = lambda: scene.has((7, "serving"), (8, "candidate"))
    fault = scene.at(number)
    assert fault.rotates
    await fault.do()
    assert (scene.processes.sent, scene.watch.score.faults) == (sent, {name: 1})
    assert [rotation.hindered for rotation in scene.rotations] == [True]
    assert ["epoch 8" in text for text in scene.events] == [True] * len(sent)
    assert scene.watch.score.kills == []


@pytest.mark.parametrize("number", [FREEZE_, CANDIDATE_])
async def test_an_older_candidate_is_not_the_new_one(number: int, scene: Scene) -> None:
    scene.has((7, "serving"), (8, "candidate"))
    await scene.at(number).do()
    assert (scene.processes.sent, scene.events, len(scene.rotations)) == ([], [], 1)
