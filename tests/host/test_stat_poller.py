"""Polling by stat on a clock that is told: what counts as a change, and when it is looked for."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.host.stat_poller import Glance, StatPoller, glance
from tests.status.clockwork import clockwork, play

EVERY = 7.0


class Looks:
    """Answers with what was put in, and counts how often it was asked, at which second."""

    def __init__(self) -> None:
        self.now: Glance = {}
        self.at: list[float] = []
        self.changes: list[float] = []

    def __call__(self) -> Glance:
        self.at.append(clockwork().time())
        return self.now

    def change(self) -> None:
        self.changes.append(clockwork().time())

    def poller(self) -> StatPoller:
        return StatPoller(self, self.change, every=EVERY, loop=asyncio.get_running_loop())


def test_nothing_is_polled_until_it_is_started() -> None:
    async def idle() -> None:
        looks = Looks()
        looks.poller()
        assert not clockwork().timers
        assert not looks.at

    play(idle())


def test_the_first_poll_is_the_baseline_and_no_change() -> None:
    async def start() -> None:
        looks = Looks()
        looks.now = {"/a": (1, 2, 3)}
        poller = looks.poller()
        poller.start()
        assert looks.at == [0]
        await asyncio.sleep(3 * EVERY + 1)
        poller.stop()
        assert looks.at == [0, 7, 14, 21]
        assert not looks.changes

    play(start())


def test_each_difference_is_reported_once_at_the_next_poll() -> None:
    async def differ() -> None:
        looks = Looks()
        poller = looks.poller()
        poller.start()
        await asyncio.sleep(8)
        looks.now = {"/a": (1,)}
        await asyncio.sleep(18)
        looks.now = {"/a": None}
        await asyncio.sleep(20)
        poller.stop()
        assert looks.changes == [14, 28]

    play(differ())


def test_another_set_of_paths_is_a_difference_although_no_path_has_changed() -> None:
    async def differ() -> None:
        looks = Looks()
        looks.now = {"/a": (1,), "/b": None}
        poller = looks.poller()
        poller.start()
        looks.now = {"/a": (1,)}
        await asyncio.sleep(EVERY + 1)
        poller.stop()
        assert looks.changes == [7]

    play(differ())


def test_start_of_one_that_runs_changes_neither_baseline_nor_interval() -> None:
    async def start_again() -> None:
        looks = Looks()
        poller = looks.poller()
        poller.start()
        await asyncio.sleep(4)
        looks.now = {"/a": (1,)}
        poller.start()
        await asyncio.sleep(4)
        poller.stop()
        assert looks.at == [0, 7]
        assert looks.changes == [7]

    play(start_again())


def test_after_stop_nothing_is_polled_and_a_new_start_has_a_new_baseline() -> None:
    async def stop_and_start() -> None:
        looks = Looks()
        poller = looks.poller()
        poller.start()
        poller.stop()
        poller.stop()
        assert not clockwork().timers
        looks.now = {"/a": (1,)}
        await asyncio.sleep(20)
        poller.start()
        await asyncio.sleep(8)
        poller.stop()
        assert looks.at == [0, 20, 27]
        assert not looks.changes

    play(stop_and_start())


def test_a_change_reported_by_a_callback_that_stops_the_poller_is_the_last() -> None:
    async def stop_inside() -> None:
        looks = Looks()
        poller: StatPoller

        def stop() -> None:
            poller.stop()

        poller = StatPoller(looks, stop, every=EVERY, loop=asyncio.get_running_loop())
        poller.start()
        looks.now = {"/a": (1,)}
        await asyncio.sleep(50)
        assert looks.at == [0, 7]

    play(stop_inside())


def test_polling_goes_on_after_a_callback_that_fails() -> None:
    async def fail() -> None:
        loop, failures, looks = asyncio.get_running_loop(), [], Looks()
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))

        def raise_error() -> None:
            raise ZeroDivisionError

        poller = StatPoller(looks, raise_error, every=EVERY, loop=loop)
        poller.start()
        looks.now = {"/a": (1,)}
        await asyncio.sleep(8)
        looks.now = {"/a": (2,)}
        await asyncio.sleep(8)
        poller.stop()
        assert len(failures) == 2

    play(fail())


def write_in_place(path: Path) -> None:
    path.write_text("other")  # as long as before


def same_size_and_time(path: Path) -> None:
    """Write as long a text and set the time back: only ctime tells."""
    status = path.stat()
    path.write_text("other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_with_same_time(path: Path) -> None:
    status, fresh = path.stat(), path.with_name("fresh")
    fresh.write_text("other")
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.rename(path)


def replace_by_link(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.symlink_to("/etc/hostname")
    fresh.rename(path)


@pytest.mark.parametrize(
    "change",
    [
        write_in_place,
        same_size_and_time,
        replace_with_same_time,
        replace_by_link,
        lambda path: path.chmod(0o640),
        lambda path: path.write_text("longer than before"),
        lambda path: path.unlink(),
    ],
    ids=["written", "written at the same time", "replaced", "a link", "chmod", "longer", "removed"],
)
def test_what_happens_to_a_file_changes_its_status(tmp_path: Path, change: Callable[[Path], object]) -> None:
    file = tmp_path / "tls.crt"
    file.write_text("first")
    os.utime(file, ns=(1, 1))
    before = glance([str(file)])
    assert glance([str(file)]) == before
    change(file)
    assert glance([str(file)]) != before


def test_the_status_is_that_of_a_link_and_not_of_what_it_leads_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("first")
    link.symlink_to(target)
    before = glance([str(link)])
    target.write_text("another, longer text")
    assert glance([str(link)]) == before


def test_the_status_names_device_inode_mode_size_and_both_times(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    file.chmod(0o604)
    os.utime(file, ns=(5, 987_654_321_012_345_678))
    status = glance([str(file)])[str(file)]
    assert status is not None
    device, inode, mode, size, changed, _ = status
    assert (device, inode) == (tmp_path.stat().st_dev, os.stat(file).st_ino)  # noqa: PTH116  # another way to ask
    assert (oct(mode), size, changed) == ("0o100604", 5, 987_654_321_012_345_678)


def test_names_that_lead_nowhere_have_no_status(tmp_path: Path) -> None:
    places = [str(tmp_path / "missing"), "/nul\0name", "", "/" + "x" * 5000, "/etc/hostname/below a file"]
    assert glance(places) == dict.fromkeys(places)


def test_no_path_has_no_status() -> None:
    assert glance([]) == {}
