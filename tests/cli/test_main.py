"""The command line as a whole."""

import sys

import click
import pytest

from agent.cli import main
from agent.cli.run import agent
from agent.core.errors import AgentError, BadInput, MachineError, UsageError


def end(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run the command line; return the code it exits with."""
    monkeypatch.setattr(sys, "argv", ["agent", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | object]:
    """A command that ends as it is told to."""
    endings: list[BaseException | object] = []

    @click.command()
    def probe() -> object:
        ending = endings.pop()
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setitem(agent.commands, "probe", probe)
    return endings


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no such port"), 2),
        (BadInput("no such file"), 78),
        (MachineError("no memory"), 1),
        (AgentError("no idea"), 1),
    ],
)
def test_an_error_is_a_line_on_standard_error_and_has_its_code(
    error: Exception,
    code: int,
    probe: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    probe.append(error)
    assert end(monkeypatch, "probe") == code
    assert capsys.readouterr() == ("", f"agent: {error}\n")


@pytest.mark.parametrize(
    ("ending", "code"), [(0, 0), (None, None), (3, 3), (click.Abort(), 1), (KeyboardInterrupt(), 1)]
)
def test_what_a_command_returns_is_the_exit_code(
    ending: object, code: object, probe: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe.append(ending)
    assert end(monkeypatch, "probe") == code


def test_a_bug_is_not_hidden(probe: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    probe.append(ZeroDivisionError())
    monkeypatch.setattr(sys, "argv", ["agent", "probe"])
    with pytest.raises(ZeroDivisionError):
        main.main()


@pytest.mark.parametrize("arguments", [("--no-such-option",), ("no-such-command",), ("history", "0"), ("completion",)])
def test_wrong_usage_is_2_with_the_way_to_help(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, "agent" in err, arguments[-1] in err or "SHELL" in err) == ("", True, True)


def test_every_command_has_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(agent.commands) == {
        "bootstrap", "certs", "check", "completion", "demo", "drain", "history", "inject", "intercept", "pause",
        "request", "restart", "resume", "status", "stop", "sweep", "systemd", "uninject", "upgrade", "version", "wait",
            "webhook",
    }  # fmt: skip
    for name, command in agent.commands.items():
        if name not in {"drain", "wait"}:  # they print their own
            assert not end(monkeypatch, name, "--help")
            assert f"agent {name}" in capsys.readouterr().out
        assert command.help
    assert not end(monkeypatch, "-h")
    listed = [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and line.split()
    ]
    assert [name for name, command in agent.commands.items() if name not in listed] == ["sweep"]
