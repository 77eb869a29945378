"""`agent systemd` on directories; in a booted systemd: tests/packaging."""

import sys
from pathlib import Path

import pytest

from agent.cli.systemd import install, show, uninstall
from agent.core.errors import MachineError, UsageError
from agent.units import UNITS, program, systemctl
from tests.cli.runner import run

PROGRAM = Path(sys.executable).with_name("agent")


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The units may use this machine's interpreter, wherever it is."""
    monkeypatch.setattr(program, "HIDDEN", {})


@pytest.mark.usefixtures("readable")
def test_the_units_are_written_and_removed(tmp_path: Path) -> None:
    first = run(install, "--directory", tmp_path)
    assert first.out.splitlines() == [
        *(f"{tmp_path}/{name}: written" for name in UNITS),
        f"the units start {PROGRAM}",
    ]
    assert run(install, "--directory", tmp_path).out.count(": unchanged\n") == 3
    assert run(uninstall, "--directory", tmp_path).out.splitlines() == [f"{tmp_path}/{name}: removed" for name in UNITS]
    assert list(tmp_path.iterdir()) == []
    assert run(uninstall, "--directory", tmp_path).out == ""


@pytest.mark.usefixtures("readable")
def test_an_edited_unit_stays(tmp_path: Path) -> None:
    run(install, "--directory", tmp_path)
    unit = tmp_path / "agent.service"
    unit.write_text(unit.read_text() + "[Install]\n")
    with pytest.raises(MachineError, match="it has been edited"):
        run(install, "--directory", tmp_path)
    out = run(uninstall, "--directory", tmp_path).out
    assert f"{unit}: kept, because it has been edited" in out
    assert unit.exists()
    run(install, "--directory", tmp_path, "--force")
    assert "removed" in run(uninstall, "--directory", tmp_path, "--force").out


@pytest.mark.usefixtures("readable")
def test_an_image_needs_the_agent_at_the_same_path(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=f"there is no such file below {tmp_path}"):
        run(install, "--root", tmp_path)
    inside = tmp_path / PROGRAM.relative_to("/")
    inside.parent.mkdir(parents=True)
    inside.touch()
    out = run(install, "--root", tmp_path, "--notify-reload").out
    assert f"{tmp_path}/etc/systemd/system/agent.service.d/notify-reload.conf: written" in out
    assert "next:" not in out, "this machine's systemd has nothing to reload"
    other = run(install, "--root", tmp_path, "--directory", "/usr/lib/systemd/system", "--force").out
    assert f"{tmp_path}/usr/lib/systemd/system/agent.service: written" in other


def test_a_root_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot use --root .*none: there is no such directory"):
        run(uninstall, "--root", tmp_path / "none")


def test_an_enabled_unit_is_not_removed(tmp_path: Path, readable: None) -> None:
    run(install, "--directory", tmp_path)
    (tmp_path / "multi-user.target.wants").mkdir()
    (tmp_path / "multi-user.target.wants/agent.service").symlink_to(tmp_path / "agent.service")
    with pytest.raises(MachineError, match=r"agent.service is enabled; systemctl disable --now agent.service"):
        run(uninstall, "--directory", tmp_path, "--force")
    assert (tmp_path / "agent.service").exists()


@pytest.mark.parametrize("command", [install, uninstall])
def test_a_machine_without_systemd(command: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemctl, "_BOOTED", tmp_path / "none")
    with pytest.raises(MachineError, match="systemd does not run; name an image with --root"):
        run(command)  # type: ignore[arg-type]


@pytest.mark.usefixtures("readable")
def test_an_old_systemd_has_no_notify_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = tmp_path / "systemctl"
    answers.write_text("#!/bin/sh\necho systemd 252\n")
    answers.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UsageError, match="older than 253"):
        run(install, "--directory", tmp_path / "units", "--notify-reload")
    answers.write_text("#!/bin/sh\necho systemd 253\n")
    assert "notify-reload.conf: written" in run(install, "--directory", tmp_path / "units", "--notify-reload").out


def test_a_program_that_units_cannot_start_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "HIDDEN", {str(PROGRAM.parents[1]): "ProtectHome=yes"})
    with pytest.raises(MachineError, match=f"ProtectHome=yes hides {PROGRAM}"):
        run(install, "--directory", tmp_path / "units")
    assert not (tmp_path / "units").exists()


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_shown(name: str) -> None:
    out = run(show, name).out
    assert out.startswith("# ")
    assert "/usr/local/bin/agent" not in out
    if name.endswith(".service"):
        assert f"\nExecStart={PROGRAM} --survive" in out


def test_the_service_is_shown_if_none_is_named() -> None:
    assert run(show).out == run(show, "agent.service").out
