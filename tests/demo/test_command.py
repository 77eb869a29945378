"""The command with a real proxy: in a pipe, in a terminal, and interrupted."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import UsageError
from agent.host.binaries import find
from tests.system.eventually import PATIENCE, eventually

MARK = "DEMO_OF_TEST"
TEMPORARY = [Path("/dev/shm"), Path("/tmp")]


def is_runnable(proxy: str) -> bool:
    """Return whether this proxy exists and prints its version."""
    try:
        binary = find(proxy)
    except UsageError:
        return False
    return subprocess.run([binary, "--version"], capture_output=True, check=False, timeout=PATIENCE).returncode == 0


@pytest.fixture(params=["sidecar", pytest.param("envoy", marks=pytest.mark.long)])
def proxy(request: pytest.FixtureRequest) -> str:
    """Each installed proxy."""
    name: str = request.param
    if not is_runnable(name):
        pytest.skip(f"wants {name}")
    return name


@pytest.fixture
def any_proxy() -> str:
    """One installed proxy."""
    found = next((name for name in ("envoy", "sidecar") if is_runnable(name)), None)
    if found is None:
        pytest.skip("wants a proxy")
    return found


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """An environment that marks every process of a demonstration; none may be left at the end."""
    mark = uuid.uuid4().hex
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
    before = leftovers()
    yield {**clean, MARK: mark}
    assert processes(mark) == []
    made = leftovers() - before  # possibly of another test run, whose demonstration is in progress
    eventually(lambda: not made & leftovers(), what=f"{made} are gone")


def processes(mark: str) -> list[str]:
    """Return the command lines of the processes that inherited a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def leftovers() -> set[Path]:
    """Return the directories of demonstrations."""
    return {path for place in TEMPORARY for path in place.glob("agent-demo-*")}


def command(proxy: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "agent", "demo", "--proxy-bin", proxy, *options]


def test_in_a_pipe_no_request_fails_and_the_output_is_plain_lines(proxy: str, environment: dict[str, str]) -> None:
    arguments = command(proxy, "--every", "600ms", "--for", "2400ms")
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert "\x1b" not in ran.stdout
    assert re.search(r"[\d,]+ requests on [\d,]+ connections, failed: 0\n", ran.stdout)
    for told in (
        "the certificate on disk is garbage",
        "is killed (SIGKILL)",
        "after it was written",
        "1 kill, 1 bad certificate",
    ):
        assert told in ran.stdout


@pytest.mark.long
def test_an_interrupt_ends_it_early_with_a_summary(any_proxy: str, environment: dict[str, str]) -> None:
    with subprocess.Popen(command(any_proxy), stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "after it was written" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert "requests on" in rest
    assert "failed: 0" in rest


def test_a_terminal_gets_a_screen_and_is_given_back(any_proxy: str, environment: dict[str, str]) -> None:
    shown = in_terminal(command(any_proxy, "--every", "500ms", "--for", "1s"), {**environment, "TERM": "xterm"})
    _, entered, screen_and_rest = shown.partition("\x1b[?1049h")
    screen, left, rest = screen_and_rest.partition("\x1b[?1049l")
    assert entered
    assert left
    assert "█▀█" in screen
    assert "write → first handshake" in screen
    assert "requests on" in rest
    assert shown.count("\x1b[?25l") <= shown.count("\x1b[?25h"), "the cursor is back"


@pytest.mark.long
def test_a_dumb_terminal_gets_plain_lines(any_proxy: str, environment: dict[str, str]) -> None:
    shown = in_terminal(command(any_proxy, "--every", "500ms", "--for", "500ms"), {**environment, "TERM": "dumb"})
    assert "\x1b" not in shown
    assert "after it was written" in shown


def in_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    """Run a program to its end in a terminal of 80 by 24; return its output."""
    controller, terminal = pty.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        with subprocess.Popen(arguments, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
            os.close(terminal)
            shown = _read_to_end(controller)
            assert process.wait(timeout=PATIENCE) == 0, shown[-2000:]
    finally:
        os.close(controller)
    return shown


def _read_to_end(controller: int) -> str:
    data, deadline = b"", time.monotonic() + PATIENCE
    with contextlib.suppress(OSError):  # EIO: no process has the terminal open any more
        while time.monotonic() < deadline:
            data += os.read(controller, 65536)
    return data.decode(errors="replace")


def test_a_missing_proxy_is_reported_at_once(environment: dict[str, str]) -> None:
    ran = subprocess.run(
        command("/nowhere/proxy"), capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment
    )
    assert ran.returncode == 2
    assert ran.stderr == "agent: cannot run /nowhere/proxy: there is no such file\n"
