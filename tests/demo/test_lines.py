import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.demo import lines as module
from agent.demo.lines import Lines
from agent.demo.settings import Settings
from agent.demo.watch import Event, Watch
from tests.demo.places import Place


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_an_event_is_a_line_with_the_seconds_since_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.event(Event(99.0, "before it began"))
    lines.began(100.0)
    for at, text in ((99.0, "just before"), (100.0, "at once"), (112.34, "later")):
        lines.event(Event(at, text))
    assert printed(capsys) == ["0.0 s before it began", "0.0 s just before", "0.0 s at once", "12.3 s later"]


@pytest.mark.parametrize("good", [True, False])
def test_the_summary_stands_below_a_blank_line(good: bool, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.say(["one", "two"], good=good)
    lines.close()
    assert printed(capsys) == ["", "one", "two"]


async def test_the_counts_are_printed_while_requests_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: Iterator[tuple[int, int]] = iter([(0, 0), (1200, 0), (1201, 3), (1201, 3)])
    times = iter([100.0, 101.0, 103.0, 104.0, 105.0])
    monkeypatch.setattr(module, "_INTERVAL", 0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    watch = Watch(Place(tmp_path).as_environment(), lambda _: None)
    looks: list[None] = []

    def look() -> None:
        looks.append(None)
        try:
            watch.score.served, watch.score.failed = next(served)
        except StopIteration:
            raise asyncio.CancelledError from None

    monkeypatch.setattr(watch, "look", look)
    lines = Lines()
    lines.began(100.0)
    with pytest.raises(asyncio.CancelledError):
        await lines.draw(Settings("p", 2.0, 30.0), watch)
    assert printed(capsys) == [
        "3.0 s 1,200 requests, 600 per second, failed: 0",
        "4.0 s 1,201 requests, 1 per second, failed: 3",
        "5.0 s 1,201 requests, 0 per second, failed: 3",
    ]
    assert len(looks) == 5
