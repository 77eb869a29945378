"""The command line of pilot-agent, up to the agent's own options."""

import json
import os
from pathlib import Path

import pytest
import yaml

from agent import __version__
from agent.cli import pilot_agent, start
from agent.cli.start import Invocation
from agent.host import pod_machine


@pytest.fixture(autouse=True)
def pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in a directory of its own, in the environment of a pod and nothing else."""
    for name in [name for name in os.environ if name != "PATH"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("INSTANCE_IP", "10.0.0.7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pod_machine, "ADDRESS_TIMEOUT", 0.0)


@pytest.fixture
def invocations(monkeypatch: pytest.MonkeyPatch) -> list[Invocation]:
    """Collect what would be executed."""
    made: list[Invocation] = []

    def execute(invocation: Invocation) -> int:
        made.append(invocation)
        return 7

    monkeypatch.setattr(start, "execute", execute)
    monkeypatch.setattr("agent.host.limits.keep_standard_streams", lambda: None)
    return made


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        pilot_agent.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "arguments", [("proxy", "router"), ("--log_as_json", "proxy", "router"), ("proxy", "--log_as_json", "router")]
)
def test_the_agent_runs_with_the_options_that_the_flags_become(
    arguments: tuple[str, ...], invocations: list[Invocation]
) -> None:
    assert run(*arguments, "--proxyAdminPort=15001") == 7
    [invocation] = invocations
    assert invocation.options["http_actions"] is True
    assert invocation.options["stop_deadline"] == 25.0
    assert invocation.options["pilot_words"] == tuple(
        word for word in (*arguments, "--proxyAdminPort=15001") if word != "proxy"
    )
    assert invocation.options["log_format"] == ("text" if len(arguments) == 2 else "json")
    assert json.loads(invocation.options["document"])["node"]["id"].startswith("router~10.0.0.7~")
    assert (invocation.arguments[:2], invocation.usage_code) == (("-l", "warning"), 255)


def test_messages_about_ignored_flags_are_logged_by_the_agent(invocations: list[Invocation]) -> None:
    assert run("proxy", "--binaryPath=/bin/true", "--stsPort=1") == 7
    assert invocations[0].unused == ("no effect here: --stsPort",)


def test_the_agents_own_variables_are_options_too(
    invocations: list[Invocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_DRAIN_TIME", "9s")
    monkeypatch.setenv("AGENT_STATUS_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("AGENT_DRIAN_TIME", "9s")
    run("proxy")
    run("proxy", "--drainDuration=8s")
    assert [each.options["drain_time"] for each in invocations] == [9.0, 8.0]
    assert [text.split("=")[0].split()[0] for text in invocations[0].ignored] == [
        "AGENT_STATUS_PORT",
        "AGENT_DRIAN_TIME",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the command is missing; the commands are proxy, request, wait, version"),
        (("frob",), "there is no command 'frob'"),
        (("proxy", "ingress"), "cannot run as 'ingress'"),
        (("proxy", "--discoveryAddress=x"), "cannot use the discovery address 'x'"),
        (("version", "-o", "xml"), "--output is yaml or json"),
        (("request",), "its arguments are METHOD PATH"),
    ],
)
def test_an_invalid_command_line_ends_with_255(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 255
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pilot-agent: cannot ")
    assert message in err


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mesh").write_bytes(b"\xff")
    assert run("proxy", f"--meshConfig={tmp_path}/mesh") == 255
    assert capsys.readouterr().err == f"pilot-agent: cannot read {tmp_path}/mesh: it is not UTF-8\n"


def test_the_version_is_as_istioctl_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == 0
    assert capsys.readouterr().out == f"client version: {__version__}\n"
    assert run("version", "-s", "--output=json") == 0
    described = json.loads(capsys.readouterr().out)["clientVersion"]
    assert described["version"] == __version__
    assert described.keys() == {"version", "revision", "golang_version", "status", "tag"}
    assert run("version", "-oyaml") == 0
    assert yaml.safe_load(capsys.readouterr().out)["clientVersion"] == described


@pytest.mark.parametrize("arguments", [("--help",), ("help",), ("proxy", "--help")])
def test_help_lists_the_commands(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in pilot_agent.COMMANDS)
