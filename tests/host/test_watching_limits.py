"""The watcher where the kernel loses events, ends watches or gets many of them."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import inotify_rm_watch

from agent.host import inotify, watching
from agent.host.path_resolver import PathResolver
from tests.host.signal_printer import refuse_instance, replace, replace_link, watching_paths


async def test_an_overflowing_queue_is_a_change_and_everything_is_watched_as_before(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if queue > 100_000:
        pytest.skip(f"a queue of {queue} events takes too long to fill")
    async with watching_paths(certs / "chain.pem") as ear:
        for number in range(queue // 2 + 100):  # two events each
            stranger = certs / f"{number}"
            stranger.touch()
            stranger.unlink()
        shutil.rmtree(certs)
        certs.mkdir()
        await ear.hears()
        await ear.hears_each((certs / "chain.pem").touch, (certs / "chain.pem").unlink)


async def test_a_watch_that_the_kernel_ends_is_created_again(tmp_path: Path) -> None:
    async with watching_paths(tmp_path) as ear:
        assert ear.watcher._inotify is not None
        for descriptor in ear.watcher._inotify._directories:
            assert inotify_rm_watch(ear.watcher._inotify.fileno(), descriptor) == 0
        await ear.hears()
        await ear.hears_each((tmp_path / "fresh.pem").touch)


async def test_what_changes_between_walking_and_watching_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = tmp_path / "current" / "chain.pem"
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "chain.pem").touch()
    (tmp_path / "current").symlink_to("v1")
    arm, swaps = inotify.Inotify.arm, iter(["v2"])

    def arm_late(self: inotify.Inotify, passed: set[str], holders: set[str]) -> dict[str, str]:
        for target in swaps:
            replace_link(tmp_path / "current", target)
        return arm(self, passed, holders)

    monkeypatch.setattr(inotify.Inotify, "arm", arm_late)
    async with watching_paths(chain) as ear:
        await ear.hears_each(lambda: (tmp_path / "v2" / "chain.pem").write_text("anew"))


async def test_paths_that_do_not_hold_still_are_walked_again_in_another_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = tmp_path / "1" / "2" / "3" / "4" / "chain.pem"
    growth = reversed(chain.parents[:4])
    arm = inotify.Inotify.arm

    def arm_late(self: inotify.Inotify, passed: set[str], holders: set[str]) -> dict[str, str]:
        for parent in growth:
            parent.mkdir()
            break
        return arm(self, passed, holders)

    monkeypatch.setattr(watching, "_ROUNDS", 1)
    monkeypatch.setattr(inotify.Inotify, "arm", arm_late)
    async with watching_paths(chain) as ear:
        await ear.hears()
        await ear.hears_each(chain.touch)


async def test_a_new_set_of_paths_takes_the_place_of_the_old(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "chain.pem", tmp_path / "new" / "chain.pem"
    old.parent.mkdir()
    new.parent.mkdir()
    async with watching_paths(old) as ear:
        ear.watcher.watch([str(new)])
        await ear.hears_each(new.touch)
        await ear.hush()
        old.touch()
        assert await ear.hears_nothing()


async def test_the_same_set_again_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching_paths(tmp_path) as ear:
        monkeypatch.setattr(PathResolver, "of", lambda _: pytest.fail("walked"))
        ear.watcher.watch([str(tmp_path)])


async def test_no_descriptor_is_inherited_by_an_epoch(tmp_path: Path) -> None:
    before = inheritable()
    async with watching_paths(tmp_path):
        assert inheritable() == before


async def test_an_instance_that_cannot_be_completed_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pipe", refuse_instance)
    async with watching_paths(tmp_path) as ear:
        assert ear.watcher.mode.kind == "polling"


async def test_ten_thousand_files_cost_one_watch_and_one_descriptor(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    for number in range(10_000):
        (certs / f"{number}.pem").touch()
    async with watching_paths(certs) as ear:
        assert watches() == [len(certs.parts)]
        await ear.hears_each(lambda: replace(certs / "77.pem", "anew"))


def inheritable() -> set[str]:
    """Return the descriptors that a program started now would inherit."""
    inherited = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists the directory
            if os.get_inheritable(int(entry.name)):
                inherited.add(entry.name)
    return inherited


def watches() -> list[int]:
    """Count the watches of each inotify instance of this process: proc_pid_fdinfo(5)."""
    texts = []
    for descriptor in Path("/proc/self/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the directory
            texts.append(descriptor.read_text())
    return [text.count("inotify wd:") for text in texts if "inotify wd:" in text]
