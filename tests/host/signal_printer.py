"""Shared parts of the watcher's tests: a recorder of its reports, and the ways in which files are changed."""

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.host.mounts import MountTable, read_mounts
from agent.host.watching import Change, Watcher
from tests.system.eventually import PATIENCE

SWAPS = 5
"""Number of consecutive changes of each layout: a watch that was not renewed shows only at the second."""

TURNS = 60
"""Loop iterations in which all events queued in the kernel are read, about 2,000 events each."""


class Ear:
    """Records the reports of a watcher, and waits for them."""

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
        async with asyncio.timeout(PATIENCE):
            await self._news.wait()
        return self.changes[-1]

    async def hush(self) -> None:
        """Let all reports of earlier changes arrive, and discard them.

        The system call that makes a change also queues its event, so a few iterations of the loop suffice, without
        a delay.
        """
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.changes.clear()
        self._news.clear()

    async def hears_each(self, *deeds: Callable[[], object]) -> None:
        """Make these changes in sequence, and wait for a report after each."""
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
    """Watch these paths during the block."""
    ear = Ear()
    loop = asyncio.get_running_loop()
    ear.watcher = Watcher(ear.hear, notice=ear.notices.append, loop=loop, poll_every=poll_every, mounts=mounts)
    try:
        ear.watcher.watch(map(str, paths))
        yield ear
    finally:
        ear.watcher.close()


def replace(path: Path, text: str) -> None:
    """Replace a file by a rename."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.rename(path)


def replace_link(path: Path, target: str | Path) -> None:
    """Change the target of a link in one step."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.symlink_to(target)
    fresh.rename(path)


def publish(volume: Path, version: int) -> None:
    """Write a new version into a volume and remove the previous one, as the kubelet does (its AtomicWriter)."""
    stamped = volume / f"..{version}"
    stamped.mkdir(parents=True)
    (stamped / "tls.crt").write_text(f"certificate {version}")
    (stamped / "tls.key").write_text(f"key {version}")
    replace_link(volume / "..data", stamped.name)
    for name in ("tls.crt", "tls.key"):
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")
    shutil.rmtree(volume / f"..{version - 1}", ignore_errors=True)


def refuse_instance(*_: object) -> None:
    raise OSError(errno.EMFILE, "inotify instance limit reached")
