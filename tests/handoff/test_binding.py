"""Sockets that the agent binds in a directory of somebody else, who exchanges what lies there for links."""

import os
import socket
import stat
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.handoff import binding

NOBODY = (65534, 65534)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "run" / "1"
    made.mkdir(parents=True)
    return made


def test_a_link_in_the_way_is_replaced_and_what_it_leads_to_stays(home: Path) -> None:
    victim = home.parent / "victim"
    victim.write_text("root's")
    before = victim.stat()
    (home / "hr").symlink_to(victim)
    with binding.bind(socket.SOCK_DGRAM, home / "hr", (os.getuid(), os.getgid())):
        assert stat.S_ISSOCK((home / "hr").lstat().st_mode)
    assert victim.read_text() == "root's"
    assert (victim.stat().st_uid, victim.stat().st_mode, victim.stat().st_ctime) == (
        before.st_uid, before.st_mode, before.st_ctime,
    )  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="wants root")
def test_the_owner_may_use_it_and_nobody_else(home: Path) -> None:
    with binding.bind(socket.SOCK_STREAM, home / "gate", NOBODY):
        found = (home / "gate").lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (*NOBODY, 0o600)


def test_nothing_is_left_beside_it(home: Path) -> None:
    with binding.bind(socket.SOCK_DGRAM, home / "hr"), binding.bind(socket.SOCK_DGRAM, home / "hr"):
        assert [path.name for path in home.parent.iterdir()] == ["1"]
        assert [path.name for path in home.iterdir()] == ["hr"]


def test_where_it_cannot_be_bound_nothing_is_left_either(home: Path) -> None:
    (home / "hr").mkdir()
    with pytest.raises(MachineError, match=r"cannot bind .*/hr: "):
        binding.bind(socket.SOCK_DGRAM, home / "hr")
    assert [path.name for path in home.parent.iterdir()] == ["1"]


def test_from_its_first_moment_a_socket_listens_or_tells_who_sends(home: Path) -> None:
    """An adopted epoch may speak as soon as the name leads to the next agent."""
    with (
        binding.bind(socket.SOCK_STREAM, home / "gate") as gate,
        binding.bind(socket.SOCK_DGRAM, home / "hr") as letters,
    ):
        assert gate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert letters.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED) == 1
