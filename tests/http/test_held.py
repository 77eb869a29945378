"""A socket in a directory of somebody else: what is opened there, and that nothing else can take its place."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.http.held import NoSocket, held_socket
from tests.host.conftest import NOBODY


def bound(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(str(path))
    if kind is socket.SOCK_STREAM:
        made.listen()
    return made


def test_the_way_leads_to_the_socket_though_its_name_is_gone_or_another_has_it(tmp_path: Path) -> None:
    with bound(tmp_path / "s") as meant, held_socket(tmp_path / "s") as way:
        (tmp_path / "s").unlink()
        with bound(tmp_path / "s"), socket.socket(socket.AF_UNIX) as client:
            client.connect(way)
            meant.accept()[0].close()


def test_a_datagram_socket_is_one_too(tmp_path: Path) -> None:
    with bound(tmp_path / "s", socket.SOCK_DGRAM) as meant, held_socket(tmp_path / "s") as way:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", way)
        assert meant.recv(1) == b"x"


def test_a_socket_that_nobody_listens_on_any_more_is_held_all_the_same(tmp_path: Path) -> None:
    bound(tmp_path / "s").close()
    with (
        held_socket(tmp_path / "s") as way,
        socket.socket(socket.AF_UNIX) as client,
        pytest.raises(ConnectionRefusedError),
    ):
        client.connect(way)


def test_a_link_to_a_socket_is_none(tmp_path: Path) -> None:
    with bound(tmp_path / "s"):
        (tmp_path / "link").symlink_to(tmp_path / "s")
        with pytest.raises(NoSocket, match=str(tmp_path / "link")), held_socket(tmp_path / "link"):
            pass


@pytest.mark.parametrize("what", ["file", "directory", "fifo", "dangling"])
def test_anything_else_is_refused_and_never_opened(what: str, tmp_path: Path) -> None:
    """A reader of the pipe would wait for ever."""
    path = tmp_path / what
    makers: dict[str, Callable[[], None]] = {
        "file": path.touch,
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "dangling": lambda: path.symlink_to("nowhere"),
    }
    makers[what]()
    with pytest.raises(NoSocket), held_socket(path):
        pass


def test_a_name_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), held_socket(tmp_path / "s"):
        pass


def test_the_socket_belongs_to_the_user_that_is_asked_for(tmp_path: Path) -> None:
    with bound(tmp_path / "s"):
        with held_socket(tmp_path / "s", os.geteuid()):
            pass
        with pytest.raises(NoSocket), held_socket(tmp_path / "s", os.geteuid() + 1):
            pass


@pytest.mark.skipif(os.getuid() != 0, reason="wants root")
def test_a_socket_of_root_is_not_a_proxys(tmp_path: Path) -> None:
    """The user 0 is a user, and no missing one."""
    with bound(tmp_path / "s"):
        with held_socket(tmp_path / "s", 0):
            pass
        os.chown(tmp_path / "s", NOBODY, NOBODY)
        with pytest.raises(NoSocket), held_socket(tmp_path / "s", 0):
            pass
        with held_socket(tmp_path / "s", NOBODY):
            pass


def test_nothing_stays_open_when_the_block_fails(tmp_path: Path) -> None:
    with bound(tmp_path / "s"):
        with pytest.raises(ZeroDivisionError), held_socket(tmp_path / "s") as way:
            raise ZeroDivisionError
        assert not Path(way).exists()


def test_a_path_that_was_exchanged_is_a_connection_error_to_whoever_asks() -> None:
    assert issubclass(NoSocket, ConnectionError)
