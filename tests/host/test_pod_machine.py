"""What a machine answers about a pod."""

from pathlib import Path

import pytest

from agent.core.errors import UsageError
from agent.host import pod_machine
from agent.host.pod_machine import machine


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("app=é", encoding="utf-8")
    asked = machine()
    assert asked.read(f"{tmp_path}/labels") == "app=é"
    assert asked.read(f"{tmp_path}/none") is None
    assert asked.read(f"{tmp_path}/labels/none") is None
    assert (asked.exists(str(tmp_path)), asked.exists(f"{tmp_path}/none")) == (True, False)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "mesh").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"cannot read .*/mesh: it is not UTF-8"):
        machine().read(f"{tmp_path}/mesh")
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        machine().read(str(tmp_path))


def test_an_address_is_waited_for_only_if_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def own_addresses(timeout: float) -> list[str]:
        waits.append(timeout)
        return []

    monkeypatch.setattr(pod_machine, "own_addresses", own_addresses)
    machine().own_addresses(True)
    machine().own_addresses(False)
    assert waits == [pod_machine.ADDRESS_TIMEOUT, 0.0]


def test_hosts_are_looked_up() -> None:
    assert machine().resolve("127.0.0.1") == "127.0.0.1"
