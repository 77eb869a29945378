"""What the tests of the watcher share: an ear for its reports, and the ways in which files are changed."""

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
        async with asyncio.timeout(PATIENCE):
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


def refuse_instance(*_: object) -> None:
    raise OSError(errno.EMFILE, "inotify instance limit reached")
