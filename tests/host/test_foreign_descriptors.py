"""Sockets of another process, here of a child."""

import os
import socket
import subprocess
import sys

import pytest

from agent.core.errors import MachineError
from agent.host import foreign_descriptors
from agent.host.foreign_descriptors import sockets_of

PROGRAM = "import os, sys; os.dup(int(sys.argv[1])); print(flush=True); sys.stdin.read()"


def test_each_socket_is_duplicated_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        words = [sys.executable, "-c", PROGRAM, str(own.fileno())]
        child = subprocess.Popen(words, pass_fds=[own.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            taken = sockets_of(child.pid)
            child.communicate()
        assert [os.fstat(each).st_ino for each in taken] == [os.fstat(own.fileno()).st_ino]
        for each in taken:
            os.close(each)


def test_one_that_is_closed_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server under load closes connections all the time."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        monkeypatch.setattr(foreign_descriptors, "_numbers", lambda _: [1_000_000, own.fileno()])
        (taken,) = sockets_of(os.getpid())
        assert os.path.sameopenfile(taken, own.fileno())
        os.close(taken)


def test_a_process_that_has_exited_is_said() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(MachineError, match="cannot take the sockets of process"):
        sockets_of(child.pid)
