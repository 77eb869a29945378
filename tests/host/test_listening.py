import os
import socket
import subprocess
from pathlib import Path

import pytest

from agent.host.listening import accepting


def inode(listener: socket.socket) -> int:
    return os.fstat(listener.fileno()).st_ino


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_socket_that_listens_is_found_and_one_that_is_bound_or_connected_is_not(
    tmp_path: Path, family: socket.AddressFamily, host: str
) -> None:
    with socket.socket(family) as listener, socket.socket(family) as bound, socket.socket(family) as client:
        bound.bind((host, 0))
        listener.bind((host, 0))
        listener.listen()
        client.connect(listener.getsockname())
        found = accepting(os.getpid(), tmp_path)
        assert inode(listener) in found
        assert not {inode(bound), inode(client)} & found


def test_unix_sockets_count_but_for_those_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as other:
        own.bind(str(tmp_path / "own/admin"))
        other.bind(str(tmp_path / "other"))
        for each in (own, other):
            each.listen()
        found = accepting(os.getpid(), tmp_path / "own")
        assert inode(other) in found
        assert inode(own) not in found


def test_those_of_other_processes_are_not_its_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert accepting(child.pid, tmp_path) == set()


def test_a_process_that_is_gone_accepts_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert accepting(child.pid, tmp_path) == set()
