"""The file of a segment: who may make, write and read it, and what is never followed, opened or waited for."""

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.stats.errors import InvalidSegment, Unpublished, Unwritable
from agent.stats.segment_file import claimed, opened, reserve
from tests.host.conftest import NOBODY


def reserved(directory: Path) -> Path:
    reserve(directory / "stats")
    return directory / "stats"


def failing(number: int) -> Callable[..., None]:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fails


# Made by the agent


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277, 0o777])
def test_the_file_is_made_empty_and_private_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        path = reserved(tmp_path)
    finally:
        os.umask(before)
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_size) == (0o600, 0)


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "stats").write_text("precious")
    with pytest.raises(Unwritable, match=f"cannot create {tmp_path}/stats: file exists"):
        reserve(tmp_path / "stats")
    assert (tmp_path / "stats").read_text() == "precious"


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_a_link_in_the_way_is_not_followed(target: str, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / "stats").symlink_to(target)
    with pytest.raises(Unwritable):
        reserve(tmp_path / "stats")
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_that_is_not_there_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match="no such file or directory"):
        reserve(tmp_path / "nowhere" / "stats")


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root")
def test_a_proxy_of_another_user_owns_its_file(tmp_path: Path) -> None:
    reserve(tmp_path / "stats", (NOBODY, NOBODY + 1))
    found = (tmp_path / "stats").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, NOBODY + 1, 0o600)


def test_a_file_that_cannot_be_given_away_is_removed(ordinary: Path) -> None:
    with pytest.raises(Unwritable, match="cannot give"):
        reserve(ordinary / "stats", (0, 0))
    assert not (ordinary / "stats").exists()


def test_a_file_whose_mode_cannot_be_set_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fchmod", failing(errno.EPERM))
    with pytest.raises(Unwritable, match="operation not permitted"):
        reserve(tmp_path / "stats")
    assert list(tmp_path.iterdir()) == []


# Claimed by the writer


def test_the_writer_gets_the_file_with_all_its_blocks(tmp_path: Path) -> None:
    path = reserved(tmp_path)
    with claimed(path, 100_000) as descriptor:
        os.pwrite(descriptor, b"x", 99_999)
        assert os.pread(descriptor, 1, 0) == b"\0"
    assert path.stat().st_blocks * 512 >= path.stat().st_size == 100_000


def test_no_child_of_the_writer_inherits_it(tmp_path: Path) -> None:
    with claimed(reserved(tmp_path), 4096) as descriptor:
        assert not os.get_inheritable(descriptor)


def test_a_second_writer_is_refused_while_the_first_lives_and_after_it(tmp_path: Path) -> None:
    path = reserved(tmp_path)
    with claimed(path, 4096), pytest.raises(Unwritable, match="another writer uses it"), claimed(path, 8192):
        pass
    assert path.stat().st_size == 4096
    with pytest.raises(Unwritable, match="another writer used it"), claimed(path, 8192):
        pass
    assert path.stat().st_size == 4096


def test_the_claim_lasts_as_long_as_the_memory(tmp_path: Path) -> None:
    path = reserved(tmp_path)
    with claimed(path, 4096) as descriptor:
        memory = mmap.mmap(descriptor, 4096)
    other = os.open(path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    memory.close()
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_reader_does_not_keep_the_writer_away(tmp_path: Path) -> None:
    path = reserved(tmp_path)
    reader = opened(path)
    with claimed(path, 4096):
        pass
    os.close(reader)


@pytest.mark.parametrize("what", ["link", "fifo", "directory", "nothing"])
def test_what_is_no_file_is_not_written_to_nor_waited_for(what: str, tmp_path: Path) -> None:
    path = tmp_path / what
    (tmp_path / "target").touch(0o600)
    makers: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to("target"),
        "fifo": lambda: os.mkfifo(path, 0o600),
        "directory": path.mkdir,
        "nothing": lambda: None,
    }
    makers[what]()
    with pytest.raises(Unwritable, match=str(path)), claimed(path, 4096):
        pass
    assert (tmp_path / "target").stat().st_size == 0


def test_a_full_disk_is_an_error_at_the_start_and_names_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = reserved(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(Unwritable, match="4096 bytes: no space left"), claimed(path, 4096):
        pass


def test_a_block_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(reserved(tmp_path), 4096) as descriptor:
        raise ZeroDivisionError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# Opened by a reader


def test_a_private_file_is_opened_for_reading_alone(tmp_path: Path) -> None:
    descriptor = opened(reserved(tmp_path))
    try:
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_alone_is_private(mode: int, tmp_path: Path) -> None:
    path = reserved(tmp_path)
    path.chmod(mode)
    os.close(opened(path))


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o666])
def test_a_file_that_others_may_touch_is_refused_with_its_mode(mode: int, tmp_path: Path) -> None:
    path = reserved(tmp_path)
    path.chmod(mode)
    with pytest.raises(InvalidSegment, match=f"mode 0{mode:o}, not 0600"):
        opened(path)


@pytest.mark.parametrize("what", ["link", "fifo", "directory", "nothing", "a\0b"])
def test_what_is_no_file_is_not_read_nor_waited_for(what: str, tmp_path: Path) -> None:
    path = tmp_path / what
    {
        "link": lambda: path.symlink_to(reserved(tmp_path)),
        "fifo": lambda: os.mkfifo(path, 0o600),
        "directory": lambda: path.mkdir(0o700),
    }.get(what, lambda: None)()
    with pytest.raises(InvalidSegment) as caught:
        opened(path)
    assert not isinstance(caught.value, Unpublished)
    assert caught.value.reason == caught.value.reason.lower()


def test_a_directory_or_a_pipe_is_called_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir(0o700)
    with pytest.raises(InvalidSegment, match="not a regular file"):
        opened(tmp_path / "directory")
