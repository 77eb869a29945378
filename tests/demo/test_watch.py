import asyncio
import errno
import json
import time
from pathlib import Path

import pytest

from agent.demo import watch as module
from agent.demo.journal import Epoch
from agent.demo.results import Rotation
from agent.demo.watch import Event, Watch
from tests.demo.places import Place

PATIENCE = 10.0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def events() -> list[Event]:
    return []


def watching(place: Place, events: list[Event]) -> Watch:
    return Watch(place.as_environment(), events.append)


def line(**changes: object) -> bytes:
    usual: dict[str, object] = {
        "served": 5,
        "connections": 2,
        "longest": 0.1,
        "deepest": None,
        "serials": {},
        "failures": [],
    }
    return json.dumps({**usual, **changes}).encode() + b"\n"


def stream(*parts: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    for part in parts:
        reader.feed_data(part)
    reader.feed_eof()
    return reader


async def test_at_first_nothing_is_known(place: Place, events: list[Event]) -> None:
    watch = watching(place, events)
    assert (watch.epochs, watch.score.served, events) == ([], 0, [])
    watch.look()
    assert (watch.epochs, events) == ([], [])


async def test_a_look_reads_the_state_and_what_is_new_in_the_log(place: Place, events: list[Event]) -> None:
    watch = watching(place, events)
    place.writes_state((7, "serving", 42), (6, "draining", 41))
    place.logs("epoch.serving", "epoch 7 (pid 42) serves; serial 00ab12")
    place.logs("epoch.starting", "epoch 8 starts")
    place.logs("certificate.refused", "cannot use /etc/tls.key: no", "WARN")
    for _ in range(2):
        watch.look()
    assert watch.epochs == [Epoch(6, "draining", 41), Epoch(7, "serving", 42)]
    assert ["ab12" in events[0].text, "tls.key" in events[1].text, len(events)] == [True, True, 2]
    assert {number: (life.state, life.serial) for number, life in watch.timeline.lives.items()} == {
        6: ("dead", ""), 7: ("serving", "ab12"),
    }  # fmt: skip


async def test_only_an_epoch_that_serves_has_the_serial(place: Place, events: list[Event]) -> None:
    watch = watching(place, events)
    place.writes_state((7, "serving", 42))
    place.logs("certificate.renewed", "epoch 7 had serial 00ab12")
    watch.look()
    assert watch.timeline.lives[7].serial == ""


async def test_an_event_of_our_own_happens_now(
    place: Place, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    watching(place, events).tell("hello")
    assert events == [Event(5.0, "hello")]


# Reports of the clients


async def test_reports_are_followed_to_their_end(place: Place, events: list[Event]) -> None:
    watch = watching(place, events)
    watch.score.rotations = [Rotation("ab12cd34", 1.0), Rotation("ef56", 2.0)]
    place.writes_state((7, "serving", 42))
    serials = {"ab12cd34": [1.25, 1.5]}
    await watch.follow(stream(line(), line(served=9, serials=serials), line(served=12, serials=serials)))
    assert (watch.score.served, watch.epochs) == (12, [Epoch(7, "serving", 42)])
    assert [("ab12cd" in each.text, "250 ms" in each.text) for each in events] == [(True, True)]


@pytest.mark.parametrize("parts", [[], [line()[:20]], [line(), line(served=9)[:-1]]])
async def test_half_a_line_of_clients_that_died_is_ignored(
    parts: list[bytes], place: Place, events: list[Event]
) -> None:
    watch = watching(place, events)
    await watch.follow(stream(*parts))
    assert watch.score.served == (5 if len(parts) > 1 else 0)


# Waiting


async def test_what_holds_already_is_not_waited_for(place: Place, events: list[Event]) -> None:
    await watching(place, events).until(lambda: True, 0.0)


async def test_every_look_asks_again(place: Place, events: list[Event]) -> None:
    watch = watching(place, events)
    asked: list[int] = []

    def holds() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    waiting = asyncio.create_task(watch.until(holds, PATIENCE))
    for expected in (1, 2):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (len(asked), waiting.done()) == (expected, False)
        watch.look()
    await waiting
    assert len(asked) == 3


async def test_what_never_holds_is_waited_for_until_the_timeout(place: Place, events: list[Event]) -> None:
    began = time.monotonic()
    await watching(place, events).until(lambda: False, 0.01)
    assert time.monotonic() - began >= 0.01


# The kernel's news


async def test_a_change_of_the_state_or_the_log_is_noticed(
    place: Place, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watching(place, events)
    watch.start()
    try:
        waiting = asyncio.create_task(watch.until(lambda: bool(watch.epochs), PATIENCE))
        await asyncio.sleep(0)
        place.writes_state((7, "serving", 42))
        await waiting
        waiting = asyncio.create_task(watch.until(lambda: bool(events), PATIENCE))
        await asyncio.sleep(0)
        place.logs("service.down", "epoch 7 is dead", "ERROR")
        await waiting
        assert "epoch 7" in events[0].text
        looks: list[float] = []
        monkeypatch.setattr(watch, "look", lambda: looks.append(0.0))
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(looks) < 10, "what was read is not announced again"
    finally:
        watch.close()
    watch.close()


async def test_without_inotify_it_still_looks_when_it_is_asked(
    place: Place, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module, "Inotify", fail)
    watch = watching(place, events)
    watch.start()
    place.writes_state((7, "serving", 42))
    watch.look()
    assert watch.epochs == [Epoch(7, "serving", 42)]
    watch.close()
