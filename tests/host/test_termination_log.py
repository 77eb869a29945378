"""The termination message of a container."""

import os
import resource
import socket
from pathlib import Path

import pytest

from agent.host import termination_log
from agent.host.termination_log import TerminationLog, leave_reason


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    return path


def test_the_reason_takes_the_place_of_what_was_there(log: Path) -> None:
    log.write_text("something longer, from an earlier life")
    leave_reason("cannot start envoy: no such file", log)
    assert log.read_text() == "cannot start envoy: no such file"


def test_it_is_cut_at_4096_bytes_and_never_within_a_letter(log: Path) -> None:
    leave_reason("x" + "ж" * 4000, log)
    assert log.read_text() == "x" + "ж" * 2047
    leave_reason("y" * 5000, log)
    assert log.read_text() == "y" * 4096


def test_bytes_that_are_no_text_are_written_down_as_such(log: Path) -> None:
    leave_reason(os.fsdecode(b"cannot read \xff"), log)
    assert log.read_text() == r"cannot read \udcff"


def test_where_there_is_none_none_is_made(tmp_path: Path) -> None:
    for missing in (tmp_path / "missing", tmp_path / "no" / "directory", tmp_path / ("x" * 300)):
        leave_reason("why", missing)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_file_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "directory").mkdir()
    leave_reason("why", tmp_path / "link")
    leave_reason("why", tmp_path / "directory")
    leave_reason("why", Path("/dev/full"))
    assert target.read_text() == "precious"


def test_a_write_never_blocks(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    leave_reason("why", fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    leave_reason("why", fifo)
    assert os.read(reader, 100) == b""
    os.close(reader)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        leave_reason("why", tmp_path / "socket")


def test_a_file_that_may_not_be_written_is_no_trouble(ordinary: Path) -> None:
    path = ordinary / "termination-log"
    path.write_text("precious")
    path.chmod(0o444)
    leave_reason("why", path)
    assert path.read_text() == "precious"


def test_without_a_descriptor_to_be_had_it_gives_up(log: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        leave_reason("why", log)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert log.read_text() == ""


def test_words_are_written_when_they_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(termination_log, "leave_reason", written.append)
    log = TerminationLog()
    for words in ("", "", "why", "why", "", "why", "other"):
        log.leave(words)
    assert written == ["", "why", "", "why", "other"]
