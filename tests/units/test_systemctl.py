"""Questions to a systemctl that answers from a file: a booted systemd is in tests/packaging."""

from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.units import systemctl


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the program `systemctl` prints; it records its arguments in `asked`."""
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/asked\n. {tmp_path}/answer\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "answer"


@pytest.mark.parametrize(
    ("text", "number"),
    [("systemd 252 (252.38-1~deb12u1)", 252), ("systemd 257 (257.7-1)\n+PAM", 257), ("systemd 261~rc1", 261)],
)
def test_the_version(answer: Path, text: str, number: int) -> None:
    answer.write_text(f"echo '{text}'")
    assert systemctl.version() == number


def test_units_that_are_not_stopped(answer: Path) -> None:
    answer.write_text(
        "printf 'agent.service loaded active running Network proxy\\n\\nagent@a.service loaded activating x y\\n'"
    )
    assert systemctl.active() == ["agent.service", "agent@a.service"]
    asked = (answer.parent / "asked").read_text().split()
    assert asked[-3:] == ["agent.service", "agent@*.service", "agent.socket"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'no bus' >&2; exit 1", "systemctl --version exits with 1: no bus"),
        ("echo other", "cannot read the version"),
    ],
)
def test_failures_are_explained(answer: Path, text: str, reason: str) -> None:
    answer.write_text(text)
    with pytest.raises(MachineError, match=reason):
        systemctl.version()


def test_a_machine_without_systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="cannot ask systemd"):
        systemctl.active()


def test_systemd_runs_where_its_directory_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemctl, "_BOOTED", tmp_path)
    assert systemctl.runs()
    monkeypatch.setattr(systemctl, "_BOOTED", tmp_path / "none")
    assert not systemctl.runs()
