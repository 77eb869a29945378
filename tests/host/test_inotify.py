"""inotify on real directories: which events come, under which names, and what happens when there is none."""

import errno
import os
import select
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants, inotify_rm_watch

from agent.host.inotify import DirectoryEvent, Inotify, reason_of
from tests.host.signal_printer import refuse_instance


@contextmanager
def instance(passed: tuple[Path, ...] = (), holders: tuple[Path, ...] = ()) -> Iterator[Inotify]:
    made = Inotify()
    try:
        made.arm([*map(str, passed)], [*map(str, holders)])
        yield made
    finally:
        made.close()


def is_readable(inotify: Inotify) -> bool:
    return bool(select.select([inotify], [], [], 0)[0])


def events(inotify: Inotify) -> list[DirectoryEvent]:
    """Read all that the kernel has queued, without waiting."""
    found: list[DirectoryEvent] = []
    while is_readable(inotify):
        found += inotify.read()
    return found


def names(inotify: Inotify) -> list[str]:
    return [event.name for event in events(inotify)]


def test_an_entry_that_comes_goes_or_changes_its_mode_is_an_event_of_a_directory_on_the_way(tmp_path: Path) -> None:
    with instance(passed=(tmp_path,)) as inotify:
        (tmp_path / "made").touch()
        (tmp_path / "made").chmod(0o600)
        (tmp_path / "made").rename(tmp_path / "moved")
        (tmp_path / "moved").unlink()
        found = events(inotify)
    assert [event.name for event in found] == ["made", "made", "made", "moved", "moved"]
    assert {event.directory for event in found} == {str(tmp_path)}
    assert [event.is_closed for event in found] == [True, False, True, True, True]
    assert not any(event.is_modified or event.is_about_contents for event in found)


def test_a_write_is_no_event_of_a_directory_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with instance(passed=(tmp_path,)) as inotify:
        (tmp_path / "file").write_text("content")
        assert not is_readable(inotify)


def test_a_write_is_two_events_of_a_directory_with_watched_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with instance(holders=(tmp_path,)) as inotify:
        with (tmp_path / "file").open("a") as writer:
            writer.write("content")
            writer.flush()
            (written,) = events(inotify)
        (closed,) = events(inotify)
    assert (written.name, written.is_modified, written.is_closed, written.is_about_contents) == (
        "file",
        True,
        False,
        True,
    )
    assert (closed.name, closed.is_modified, closed.is_closed, closed.is_about_contents) == ("file", False, True, True)


def test_reading_a_file_is_no_event(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with instance(holders=(tmp_path,)) as inotify:
        (tmp_path / "file").read_text()
        list(tmp_path.iterdir())
        assert not is_readable(inotify)


def test_writes_to_a_file_that_has_been_replaced_are_no_event_of_its_name(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as writer, instance(holders=(tmp_path,)) as inotify:
        (tmp_path / "file").unlink()
        events(inotify)
        writer.write("nobody can read this")
        writer.flush()
        assert not is_readable(inotify)


@pytest.mark.parametrize("method", [shutil.rmtree, lambda path: path.rename(path.with_name("away"))])
def test_a_directory_that_is_moved_or_removed_itself_is_an_event_without_a_name(
    tmp_path: Path, method: Callable[[Path], object]
) -> None:
    directory = tmp_path / "certs"
    directory.mkdir()
    with instance(passed=(directory,)) as inotify:
        method(directory)
        found = events(inotify)
    assert found
    assert {(event.directory, event.name) for event in found} == {(str(directory), "")}
    assert not any(event.is_modified or event.is_closed or event.is_about_contents for event in found)


def test_a_removed_directory_is_watched_no_longer_and_can_be_watched_anew(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    directory.mkdir()
    with instance(passed=(directory,)) as inotify:
        shutil.rmtree(directory)
        ended = [event for event in events(inotify) if event.mask == InotifyConstants.IN_IGNORED]
        assert [(event.directory, event.name) for event in ended] == [(str(directory), "")]
        directory.mkdir()
        (directory / "unseen").touch()
        assert not is_readable(inotify)
        inotify.arm([str(directory)], [])
        (directory / "seen").touch()
        assert names(inotify) == ["seen"]


def test_a_watch_that_the_kernel_has_ended_is_reported(tmp_path: Path) -> None:
    with instance(passed=(tmp_path,)) as inotify:
        for descriptor in list(inotify._directories):
            inotify_rm_watch(inotify.fileno(), descriptor)
        assert events(inotify) == [DirectoryEvent(str(tmp_path), "", InotifyConstants.IN_IGNORED)]
        inotify.arm([], [])  # and is not removed once more


def test_only_the_directories_named_last_are_watched(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with instance(passed=(first,)) as inotify:
        assert inotify.arm([str(second)], []) == {}
        events(inotify)
        (first / "unseen").touch()
        (second / "seen").touch()
        assert names(inotify) == ["seen"]
        inotify.arm([], [])
        events(inotify)
        (second / "unseen").touch()
        assert not is_readable(inotify)


def test_arming_the_same_directories_again_loses_nothing_and_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings(), instance(holders=(tmp_path,)) as inotify:
        warnings.simplefilter("error")
        (tmp_path / "before").mkdir()
        for _ in range(3):
            inotify.arm([], [str(tmp_path)])
        (tmp_path / "after").mkdir()
        assert names(inotify) == ["before", "after"]


def test_a_directory_becomes_one_with_watched_files_and_ceases_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with instance(passed=(tmp_path,)) as inotify:
        inotify.arm([], [str(tmp_path)])
        (tmp_path / "file").write_text("content")
        assert set(names(inotify)) == {"file"}
        inotify.arm([str(tmp_path)], [])
        (tmp_path / "file").write_text("content")
        assert not is_readable(inotify)


def test_a_directory_reached_by_two_paths_has_each_event_once_per_path(tmp_path: Path) -> None:
    """As with a bind mount, which has one inode: here the path has a second slash."""
    with instance() as inotify:
        other = f"/{tmp_path}"
        inotify.arm([str(tmp_path)], [other])
        (tmp_path / "file").touch()
        found = events(inotify)
        assert sorted({event.directory for event in found}) == sorted([str(tmp_path), other])
        assert any(event.is_about_contents for event in found)  # the wider of both sets of events
        shutil.rmtree(tmp_path)
        ended = [event.directory for event in events(inotify) if event.mask == InotifyConstants.IN_IGNORED]
        assert sorted(ended) == sorted([str(tmp_path), other])


@pytest.mark.parametrize("kind", ["missing", "file", "link to a directory", "below a file"])
def test_what_is_no_directory_is_left_out_without_a_reason(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link to a directory").symlink_to(tmp_path)
    path = tmp_path / "file" / "x" if kind == "below a file" else tmp_path / kind
    with instance() as inotify:
        assert inotify.arm([str(path)], []) == {}
        assert inotify.arm([str(path), str(tmp_path)], []) == {}
        (tmp_path / "made").touch()
        assert names(inotify) == ["made"]


def test_a_directory_without_access_is_named_with_the_reason_and_the_others_are_watched(ordinary: Path) -> None:
    locked, open_one = ordinary / "locked", ordinary / "open"
    locked.mkdir(0o311)
    open_one.mkdir()
    with instance() as inotify:
        for _ in range(2):
            assert inotify.arm([str(locked), str(open_one)], []) == {str(locked): "permission denied"}
        (open_one / "made").touch()
        assert names(inotify) == ["made"]
    locked.chmod(0o700)


def test_a_limit_that_is_reached_is_the_reason_for_each_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(Inotify, "_get_or_create_watch", refuse)
    with instance() as inotify:
        refused = inotify.arm([str(tmp_path)], ["/"])
    assert refused.keys() == {str(tmp_path), "/"}
    assert all("fs.inotify.max_user_watches" in why for why in refused.values())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "inotify watch limit reached"), "fs.inotify.max_user_watches"),
        (OSError(errno.EMFILE, "inotify instance limit reached"), "fs.inotify.max_user_instances"),
        (OSError(errno.EACCES, "Permission denied"), "permission denied"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "/certs"), "cannot allocate memory"),
        (OSError("Without A Number"), "without a number"),
    ],
)
def test_an_error_is_described_with_the_limit_to_raise(error: OSError, words: str) -> None:
    assert words in reason_of(error)


def test_names_are_those_of_the_file_system_whatever_bytes_they_have(tmp_path: Path) -> None:
    odd = [b"\xff\xfe", b"new\nline", b" ", b"-", "ж".encode(), b"x" * 255]
    with instance(passed=(tmp_path,)) as inotify:
        for name in odd:
            Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).mkdir()
        assert [os.fsencode(name) for name in names(inotify)] == odd


def test_a_directory_may_have_any_name(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n"))
    directory.mkdir()
    with instance(passed=(directory,)) as inotify:
        (directory / "file").mkdir()
        assert [event.directory for event in events(inotify)] == [str(directory)]


def test_a_burst_is_read_in_order(tmp_path: Path) -> None:
    with instance(passed=(tmp_path,)) as inotify:
        for number in range(300):
            (tmp_path / f"{number}").mkdir()
        assert names(inotify) == [f"{number}" for number in range(300)]


def test_events_that_were_lost_are_one_event_without_directory_and_name(tmp_path: Path) -> None:
    with instance(passed=(tmp_path, Path("/"))) as inotify:
        inotify.on_queue_overflow()
        assert inotify._heard == [DirectoryEvent("", "", InotifyConstants.IN_Q_OVERFLOW)]


def test_each_read_has_the_events_since_the_last_one(tmp_path: Path) -> None:
    with instance(passed=(tmp_path,)) as inotify:
        (tmp_path / "first").mkdir()
        first = inotify.read()
        (tmp_path / "second").mkdir()
        assert [event.name for event in inotify.read()] == ["second"]
        assert [event.name for event in first] == ["first"]


def test_an_event_of_a_watch_that_is_no_longer_ours_is_none(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    directory.mkdir()
    with instance(passed=(directory,)) as inotify:
        (directory / "queued").mkdir()
        inotify.arm([], [])
        assert events(inotify) == []


def test_a_program_that_is_started_does_not_inherit_the_descriptor() -> None:
    with instance() as inotify:
        assert not os.get_inheritable(inotify.fileno())


def test_close_closes_every_descriptor_and_may_be_called_twice(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names
    with instance(passed=(tmp_path,)) as inotify:
        (tmp_path / "unread").touch()
        assert inotify.read()
    inotify.close()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_an_instance_that_has_been_read_is_closed_at_once(tmp_path: Path) -> None:
    inotify = Inotify()
    inotify.arm([str(tmp_path)], [])
    descriptor = inotify.fileno()
    inotify.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


def test_an_instance_that_cannot_be_completed_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture of the folder compares the descriptors."""
    monkeypatch.setattr(os, "pipe", refuse_instance)
    with pytest.raises(OSError, match="limit"):
        Inotify()


def test_an_instance_of_which_there_is_none_raises_the_error_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inotify, "_create_inotify_fd", refuse_instance)
    with pytest.raises(OSError, match="limit"):
        Inotify()
