from pathlib import Path

import pytest

from agent import __version__
from agent.cli.version import version
from agent.core.errors import BadInput, UsageError
from agent.host.processes import Command
from agent.inputs import programs
from tests.cli.runner import run


def answering(answers: dict[str, str]) -> object:
    """In place of starting a program: its answer to each of its arguments."""

    async def run_it(command: Command, timeout: float) -> tuple[int, str]:
        argument = command.arguments[-1]
        return (0, answers[argument]) if argument in answers else (3, "")

    return run_it


@pytest.fixture
def proxy(tmp_path: Path) -> Path:
    path = tmp_path / "proxy"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_versions_of_agent_and_proxy_are_printed(proxy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"--version": "proxy  version: abc/1.2.3/Clean", "--hot-restart-version": "11.104"}
    monkeypatch.setattr(programs, "run", answering(answers))
    for arguments, variables in ((("--proxy-bin", proxy), {}), ((), {"AGENT_PROXY_BIN": str(proxy)})):
        ran = run(version, *arguments, **variables)
        first, second = ran.out.splitlines()
        assert (first, ran.code) == (f"agent {__version__}", 0)
        assert [word in second for word in (str(proxy), "1.2.3", "11.104")] == [True] * 3


@pytest.mark.parametrize(
    "answers", [{}, {"--version": "1.2.3"}, {"--version": "1", "--hot-restart-version": "disabled"}]
)
def test_a_proxy_that_does_not_tell_is_bad_input(
    answers: dict[str, str], proxy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "run", answering(answers))
    with pytest.raises(BadInput, match=str(proxy)):
        run(version, "--proxy-bin", proxy)


def test_the_agents_version_is_printed_before_the_proxy_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="/no/such/proxy"):
        version.main(["--proxy-bin", "/no/such/proxy"], standalone_mode=False)
    assert capsys.readouterr().out == f"agent {__version__}\n"
