import asyncio
import io
import time

import pytest
from rich.console import Console

from agent.demo import screen as module
from agent.demo.digits import big
from agent.demo.environment import Environment
from agent.demo.journal import CANDIDATE, DRAINING, SERVING, Epoch
from agent.demo.results import Kill, Rotation
from agent.demo.screen import Picture, Screen
from agent.demo.settings import Settings
from agent.demo.watch import Event, Watch

SETTINGS = Settings("envoy", 2.0, 30.0)
SIZES = [(80, 24), (60, 24), (100, 40), (200, 60), (40, 12), (20, 5)]


@pytest.fixture
def watch() -> Watch:
    """Return a watch with many events."""
    watch, now = Watch(Environment(SETTINGS), print), time.monotonic()
    for ago, states in ((9, {11: SERVING}), (5, {11: SERVING, 12: CANDIDATE}), (4, {11: DRAINING, 12: SERVING})):
        watch.timeline.observe([Epoch(number, state, 1) for number, state in states.items()], now - ago)
    watch.timeline.serves(12, "4a3f91aabb")
    score = watch.score
    score.served, score.connections, score.longest, score.deepest = 1_234_567, 99, 0.412, 41
    score.last_serial, score.cut, score.kills = "4a3f91aabb", 12, [Kill(3, 1.0, 1.1)]
    score.rotations = [Rotation("a", 0.0, seen) for seen in (0.09, 0.08, 0.15)]
    return watch


def events(count: int) -> list[Event]:
    now = time.monotonic()
    return [
        Event(now, f"event {number}: the certificate on disk is garbage, serial 4a still served")
        for number in range(count)
    ]


def frame(watch: Watch, width: int, height: int, happened: list[Event] | None = None) -> list[str]:
    """Return the lines on a terminal of this size."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, no_color=True)
    picture = Picture(SETTINGS, watch, happened or [])
    picture.advance(time.monotonic() - 12.0)
    return ["".join(segment.text for segment in line).rstrip() for line in console.render_lines(picture)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_frame_fits_every_terminal(watch: Watch, width: int, height: int) -> None:
    lines = frame(watch, width, height, events(200))
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 24)])
def test_everything_that_matters_is_on_a_small_terminal(watch: Watch, width: int, height: int) -> None:
    text = "\n".join(frame(watch, width, height, events(3)))
    for shown in (
        "failed",
        "1,234,567",
        "412 ms",
        "4a3f91",
        "41",
        "90 ms",
        "12 of 30 s",
        "12 cut by 1 kill",
        "event 2",
    ):
        assert shown in text
    for line in big(0):
        assert line in text
    assert "…" not in text


@pytest.mark.parametrize("width", [60, 80])
def test_what_is_below_stays_where_it_is_while_things_happen(watch: Watch, width: int) -> None:
    fresh = Watch(Environment(SETTINGS), print)
    before, after = frame(fresh, width, 24), frame(watch, width, 24, events(2))
    for heading in ("epochs", "write →", "deepest accept queue"):
        assert _row_of(heading, before) == _row_of(heading, after)


def _row_of(heading: str, lines: list[str]) -> int:
    return next(number for number, line in enumerate(lines) if heading in line)


@pytest.mark.parametrize("height", [23, 24])
def test_the_newest_events_are_the_ones_shown(watch: Watch, height: int) -> None:
    lines = frame(watch, 60, height, events(50))
    text = "\n".join(lines)
    assert "event 49:" in text
    assert lines[-1].endswith("served"), "to its last word"
    assert "event 0:" not in text


def test_epochs_are_drawn_in_the_order_of_their_age(watch: Watch) -> None:
    lines = frame(watch, 80, 24)
    newest = _row_of("  12  4a3f91", lines)
    assert "░█" in lines[newest]
    assert "█▒" in lines[newest + 1]


def test_large_figures() -> None:
    assert big(0) == ["█▀█", "█ █", "▀▀▀"]
    assert big(17) == ["▀█  ▀▀█", " █    █", "▀▀▀   ▀"]
    assert big(5000) == big(999)
    assert all(len({len(line) for line in big(number)}) == 1 for number in range(100))


# The live screen


async def test_frames_are_drawn_until_the_screen_is_closed_and_the_terminal_restored(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, looks = io.StringIO(), list[float]()
    monkeypatch.setattr(module, "_FRAME_INTERVAL", 0.0)
    monkeypatch.setattr(watch, "look", lambda: looks.append(0.0))
    screen = Screen()
    screen._console = Console(file=out, width=100, height=40, force_terminal=True, color_system=None)
    screen.close()
    screen.event(Event(time.monotonic(), "something happened"))
    drawing = asyncio.create_task(screen.draw(SETTINGS, watch))
    for _ in range(3):
        await asyncio.sleep(0)
    screen.began(time.monotonic())
    for _ in range(3):
        await asyncio.sleep(0)
    drawing.cancel()
    await asyncio.gather(drawing, return_exceptions=True)
    screen.close()
    screen.close()
    said = out.getvalue()
    assert len(looks) >= 4
    assert (said.count("\x1b[?1049h"), said.count("\x1b[?1049l")) == (1, 1)
    assert said.index("starting") < said.index("0 of 30 s") < said.index("\x1b[?1049l")
    assert "something happened" in said


@pytest.mark.parametrize(("good", "colour"), [(True, "\x1b[1;32m"), (False, "\x1b[1;31m")])
def test_the_first_line_of_the_summary_is_the_verdict(good: bool, colour: str) -> None:
    out = io.StringIO()
    screen = Screen()
    screen._console = Console(file=out, width=100, force_terminal=True, color_system="standard")
    screen.say(["the [bold] first", "the second"], good=good)
    assert out.getvalue() == f"{colour}the [bold] first\x1b[0m\nthe second\n"


def test_the_rate_is_counted_over_a_second(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch.score.served = 0
    picture = Picture(SETTINGS, watch, [])
    rates = []
    for at, served in ((100.9, 900), (101.0, 1000), (101.5, 5000), (103.0, 1400)):
        now[0], watch.score.served = at, served
        picture.advance(100.0)
        rates.append(picture._rate)
    assert rates == [0.0, 1000.0, 1000.0, 200.0]
