import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from agent.cli import run as module
from agent.cli import start
from agent.cli.run import agent as command_line
from agent.core.errors import BadInput, MachineError, UsageError
from agent.host import limits, log, parent_death_filter, termination_log
from agent.inputs.settings import Settings
from agent.processes import upgrade_check
from agent.supervisor import supervisor
from tests.cli.runner import run

GIVEN = ("--certs", "/c", "--run-dir", "/run/x")


@dataclass
class Machine:
    """What the command does to this process, in order, in place of doing it."""

    done: list[str] = field(default_factory=list)
    settings: list[Settings] = field(default_factory=list)
    codes: list[int | Exception] = field(default_factory=lambda: [0])
    not_executed: OSError | None = None
    cannot_survive: bool = False

    def does(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.done.append(" ".join([name, *map(str, arguments)]))

    async def supervise(self, settings: Settings) -> int:
        self.settings.append(settings)
        self.done.append("supervise")
        code = self.codes.pop(0)
        if isinstance(code, Exception):
            raise code
        return code

    def execute(self, path: str, arguments: list[str]) -> None:
        assert (path, arguments) == (sys.executable, sys.orig_argv)
        if start.VARIABLE in os.environ:
            raise OSError("there is no program, so that the agent runs in this process")
        self.done.append("execute")
        if self.not_executed is not None:
            raise self.not_executed

    def survive(self) -> None:
        self.done.append("survive")
        if self.cannot_survive:
            raise MachineError("no seccomp here")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    for name in (
        "hold_signals",
        "release_signals",
        "keep_standard_streams",
        "raise_descriptor_limit",
        "forbid_core_dumps",
    ):
        monkeypatch.setattr(limits, name, made.does(name))
    monkeypatch.setattr(log, "configure", made.does("log"))
    monkeypatch.setattr(termination_log, "leave_reason", made.does("reason"))
    monkeypatch.setattr(parent_death_filter, "keep_children_alive", made.survive)
    monkeypatch.setattr(start, "_supervise", made.supervise)
    monkeypatch.setattr(os, "execv", made.execute)
    return made


PREPARED = ["hold_signals", "keep_standard_streams", "log text info", "raise_descriptor_limit", "forbid_core_dumps"]


@pytest.mark.parametrize("code", [0, 1, 7])
def test_without_a_command_the_agent_runs_and_its_code_is_the_exit_code(code: int, machine: Machine) -> None:
    machine.codes = [code]
    ran = run(command_line, *GIVEN, "--drain-time", "7s")
    assert (ran.code, ran.out, machine.done) == (code, "", [*PREPARED, "supervise"])
    (settings,) = machine.settings
    assert (settings.certificates, settings.run_directory) == ((Path("/c"),), Path("/run/x"))
    assert settings.policy.drain_patience == 7


def test_without_an_exec_no_trace_of_it_is_left(machine: Machine) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  # names, not paths
    assert run(command_line, *GIVEN).code == 0
    assert machine.done == [*PREPARED, "supervise"]
    assert start.VARIABLE not in os.environ
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_the_log_is_as_the_options_say(machine: Machine) -> None:
    run(command_line, *GIVEN, "--log-format", "json", "--log-level", "debug")
    assert "log json debug" in machine.done


@pytest.mark.parametrize(
    "arguments", [(), ("--certs", "/c", "--listen", "x"), ("--certs", "/c", "--", "--base-id", "1")]
)
def test_wrong_usage_is_found_before_anything_runs(arguments: tuple[str, ...], machine: Machine) -> None:
    with pytest.raises(UsageError):
        run(command_line, *arguments)
    assert machine.done == PREPARED[:3]


def test_a_command_releases_the_signals_and_runs_no_agent(machine: Machine) -> None:
    assert run(command_line, "completion", "bash").code == 0
    assert machine.done == ["release_signals"]


# Arguments of the proxy


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ((), ()),
        (("--",), ()),
        (("--", "-l", "debug", "--log-format", "x"), ("-l", "debug", "--log-format", "x")),
        (("--", "check"), ("check",)),
        (("--", "a", "--", "b"), ("a", "--", "b")),
    ],
)
def test_arguments_behind_the_dashes_are_the_proxys(arguments: tuple[str, ...], given: tuple[str, ...]) -> None:
    context = command_line.make_context("agent", ["--certs", "/c", *arguments])
    assert (context.obj, context.invoked_subcommand) == (given, None)
    assert context.params["log_format"] == "text"


def test_with_arguments_of_the_proxy_the_agent_runs_too(machine: Machine) -> None:
    assert run(command_line, *GIVEN, "--", "-l", "debug").code == 0
    assert machine.done == [*PREPARED, "supervise"]


def test_a_command_has_its_arguments_behind_the_dashes(machine: Machine) -> None:
    """The dashes reach it, since it parses them itself."""
    given: list[tuple[str, ...]] = []

    @click.command()
    @click.option("--flag", is_flag=True)
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def probe(rest: tuple[str, ...], *, flag: bool) -> None:
        given.append((str(flag), *rest))

    group = module.Agent("agent", commands={"probe": probe}, callback=lambda: None)
    for arguments in (("probe", "a", "--", "--flag"), ("probe", "--flag", "--"), ("probe",)):
        run(group, *arguments)
    assert given == [("False", "a", "--flag"), ("True",), ("False",)]


# Upgrades


@pytest.mark.parametrize("error", [None, OSError(2, "No such file or directory")])
def test_an_agent_that_is_to_be_executed_anew_goes_on_if_it_cannot(
    error: OSError | None, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.codes, machine.not_executed = [supervisor.EXECUTE, supervisor.EXECUTE, 5], error
    assert run(command_line, *GIVEN).code == 5
    assert machine.done[len(PREPARED) :] == ["supervise", "execute", "supervise", "execute", "supervise"]
    logged = [(vars(each)["event"], "No such file" in each.getMessage()) for each in caplog.records]
    assert logged == ([] if error is None else [("agent.not_executed", True)] * 2)
    assert machine.settings[0] is machine.settings[2]


def test_a_trial_of_a_new_program_only_prints_what_it_can(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []

    def dry_run(settings: Settings) -> str:
        asked.append(settings)
        return "it can"

    monkeypatch.setattr(upgrade_check, "dry_run", dry_run)
    ran = run(command_line, *GIVEN, **{upgrade_check.VARIABLE: ""})
    assert (ran.code, ran.out, machine.done) == (0, "it can\n", PREPARED[:3])
    assert [each.run_directory for each in asked] == [Path("/run/x")]


# Survival, and errors


@pytest.mark.parametrize("cannot", [True, False])
def test_proxies_survive_if_that_is_asked_and_possible(
    cannot: bool, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.cannot_survive = cannot
    assert run(command_line, *GIVEN, "--survive").code == 0
    assert machine.done == [*PREPARED, "survive", "supervise"]
    logged = [(vars(each)["event"], each.getMessage()) for each in caplog.records]
    assert logged == ([("agent.not_surviving", "no seccomp here")] if cannot else [])


@pytest.mark.parametrize("error", [BadInput("no certificate"), MachineError("no memory"), UsageError("no port")])
def test_the_reason_for_an_end_is_left_behind(error: Exception, machine: Machine) -> None:
    machine.codes = [error]
    with pytest.raises(type(error), match=str(error)):
        run(command_line, *GIVEN)
    assert machine.done == [*PREPARED, "supervise", f"reason {error}"]


def test_a_bug_leaves_no_reason(machine: Machine) -> None:
    machine.codes = [ValueError("a bug")]
    with pytest.raises(AssertionError):
        run(command_line, *GIVEN)
    assert machine.done == [*PREPARED, "supervise"]
