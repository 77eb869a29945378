"""The agent runs in a process that never imported the command line."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import __version__
from agent.cli import start
from agent.cli.run import agent
from agent.cli.start import Invocation, main, take
from agent.core.errors import AgentError, BadInput, MachineError, UsageError
from agent.host import run_directory
from agent.supervisor import supervisor
from tests.cli.orders import order

_EXECUTING = """
import json, os, signal, sys
from pathlib import Path
from agent.cli import start
invocation = start.take()
if invocation is None:
    Path("/proc/self/comm").write_text("of a script")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    start.execute(start.Invocation({"hold": 5.0, "certs": (Path("/c"),)}, ("-l",), ("a message",)))
assert start.take() is None
print(os.getpid(), invocation, Path("/proc/self/comm").read_text().strip(), signal.SIGTERM in signal.sigpending())
descriptors = [path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
print(start.VARIABLE in os.environ, [name for name in descriptors if "memfd" in name], "click" in sys.modules)
"""


def test_the_options_reach_the_same_process_across_an_exec() -> None:
    with subprocess.Popen([sys.executable, "-c", _EXECUTING], stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate()
    first, second = out.splitlines()
    wanted = Invocation({"hold": 5.0, "certs": (Path("/c"),)}, ("-l",), ("a message",))
    assert first == f"{process.pid} {wanted} of a script True"
    assert second == "False [] False", "neither the variable nor the descriptor is left"


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Invocation], Invocation | None]:
    """Pass an invocation on and take it, in one process."""

    def pass_on(invocation: Invocation) -> Invocation | None:
        monkeypatch.setenv(start.VARIABLE, str(start._written(invocation)))
        return take()

    return pass_on


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--certs", "a", "--certs", os.fsdecode(b"/\xff"), "--config", "c", "--watch", "w", "--run-dir", "r"),
        ("--jitter", "auto", "--allow-listen", "80", "--allow-listen", "443", "--status-name", "a", "--give-up", "3"),
        ("--drain-delay", "0s", "--hold", "250ms", "--replace-hung", "6s", "--survive", "--no-proof", "--no-wait"),
        ("--", "-l", "debug", "--", ""),
    ],
)
def test_every_value_of_an_option_is_passed_on(
    arguments: tuple[str, ...], passed: Callable[[Invocation], Invocation | None]
) -> None:
    context = agent.make_context("agent", [*arguments])
    invocation = Invocation(context.params, context.obj, ("\N{SNOWMAN}",), ("b",), 255)
    assert passed(invocation) == invocation


def test_what_this_version_cannot_take_is_not_executed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.memfd_create("x")
    os.pwrite(descriptor, json.dumps({"version": __version__, "name": "a", "options": {}}).encode(), 0)
    monkeypatch.setenv(start.VARIABLE, str(descriptor))
    monkeypatch.setattr(start, "_untaken", [])
    monkeypatch.setattr(start, "run", lambda _: 7)
    assert take() is None
    assert start.execute(Invocation({}, ())) == 7


def test_a_value_that_would_change_on_the_way_is_a_bug(passed: Callable[[Invocation], Invocation | None]) -> None:
    with pytest.raises(TypeError, match="a value of the type set"):
        passed(Invocation({"certs": {1}}, ()))


@pytest.mark.parametrize("text", ["", "x", "-1", "999999", "0x3"])
def test_a_variable_of_another_meaning_passes_nothing_on(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(start.VARIABLE, text)
    assert take() is None
    assert start.VARIABLE not in os.environ


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"[]",
        json.dumps({"version": "0.0.9", "name": "a", "options": {}, "arguments": [], "ignored": []}).encode(),
        json.dumps({"version": __version__}).encode(),
    ],
)
def test_options_of_another_version_are_parsed_again(document: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.memfd_create("x")
    os.pwrite(descriptor, document, 0)
    monkeypatch.setenv(start.VARIABLE, str(descriptor))
    assert take() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("a"), 2), (BadInput("b"), 78), (MachineError("c"), 1), (AgentError("d"), 1)]
)
def test_an_error_is_a_line_on_standard_error_and_has_its_code(
    error: AgentError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Invocation) -> int:
        raise error

    monkeypatch.setattr(start, "run", run)
    with pytest.raises(SystemExit) as ended:
        main(Invocation({}, ()))
    assert ended.value.code == code
    assert capsys.readouterr() == ("", f"agent: {error}\n")


def test_the_code_of_the_agent_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "run", lambda _: 7)
    with pytest.raises(SystemExit) as ended:
        main(Invocation({}, ()))
    assert ended.value.code == 7


async def test_wrong_usage_is_reported_alike_before_and_after_the_exec(tmp_path: Path) -> None:
    before, after = await order("--hold", "x"), await order("--certs", tmp_path, "--listen", "x")
    assert (before.code, after.code) == (2, 2)
    said = "agent: cannot use the address tcp://x: it is not host:port"
    assert (after.out, after.err.partition(";")[0]) == ("", said)


@pytest.mark.parametrize("user", [None, "somebody"])
@pytest.mark.parametrize("ending", [0, 3, MachineError("no memory")])
def test_the_run_directory_is_held_while_the_agent_runs(
    user: str | None, ending: int | Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []

    class Supervisor:
        def __init__(self, _: object, directory: run_directory.RunDirectory) -> None:
            self._directory = directory

        async def run(self) -> int:
            with pytest.raises(MachineError):
                run_directory.RunDirectory(self._directory.path)
            held.append(oct(self._directory.path.stat().st_mode & 0o777))
            if isinstance(ending, Exception):
                raise ending
            return ending

    monkeypatch.setattr(supervisor, "Supervisor", Supervisor)
    settings: Any = SimpleNamespace(run_directory=tmp_path / "r", has_other_users=user is not None)
    if isinstance(ending, Exception):
        with pytest.raises(MachineError, match="no memory"):
            asyncio.run(start._supervise(settings))
    else:
        assert asyncio.run(start._supervise(settings)) == ending
    assert held == ["0o700" if user is None else "0o711"]
    run_directory.RunDirectory(tmp_path / "r").close()
