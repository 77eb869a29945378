"""Unchanged files are not opened again, and a change is never missed."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.certificates.contents import Unreadable
from agent.host import known_files
from agent.host.known_files import SETTLED, KnownFiles, digests


@dataclass
class Reads:
    """Counts the reads of files, on a clock that the test sets."""

    now: float = 100.0
    paths: list[str] = field(default_factory=list)

    def read(self, path: str) -> bytes | Unreadable:
        self.paths.append(path)
        return Path(path).read_bytes()

    def taken(self) -> int:
        """Return the number of reads since the last call."""
        taken, self.paths = len(self.paths), []
        return taken


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads = Reads()
    monkeypatch.setattr(known_files, "read_file", reads.read)
    return reads


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    return path


def settled(known: KnownFiles, file: Path, reads: Reads) -> bytes:
    """Read the file as often as it takes to believe its status; return the content."""
    known.read(str(file))
    reads.now += SETTLED
    content = known.read(str(file))
    assert isinstance(content, bytes)
    reads.taken()
    return content


def known_at(reads: Reads) -> KnownFiles:
    return KnownFiles(now=lambda: reads.now)


def test_a_file_at_rest_is_not_opened_again_and_its_content_is_one_object(file: Path, reads: Reads) -> None:
    known = known_at(reads)
    content = settled(known, file, reads)
    assert known.read(str(file)) is content
    assert reads.taken() == 0


def test_a_file_whose_status_proved_its_content_was_not_opened(file: Path, reads: Reads) -> None:
    known, path, gone = known_at(reads), str(file), str(file.with_name("gone"))
    known.read(path)
    assert known.opened([path, gone]) == [path, gone]
    settled(known, file, reads)
    assert known.opened([path]) == [path], "it was read once more to believe its status"
    known.read(path)
    assert known.opened([path]) == []
    file.write_bytes(b"other")
    known.read(path)
    assert known.opened([path]) == [path]


def test_a_status_seen_just_before_the_read_is_not_believed(file: Path, reads: Reads) -> None:
    known = known_at(reads)
    first = known.read(str(file))
    assert known.read(str(file)) is first, "an equal content is the same object"
    reads.now += SETTLED - 0.001
    assert known.read(str(file)) is first
    assert reads.taken() == 3
    reads.now += 0.001
    known.read(str(file))
    known.read(str(file))
    assert reads.taken() == 1


@pytest.mark.parametrize("size", [5, 6])
def test_a_write_is_seen(size: int, file: Path, reads: Reads) -> None:
    known = known_at(reads)
    settled(known, file, reads)
    file.write_bytes(b"x" * size)
    assert known.read(str(file)) == b"x" * size


def test_a_write_whose_time_is_set_back_is_seen(file: Path, reads: Reads) -> None:
    known, before = known_at(reads), file.stat()
    settled(known, file, reads)
    file.write_bytes(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.read(str(file)) == b"other"


def test_another_file_under_the_name_is_seen(file: Path, reads: Reads) -> None:
    known = known_at(reads)
    settled(known, file, reads)
    beside = file.with_name("beside")
    beside.write_bytes(b"other")
    beside.replace(file)
    assert known.read(str(file)) == b"other"


def test_a_link_that_is_exchanged_is_seen(file: Path, reads: Reads) -> None:
    known, link = known_at(reads), file.with_name("link")
    link.symlink_to(file)
    settled(known, link, reads)
    file.with_name("second").write_bytes(b"other")
    link.unlink()
    link.symlink_to("second")
    assert known.read(str(link)) == b"other"


def test_a_new_status_has_to_settle_anew(file: Path, reads: Reads) -> None:
    known = known_at(reads)
    settled(known, file, reads)
    file.write_bytes(b"other")
    for _ in range(3):
        known.read(str(file))
    assert reads.taken() == 3


def test_times_in_whole_seconds_are_not_believed(file: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "_status", lambda _: (1, 2, 5, 7, 3_000_000_000))
    known = known_at(reads)
    settled(known, file, reads)
    known.read(str(file))
    assert reads.taken() == 1


def test_a_file_that_vanishes_or_cannot_exist_is_unreadable(file: Path) -> None:
    known = KnownFiles()
    assert known.read(str(file)) == b"first"
    file.unlink()
    assert isinstance(known.read(str(file)), Unreadable)
    assert isinstance(known.read("a\0b"), Unreadable)


def test_what_was_not_read_since_is_forgotten(file: Path, reads: Reads) -> None:
    known, other = known_at(reads), file.with_name("other")
    other.write_bytes(b"other")
    settled(known, file, reads)
    settled(known, other, reads)
    known.forget_unused()
    known.read(str(file))
    assert reads.taken() == 0
    known.forget_unused()
    known.read(str(file))
    known.read(str(other))
    assert reads.paths == [str(other)]


def test_digests_take_the_place_of_contents(file: Path) -> None:
    assert digests().read(str(file)) == hashlib.sha256(b"first").digest()
