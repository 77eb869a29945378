import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from rich.console import Console
from rich.text import Text

from agent.cli.watch_view import Screen, show
from agent.core.errors import MachineError
from agent.host import clock
from agent.status.model import Status, document
from tests.status.sample import NOW, overview


def terminal(height: int = 100) -> Console:
    return Console(file=io.StringIO(), width=100, height=height, force_terminal=True, color_system=None)


def text(told: Status) -> str:
    return document(told).decode()


def rendered(screen: Screen, height: int) -> list[Text]:
    out = terminal()
    lines = list(screen.__rich_console__(out, out.options.update(height=height)))
    assert all(isinstance(line, Text) for line in lines)
    return [line for line in lines if isinstance(line, Text)]


def plain(screen: Screen) -> list[str]:
    return [line.plain for line in screen.lines()]


def test_before_anything_is_known_the_screen_is_empty() -> None:
    assert plain(Screen(terminal())) == []


def test_an_answer_is_drawn() -> None:
    screen = Screen(terminal())
    screen.take(text(overview()))
    first = plain(screen)
    assert "epoch 7" in first[0]
    screen.take(text(replace(overview(), epoch=9)))
    assert "epoch 9" in plain(screen)[0]
    assert len(plain(screen)) == len(first)


def test_without_an_agent_the_reason_is_shown_and_then_what_was_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "calendar", lambda: NOW)
    monkeypatch.setattr("agent.cli.watch_view.calendar", lambda: NOW + timedelta(seconds=90))
    screen = Screen(terminal())
    screen.take(MachineError("no such directory"))
    assert (len(plain(screen)), plain(screen)[1]) == (2, "no such directory")
    screen.take(text(overview()))
    known = plain(screen)
    screen.take(MachineError("it has exited"))
    shown = plain(screen)
    assert (shown[1], shown[2], shown[4:]) == ("it has exited", "", known)
    assert all(words in shown[3] for words in ("2026-05-04 12:00:00Z", "90 s"))
    screen.take(text(overview()))
    assert plain(screen) == known


def test_an_answer_that_cannot_be_read_is_an_error_and_no_loss() -> None:
    screen = Screen(terminal())
    screen.take(text(overview()))
    with pytest.raises(MachineError, match="cannot parse"):
        screen.take("<html>")
    assert "epoch 7" in plain(screen)[0]


def test_as_many_lines_are_rendered_as_fit() -> None:
    screen = Screen(terminal())
    screen.take(text(overview()))
    count = len(plain(screen))
    whole = rendered(screen, count)
    assert [line.plain for line in whole] == plain(screen)
    assert [line.end for line in whole] == ["\n"] * (count - 1) + [""]
    assert all(line.no_wrap for line in whole)
    cut = rendered(screen, count - 1)
    assert [line.plain for line in cut[:-1]] == plain(screen)[: count - 2]
    assert " 2 " in cut[-1].plain
    assert len(rendered(screen, 1)) == 1


def test_the_height_of_the_terminal_counts_where_none_is_given() -> None:
    screen, out = Screen(terminal()), terminal(5)
    screen.take(text(overview()))
    assert len(list(screen.__rich_console__(out, out.options.update(height=None)))) == 5


def test_every_answer_is_shown_and_the_terminal_is_restored() -> None:
    out = terminal()
    looks: list[str | MachineError] = [MachineError("no such directory"), text(overview())]
    show(iter([*looks, text(replace(overview(), epoch=9))]), out)
    assert isinstance(out.file, io.StringIO)
    said = out.file.getvalue()
    assert [words in said for words in ("no such directory", "epoch 7", "epoch 9")] == [True] * 3
    assert (said.count("\x1b[?1049h"), said.count("\x1b[?1049l")) == (1, 1)
    assert said.index("no such directory") < said.index("epoch 7") < said.index("epoch 9") < said.index("\x1b[?1049l")


def test_the_terminal_is_restored_after_an_interrupt() -> None:
    def looks() -> Iterator[str]:
        yield text(overview())
        raise KeyboardInterrupt

    out = terminal()
    with pytest.raises(KeyboardInterrupt):
        show(looks(), out)
    assert isinstance(out.file, io.StringIO)
    assert "\x1b[?1049l" in out.file.getvalue()
