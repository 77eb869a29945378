"""A descriptor of another process is read if it is the file that was passed to it, and not opened otherwise."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agent.core.errors import MachineError
from agent.host.carried import Carried
from agent.host.memfds import Memfds
from tests.system.eventually import PATIENCE

CONTENT = b"what it runs from"


@pytest.fixture
def memory() -> Iterator[int]:
    """Return a descriptor of sealed memory."""
    memfds = Memfds()
    yield memfds.hold("a file", CONTENT)
    memfds.close()


@contextmanager
def carrier(number: int, descriptor: int) -> Iterator[int]:
    """Run a process that has a descriptor of ours open under a number; yield its pid."""

    def put() -> None:
        os.dup2(descriptor, number)

    with subprocess.Popen(
        ["/bin/sh", "-c", "echo; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=put,  # noqa: PLW1509  # there are no threads
        pass_fds=(number,),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()
        process.wait(PATIENCE)


def test_what_was_given_is_read(memory: int) -> None:
    carried = Carried.in_memory(memory)
    assert carried == Carried.of(memory)
    with carrier(memory, memory) as pid:
        assert carried.is_carried_by(pid)
        assert carried.read(pid) == CONTENT


def _fifo(path: Path) -> int:
    os.mkfifo(path)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def _unreadable(path: Path) -> int:
    path.write_text("root's own")
    path.chmod(0)
    return os.open(path, os.O_PATH)


def _same_content(path: Path) -> int:
    path.write_bytes(CONTENT)
    return os.open(path, os.O_RDONLY)


def _memory(_: Path) -> int:
    return os.memfd_create("forged")


@pytest.mark.parametrize("make", [_fifo, _unreadable, _same_content, _memory])
def test_what_was_put_in_its_place_is_not_opened(memory: int, tmp_path: Path, make: Callable[[Path], int]) -> None:
    """Opening a pipe would wait for its writer; a protected file would be read with our rights."""
    carried = Carried.of(memory)
    other = make(tmp_path / "other")
    try:
        with carrier(memory, other) as pid:
            assert not carried.is_carried_by(pid)
            with pytest.raises(MachineError, match="it is another file now"):
                carried.read(pid)
    finally:
        os.close(other)


def test_the_same_inode_on_another_mount_is_another_file(memory: int) -> None:
    carried = Carried.of(memory)
    with carrier(memory, memory) as pid, pytest.raises(MachineError, match="another file"):
        replace(carried, mount=carried.mount + 1).read(pid)


def test_a_writable_file_is_not_trusted(tmp_path: Path) -> None:
    unsealed = _same_content(tmp_path / "file")
    try:
        with carrier(unsealed, unsealed) as pid, pytest.raises(MachineError, match="not sealed"):
            Carried.of(unsealed).read(pid)
    finally:
        os.close(unsealed)


def test_a_program_is_reopened_for_reading(tmp_path: Path) -> None:
    given = _same_content(tmp_path / "program")
    try:
        with carrier(given, given) as pid:
            opened = Carried.of(given).open(pid)
        try:
            assert os.read(opened, 100) == CONTENT
            assert stat.S_ISREG(os.fstat(opened).st_mode)
        finally:
            os.close(opened)
    finally:
        os.close(given)


@pytest.mark.parametrize("number", [-1, 10**9])
def test_an_unused_descriptor_number_is_an_error(memory: int, number: int) -> None:
    with carrier(memory, memory) as pid, pytest.raises(MachineError, match=f"descriptor {number} of the process {pid}"):
        replace(Carried.of(memory), descriptor=number).read(pid)


def test_nothing_is_left_open(memory: int, tmp_path: Path) -> None:
    carried = Carried.of(memory)
    before = psutil.Process().num_fds()
    with carrier(memory, memory) as pid:
        for _ in range(10):
            carried.read(pid)
            carried.is_carried_by(pid)
    other = _same_content(tmp_path / "other")
    try:
        with carrier(memory, other) as pid:
            for _ in range(10):
                carried.is_carried_by(pid)
    finally:
        os.close(other)
    assert psutil.Process().num_fds() == before
