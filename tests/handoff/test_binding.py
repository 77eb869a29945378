"""Sockets that the agent binds in a directory of another user, who replaces entries by links."""

import os
import shutil
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
def test_only_the_owner_may_use_it(home: Path) -> None:
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


def test_without_a_directory_beside_it_nothing_is_bound(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"cannot bind .*/hr: No such file"):
        binding.bind(socket.SOCK_DGRAM, tmp_path / "nowhere" / "1" / "hr")


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o000])
def test_the_mode_is_the_one_that_is_asked_for(mode: int, home: Path) -> None:
    with binding.bind(socket.SOCK_DGRAM, home / "hr", mode=mode):
        assert stat.S_IMODE((home / "hr").lstat().st_mode) == mode


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_no_call_on_it_ever_waits(kind: socket.SocketKind, home: Path) -> None:
    with binding.bind(kind, home / "hr") as bound:
        assert bound.getblocking() is False
        assert not bound.get_inheritable()


def test_a_private_directory_that_cannot_be_removed_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise PermissionError

    monkeypatch.setattr(shutil, "rmtree", fails)
    with binding.bind(socket.SOCK_DGRAM, home / "hr"):
        assert [path.name[0] for path in home.parent.iterdir() if path != home] == [binding.PREFIX]


def test_from_its_first_moment_a_socket_listens_or_tells_who_sends(home: Path) -> None:
    """An adopted epoch may speak as soon as the name leads to the next agent."""
    with (
        binding.bind(socket.SOCK_STREAM, home / "gate") as gate,
        binding.bind(socket.SOCK_DGRAM, home / "hr") as letters,
    ):
        assert gate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert letters.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED) == 1


def test_a_socket_of_the_proxys_is_connected_to(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as proxys:
        proxys.bind(str(home / "hr"))
        with binding.connect(home / "hr", (os.getuid(), os.getgid())) as sender:
            sender.send(b"x")
        assert proxys.recv(10) == b"x"


def test_where_nobody_is_the_reason_is_the_systems(home: Path) -> None:
    with pytest.raises(MachineError, match=r"cannot reach .*/hr: No such file"):
        binding.connect(home / "hr")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(home / "hr"))
    with pytest.raises(MachineError, match=r"cannot reach .*/hr: Connection refused"):
        binding.connect(home / "hr")


def test_sending_never_waits(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as proxys:
        proxys.bind(str(home / "hr"))
        with binding.connect(home / "hr") as sender:
            assert sender.getblocking() is False


def test_a_link_in_its_place_is_not_followed(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as victim:
        victim.bind(str(home.parent / "victim"))
        (home / "hr").symlink_to(home.parent / "victim")
        with pytest.raises(MachineError, match=r"cannot reach .*/hr: "):
            binding.connect(home / "hr")


def test_neither_a_socket_of_another_user_nor_a_file_is_connected_to(home: Path) -> None:
    """A hard link could be such a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as victim:
        victim.bind(str(home / "hr"))
        with pytest.raises(MachineError, match="it is not a socket of the proxy"):
            binding.connect(home / "hr", (os.getuid() + 1, os.getgid()))
    (home / "file").touch()
    with pytest.raises(MachineError, match="it is not a socket of the proxy"):
        binding.connect(home / "file")
