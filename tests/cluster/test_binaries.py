"""Without the programs no trial runs, and the reason says what is missing."""

from pathlib import Path

import pytest

from tests.cluster.binaries import CONTROL_PLANE, NODE, PLUGINS, VARIABLE, find


def test_without_a_directory_the_reason_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    reason = find()
    assert isinstance(reason, str)
    assert reason.startswith(f"{VARIABLE} names no directory")


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cni").mkdir()
    for name in (*CONTROL_PLANE, *NODE, *(f"cni/{plugin}" for plugin in PLUGINS)):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    reason = find()
    assert isinstance(reason, str)
    assert reason.startswith(f"{VARIABLE}={tmp_path} lacks kubectl:")
