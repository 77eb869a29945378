from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.cli.check import check
from agent.core.errors import UsageError
from agent.host import log
from agent.inputs.settings import Settings
from agent.processes import configuration_check
from agent.processes.configuration_check import Report
from tests.cli.runner import run


@dataclass
class Inspection:
    """Answers with a report, and keeps what it was asked to check."""

    report: Report = field(default_factory=lambda: Report(("a line", "another"), good=True))
    error: Exception | None = None
    asked: list[Settings] = field(default_factory=list)
    existed: list[bool] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, settings: Settings) -> Report:
        self.asked.append(settings)
        self.existed.append(settings.run_directory.is_dir())
        if self.error is not None:
            raise self.error
        return self.report


@pytest.fixture
def inspection(monkeypatch: pytest.MonkeyPatch) -> Inspection:
    made = Inspection()
    monkeypatch.setattr(configuration_check, "inspect", made)
    monkeypatch.setattr(log, "configure", lambda style, level: made.logs.append((style, level)))
    return made


@pytest.mark.parametrize(("good", "code"), [(True, 0), (False, 1)])
def test_the_report_is_printed_and_is_the_exit_code(good: bool, code: int, inspection: Inspection) -> None:
    inspection.report = Report(("a: b", "c"), good=good)
    ran = run(check, "--certs", "/c")
    assert (ran.code, ran.out, ran.err) == (code, "a: b\nc\n", "")
    assert inspection.logs == [("text", "warning")]


def test_the_files_are_checked_in_a_directory_that_is_removed(inspection: Inspection) -> None:
    run(check, "--certs", "/c", "--config", "e.yaml", "--proxy-bin", "p", "--", "-l", "debug")
    (settings,) = inspection.asked
    assert (settings.certificates, settings.config, settings.proxy) == ((Path("/c"),), Path("e.yaml"), "p")
    assert settings.alarm_timeout == 0.0
    assert settings.run_directory.parent == Path("/dev/shm")
    assert inspection.existed == [True]
    assert not settings.run_directory.exists()
    arguments = settings.kind.validate(9, None, settings.kind.configuration("{}", "e.yaml", None, {}))
    assert "debug" in arguments


def test_a_check_that_fails_leaves_no_directory(inspection: Inspection) -> None:
    inspection.error = UsageError("no such program")
    with pytest.raises(UsageError):
        run(check, "--certs", "/c")
    assert not inspection.asked[0].run_directory.exists()


@pytest.mark.parametrize(
    "arguments", [(), ("--certs", "/c", "--", "--base-id", "1"), ("--certs", "/c", "--listen", "x")]
)
def test_wrong_usage_makes_no_directory(arguments: tuple[str, ...], inspection: Inspection) -> None:
    before = {*Path("/dev/shm").glob("agent-check-*")}
    with pytest.raises(UsageError):
        run(check, *arguments)
    assert inspection.asked == []
    assert not {*Path("/dev/shm").glob("agent-check-*")} - before
