import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.demo.lines import Lines
from agent.demo.screen import Screen
from agent.demo.views import view
from agent.demo.watch import Event
from tests.system.eventually import PATIENCE


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make standard output a terminal; called in the test, since pytest replaces it between the parts of a test."""
    controller, device = pty.openpty()
    with os.fdopen(device, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield
    os.close(controller)


def test_a_terminal_gets_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with terminal(monkeypatch):
        assert isinstance(view(), Screen)


@pytest.mark.parametrize("kind", ["dumb", None])
def test_a_terminal_that_can_do_nothing_gets_lines(kind: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", kind)
    with terminal(monkeypatch):
        assert isinstance(view(), Lines)


def test_a_pipe_gets_lines() -> None:
    assert isinstance(view(), Lines)


def test_lines_have_the_time_since_the_start_of_the_load(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.event(Event(95.0, "an epoch serves"))
    lines.began(100.0)
    lines.event(Event(112.34, "something breaks"))
    assert capsys.readouterr().out == "    0.0 s  an epoch serves\n   12.3 s  something breaks\n"


def test_rich_is_not_imported_where_nothing_is_drawn() -> None:
    program = "import sys, agent.cli.demo, agent.demo.run, agent.demo.views; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=PATIENCE).returncode == 0
