"""Sockets of another process are duplicated: the very same sockets."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.core.errors import MachineError
from agent.host import foreign_descriptors
from agent.host.foreign_descriptors import sockets_of

PROGRAM = """
import os, socket, sys
made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
again, file = os.dup(made[0].fileno()), open("/dev/null")
print(*(each.getsockname()[1] for each in made), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other() -> Iterator[tuple[int, list[int]]]:
    """Another process with two listening sockets, one of them twice; its pid and the ports."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, [int(word) for word in process.stdout.readline().split()]


def test_each_socket_comes_once_and_in_order(other: tuple[int, list[int]]) -> None:
    pid, ports = other
    taken = [socket.socket(fileno=each) for each in sockets_of(pid)]
    assert [each.getsockname()[1] for each in taken] == ports
    assert not any(each.get_inheritable() for each in taken)
    for each in taken:
        each.close()


def test_a_process_that_has_exited() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(MachineError, match=f"^cannot take the sockets of process {process.pid}: No such process$"):
        sockets_of(process.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, which has the right and loses it")
def test_without_the_right_to_trace_it(other: tuple[int, list[int]], ordinary: object) -> None:
    with pytest.raises(MachineError, match=r"^cannot take the sockets of process .*(denied|permitted)"):
        sockets_of(other[0])


def test_one_that_is_closed_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server under load closes connections all the time."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        monkeypatch.setattr(foreign_descriptors, "_numbers", lambda _: [1_000_000, own.fileno()])
        (taken,) = sockets_of(os.getpid())
        assert os.path.sameopenfile(taken, own.fileno())
        os.close(taken)
