"""The watcher on real files: nothing that can matter is missed, and nothing else wakes anybody."""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import Mask, WatchDescriptor, inotify_rm_watch

from agent.host import inotify, watching
from agent.host.files import list_directory
from agent.host.mounts import MountTable, read_mounts
from agent.host.walks import Survey
from agent.host.watching import Change, Mode, Watcher

WITHIN = 5.0
"""Seconds in which a change must be reported: some hundred microseconds are usual, the rest is for a loaded machine."""

SWAPS = 5
"""Times in a row that every layout is changed: what was armed once only shows at the second."""

TURNS = 60
"""Turns of the loop in which everything the kernel has queued is read, some 2,000 events each."""


class Ear:
    """Collects what a watcher reports, and waits for it."""

    def __init__(self) -> None:
        self.watcher: Watcher
        self.changes: list[Change] = []
        self.notices: list[str] = []
        self._news = asyncio.Event()

    def hear(self, change: Change) -> None:
        self.changes.append(change)
        self._news.set()

    async def hears(self) -> Change:
        """Wait for a report since the last hush."""
        async with asyncio.timeout(WITHIN):
            await self._news.wait()
        return self.changes[-1]

    async def hush(self) -> None:
        """Let everything be reported that has happened so far, and forget it.

        The system call that makes a change also queues its event, so a few turns of the loop are enough, and no time.
        """
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.changes.clear()
        self._news.clear()

    async def hears_each(self, *deeds: Callable[[], object]) -> None:
        """Do these one after the other, and hear a report after each."""
        for deed in deeds:
            await self.hush()
            deed()
            await self.hears()

    async def hears_nothing(self) -> bool:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return not self.changes


@asynccontextmanager
async def watching_paths(
    *paths: Path, mounts: Callable[[], MountTable] = read_mounts, poll_every: float = 0.01
) -> AsyncIterator[Ear]:
    """Watch these paths until the end of the block."""
    ear = Ear()
    loop = asyncio.get_running_loop()
    ear.watcher = Watcher(ear.hear, notice=ear.notices.append, loop=loop, poll_every=poll_every, mounts=mounts)
    try:
        ear.watcher.watch(map(str, paths))
        yield ear
    finally:
        ear.watcher.close()


def replace(path: Path, text: str) -> None:
    """Put new content in the place of a file by a rename, as careful writers do."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.rename(path)


def replace_link(path: Path, target: str | Path) -> None:
    """Make a link lead elsewhere, in one step."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.symlink_to(target)
    fresh.rename(path)


def publish(volume: Path, version: int) -> None:
    """Write a new version into a volume and drop the one before, in the kubelet's way (its AtomicWriter)."""
    stamped = volume / f"..{version}"
    stamped.mkdir(parents=True)
    (stamped / "tls.crt").write_text(f"certificate {version}")
    (stamped / "tls.key").write_text(f"key {version}")
    replace_link(volume / "..data", stamped.name)
    for name in ("tls.crt", "tls.key"):
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")
    shutil.rmtree(volume / f"..{version - 1}", ignore_errors=True)


async def test_a_file_replaced_by_a_rename_is_reported_each_time(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_text("0")
    async with watching_paths(chain) as ear:
        await ear.hears_each(*(partial(replace, chain, str(n)) for n in range(SWAPS)))


async def test_a_file_written_in_place_is_reported_each_time(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    async with watching_paths(chain) as ear:
        await ear.hears_each(*[lambda: chain.write_text("anew")] * SWAPS)


async def test_a_file_replaced_by_a_hard_link_is_reported_each_time(tmp_path: Path) -> None:
    chain, other = tmp_path / "chain.pem", tmp_path / "elsewhere"
    other.write_text("content")

    def link() -> None:
        chain.unlink(missing_ok=True)
        chain.hardlink_to(other)

    async with watching_paths(chain) as ear:
        await ear.hears_each(*[link] * SWAPS)


async def test_a_file_removed_and_made_readable_is_reported(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_text("0")
    async with watching_paths(chain) as ear:
        await ear.hears_each(lambda: chain.chmod(0o000), lambda: chain.chmod(0o600), chain.unlink)


async def test_a_mounted_secret_is_followed_through_every_version(tmp_path: Path) -> None:
    volume = tmp_path / "certs"
    publish(volume, 0)
    async with watching_paths(volume) as ear:
        await ear.hears_each(*(partial(publish, volume, n) for n in range(1, SWAPS)))
        await ear.hears_each(lambda: (volume / "..data/tls.crt").write_text("in place, in the newest version"))


async def test_single_files_of_a_mounted_secret_are_followed_through_links_of_links(tmp_path: Path) -> None:
    volume, alias = tmp_path / "volumes" / "certs", tmp_path / "etc"
    publish(volume, 0)
    alias.symlink_to("volumes/../volumes/certs")
    async with watching_paths(alias / "tls.crt", alias / "tls.key") as ear:
        await ear.hears_each(*(partial(publish, volume, n) for n in range(1, SWAPS)))


async def test_a_link_far_up_the_path_is_followed_each_time_it_is_exchanged(tmp_path: Path) -> None:
    for version in range(SWAPS):
        (tmp_path / f"v{version}" / "a" / "b").mkdir(parents=True)
        (tmp_path / f"v{version}" / "a" / "b" / "chain.pem").write_text(str(version))
    current = tmp_path / "current"
    current.symlink_to("v0")
    async with watching_paths(current / "a" / "b" / "chain.pem") as ear:
        for version in range(1, SWAPS):
            newest = tmp_path / f"v{version}"
            await ear.hears_each(
                partial(replace_link, current, newest),
                partial((newest / "a" / "b" / "chain.pem").write_text, "anew"),
            )


async def test_a_directory_removed_and_made_anew_is_followed_each_time(tmp_path: Path) -> None:
    certs = tmp_path / "deep" / "certs"
    certs.mkdir(parents=True)
    async with watching_paths(certs) as ear:
        for _ in range(SWAPS):
            await ear.hears_each(
                lambda: shutil.rmtree(tmp_path / "deep"),
                lambda: certs.mkdir(parents=True),
                lambda: (certs / "tls.crt").write_text("anew"),
            )


async def test_a_directory_moved_away_and_another_put_in_its_place_is_followed(tmp_path: Path) -> None:
    top, away = tmp_path / "top", tmp_path / "away"
    chain = top / "certs" / "chain.pem"
    chain.parent.mkdir(parents=True)
    async with watching_paths(chain) as ear:
        for _ in range(SWAPS):
            await ear.hears_each(
                lambda: top.rename(away),
                lambda: chain.parent.mkdir(parents=True),
                lambda: chain.write_text("anew"),
            )
            await ear.hush()
            (away / "certs" / "chain.pem").write_text("nobody looks here any more")
            assert await ear.hears_nothing()
            shutil.rmtree(away)


async def test_a_path_that_does_not_exist_yet_is_found_level_by_level(tmp_path: Path) -> None:
    chain = tmp_path / "a" / "b" / "c" / "chain.pem"
    async with watching_paths(chain) as ear:
        await ear.hears_each(*(parent.mkdir for parent in reversed(chain.parents[:3])), chain.touch)


async def test_a_whole_tree_that_appears_at_once_is_watched_to_its_end(tmp_path: Path) -> None:
    chain = tmp_path / "a" / "b" / "chain.pem"
    async with watching_paths(chain) as ear:
        chain.parent.mkdir(parents=True)  # no turn of the loop between the two: the inner one comes unheard
        await ear.hears()
        await ear.hears_each(lambda: chain.write_text("1"))


async def test_a_dangling_link_is_reported_when_its_target_comes(tmp_path: Path) -> None:
    chain, target = tmp_path / "chain.pem", tmp_path / "later" / "chain.pem"
    chain.symlink_to(target)
    async with watching_paths(chain) as ear:
        await ear.hears_each(target.parent.mkdir, target.touch)


async def test_links_that_lead_in_circles_end_and_are_still_watched(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    async with watching_paths(one) as ear:
        await ear.hears_each(lambda: replace(other, "a file now"), lambda: other.write_text("written through the link"))


async def test_entries_of_a_directory_come_and_go_and_those_of_its_sub_directories_do_not_count(tmp_path: Path) -> None:
    certs, elsewhere = tmp_path / "certs", tmp_path / "elsewhere"
    (certs / "below").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "real").touch()
    async with watching_paths(certs) as ear:
        await ear.hears_each(
            (certs / "fresh.pem").touch,
            lambda: (certs / "linked.pem").symlink_to(elsewhere / "real"),
            lambda: (elsewhere / "real").write_text("anew"),
            (certs / "linked.pem").unlink,
        )
        await ear.hush()
        (certs / "below" / "file").touch()
        (certs / ".hidden").touch()
        (elsewhere / "real").write_text("nothing leads here any more")
        assert await ear.hears_nothing()


async def test_a_thousand_strangers_in_the_directories_above_wake_nobody(tmp_path: Path) -> None:
    chain = tmp_path / "certs" / "chain.pem"
    chain.parent.mkdir()
    chain.touch()
    async with watching_paths(chain) as ear:
        for number in range(1000):
            stranger = tmp_path / f"stranger-{number}"
            stranger.touch()
            stranger.rename(chain.parent / stranger.name)
            (chain.parent / stranger.name).unlink()
        assert await ear.hears_nothing()
        await ear.hears_each(lambda: chain.write_text("1"))


async def test_a_burst_is_one_report(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    async with watching_paths(chain) as ear:
        for number in range(100):
            replace(chain, str(number))
        await ear.hush()
        for number in range(100):
            replace(chain, str(number))
        assert not await ear.hears_nothing()
        assert len(ear.changes) == 1


async def test_a_file_is_being_written_until_its_writer_closes_it(tmp_path: Path) -> None:
    certs, named = tmp_path / "certs", tmp_path / "named.pem"
    certs.mkdir()
    named.symlink_to("certs/chain.pem")
    async with watching_paths(certs, named) as ear:
        with (certs / "chain.pem").open("w") as writer:
            await ear.hush()
            writer.write("half")
            writer.flush()
            assert (await ear.hears()).writing == {str(certs / "chain.pem"), str(named)} == ear.watcher.writing
            waiting = asyncio.ensure_future(ear.watcher.settled([str(named)]))
            await ear.hush()
            assert not waiting.done()
        assert (await ear.hears()).writing == frozenset()
        await asyncio.wait_for(waiting, WITHIN)


async def test_files_being_written_are_named_as_they_are_listed(tmp_path: Path) -> None:
    async with watching_paths() as ear:
        ear.watcher.watch([f"{tmp_path}/"])
        with (tmp_path / "chain.pem").open("w") as writer:
            writer.write("half")
            writer.flush()
            await ear.hears()
            assert sorted(ear.watcher.writing) == list_directory(f"{tmp_path}/")


async def test_a_name_that_nothing_can_have_is_watched_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inotify.Inotify, "__init__", refuse_instance)
    async with watching_paths(tmp_path / "nul\0", tmp_path / "chain.pem") as ear:
        await ear.hears_each((tmp_path / "chain.pem").touch)


def remove_directory(file: Path) -> None:
    shutil.rmtree(file.parent)


@pytest.mark.parametrize("end", [Path.unlink, partial(replace, text="whole"), remove_directory])
async def test_a_writer_of_a_file_that_is_gone_is_not_waited_for(tmp_path: Path, end: Callable[[Path], object]) -> None:
    chain = tmp_path / "certs" / "chain.pem"
    chain.parent.mkdir()
    async with watching_paths(chain) as ear:
        with chain.open("w") as writer:
            writer.write("half")
            writer.flush()
            assert str(chain) in (await ear.hears()).writing
            end(chain)
            await ear.hush()
            writer.write("the other half")
            writer.flush()
            await ear.hush()
            assert not ear.watcher.writing


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


async def test_a_watch_that_the_kernel_ends_is_made_anew(tmp_path: Path) -> None:
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
        monkeypatch.setattr(Survey, "of", lambda _: pytest.fail("walked"))
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
    """Name the descriptors that a program started now would have."""
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


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "inotify watch limit reached")


def refuse_instance(*_: object) -> None:
    raise OSError(errno.EMFILE, "inotify instance limit reached")


@pytest.mark.parametrize("method", ["_watch", "__init__"])
async def test_without_inotify_changes_are_looked_for_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(inotify.Inotify, method, {"_watch": refuse, "__init__": refuse_instance}[method])
    volume = tmp_path / "certs"
    publish(volume, 0)
    async with watching_paths(volume) as ear:
        await ear.hears_each(
            *(partial(publish, volume, n) for n in range(1, SWAPS)),
            lambda: (volume / "..data/tls.crt").write_text("in place"),
            (volume / "fresh.pem").touch,
            lambda: shutil.rmtree(volume),
        )
        assert ear.watcher.mode.kind == "polling"
        assert "fs.inotify.max_user_" in ear.watcher.mode.reason
        assert len(ear.notices) == 1
        assert ear.watcher.mode.reason in ear.notices[0]


async def test_refused_directories_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RETRY", 0.01)
    watch, refusals = inotify.Inotify._watch, iter(range(10))
    heard_again = asyncio.Event()

    def refuse_at_first(self: inotify.Inotify, directory: str, mask: Mask) -> WatchDescriptor:
        for _ in refusals:
            refuse()
        heard_again.set()
        return watch(self, directory, mask)

    monkeypatch.setattr(inotify.Inotify, "_watch", refuse_at_first)
    async with watching_paths(tmp_path, poll_every=3600) as ear:
        assert ear.watcher.mode.kind == "polling"
        await asyncio.wait_for(heard_again.wait(), WITHIN)
        await ear.hears_each((tmp_path / "fresh.pem").touch)


async def test_a_directory_that_may_not_be_read_is_looked_at_until_it_may(ordinary: Path) -> None:
    certs = ordinary / "certs"
    certs.mkdir()
    certs.chmod(0o311)
    async with watching_paths(certs / "tls.crt") as ear:
        assert ear.watcher.mode == Mode("polling", "permission denied")
        await ear.hears_each(*[partial(replace, certs / "tls.crt", "anew")] * SWAPS)
        await ear.hears_each(partial(certs.chmod, 0o711))
        assert ear.watcher.mode == Mode("inotify", "")
        assert ear.notices == [f"cannot watch {certs}: permission denied; looking every 0.01 s instead"]


async def test_a_directory_that_is_opened_up_is_entered(ordinary: Path) -> None:
    certs = ordinary / "deep" / "certs"
    certs.mkdir(parents=True)
    certs.parent.chmod(0o000)
    async with watching_paths(certs, poll_every=3600) as ear:
        await ear.hears_each(partial(certs.parent.chmod, 0o700), (certs / "tls.crt").touch)


async def test_a_network_mount_is_looked_at_from_the_beginning(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    table = MountTable.parse(
        f"22 1 254:0 / / rw - ext4 /dev/vda rw\n36 22 0:44 / {tmp_path} rw,relatime shared:1 - nfs4 server:/export rw\n"
    )
    async with watching_paths(certs, mounts=lambda: table) as ear:
        assert ear.watcher.mode.kind == "polling"
        await ear.hears_each(*[lambda: replace(certs / "tls.crt", "anew")] * SWAPS)
        assert [f"the nfs4 mount at {tmp_path}" in notice for notice in ear.notices] == [True]


async def test_a_file_that_is_a_mount_is_looked_at_and_what_that_means_is_said_once(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.touch()
    table = MountTable.parse(f"36 22 254:0 /source/chain.pem {chain} rw - ext4 /dev/vda rw\n")
    async with watching_paths(chain, tmp_path, mounts=lambda: table) as ear:
        await ear.hears_each(*[lambda: chain.write_text("anew")] * SWAPS)
        assert [f"{chain}: it is a mount of a single file" in notice for notice in ear.notices] == [True]
        assert ear.watcher.mode.kind == "polling"
