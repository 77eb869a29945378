"""A thread for file access, so that a hanging file system (FUSE, NFS) blocks no other work.

Its own loop runs the watcher and reads files. It is a daemon thread, so the process can exit while a call in it hangs.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

from agent.certificates.contents import Contents, Unreadable
from agent.host.files import Tree, list_directory, list_tree, read_stable
from agent.host.known_files import KnownFiles, digests
from agent.host.watching import Watcher

_LEAVE = 1.0  # seconds that `close` waits for the thread
_ANSWER = 1.0  # seconds until a file system counts as not responding
_STEP = 0.002
_TURNS = 2  # of the thread's loop, after which the watcher has handled all events
_PAIR = 0.001  # seconds in which a writer renames the second file of a pair after the first

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DiskThread:
    """Watches, lists and reads files in a thread.

    `on_change` and `notice` are called in the loop that constructed it, see `Watcher`. `on_change` is also called when
    the watcher waits for the file system too long: the read that follows detects that it does not respond.
    """

    def __init__(self, on_change: Callable[[], None], notice: Callable[[str], None]) -> None:
        outside = asyncio.get_running_loop()
        self._outside = outside
        self._contents = KnownFiles()
        self._digests = digests()
        self._on_change = on_change
        self._waits: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)
        self.newest_change = 0
        """The number of the newest change that was reported."""
        self._loop = asyncio.new_event_loop()
        self._watcher = Watcher(
            lambda _: self._report(),
            notice=lambda text: _call(outside, notice, text),
            on_touch=lambda begins: _call(outside, self._touches, begins),
            loop=self._loop,
        )
        self._thread = threading.Thread(target=self._run, daemon=True, name="disk")
        self._thread.start()

    def _touches(self, begins: bool) -> None:
        if self._waits is not None:
            self._waits.cancel()
        self._waits = self._outside.call_later(_ANSWER, self._report) if begins else None

    def _report(self) -> None:
        self.newest_change = next(self._numbers)
        _call(self._outside, self._on_change)

    def _run(self) -> None:
        self._loop.run_forever()
        self._watcher.close()
        self._loop.run_until_complete(_cancel_all())
        self._loop.close()

    @property
    def mode(self) -> str:
        """How changes are detected: `inotify` or `polling`."""
        return self._watcher.mode.kind

    async def watch(self, paths: Iterable[str]) -> None:
        """Watch exactly these paths; a read afterwards misses no change."""
        await self.call(self._watcher.watch, list(paths))

    async def settle(self) -> int:
        """Return `newest_change` after a moment in which more may follow; later reads see all of these changes."""

        async def settled() -> int:
            await asyncio.sleep(_PAIR)  # the loop has read all events when it resumes this
            return self.newest_change

        return await self._do(settled())

    async def read(self, paths: Collection[str], settle_timeout: float) -> Contents:
        """Read files until they are stable, see `read_stable`; an unchanged content is the same object as before."""
        return await self._read(paths, settle_timeout, self._contents)

    async def digests(self, paths: Collection[str], settle_timeout: float) -> Contents:
        """Read files in the same way, but return the SHA-256 of each content."""
        return await self._read(paths, settle_timeout, self._digests)

    async def _read(self, paths: Collection[str], settle_timeout: float, files: KnownFiles) -> Contents:
        seen = self.newest_change

        async def settled(paths: Collection[str]) -> None:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            await self._watcher.settled(paths)

        def again() -> Collection[str]:
            """Return the files to read again: without a change, those whose status proves their content stay."""
            nonlocal seen
            before, seen = seen, self.newest_change
            is_told = self._watcher.mode.kind == "inotify"
            return files.opened(paths) if is_told and before == seen else paths

        reading = read_stable(paths, settled=settled, settle_timeout=settle_timeout, read=files.read, again=again)
        return await self._do(reading)

    async def forget_unused(self) -> None:
        """Forget the files that were not read since the last call."""
        await self.call(self._contents.forget_unused)
        await self.call(self._digests.forget_unused)

    async def list(self, path: str) -> list[str] | Unreadable:
        """List the files in a directory."""
        return await self.call(list_directory, path)

    async def tree(self, path: str, levels: int, without: str) -> Tree | Unreadable:
        """List the files in a directory and in those below it, see `list_tree`."""
        return await self.call(list_tree, path, levels, without)

    async def call(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function that accesses the operator's files; return its result."""

        async def called() -> _T:
            return function(*args, **kwargs)

        return await self._do(called())

    async def _do(self, work: Coroutine[None, None, _T]) -> _T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def close(self) -> None:
        """Stop watching and the thread; a hanging call is abandoned after a second."""
        self._touches(False)
        _call(self._loop, self._loop.stop)
        waited = 0.0
        while self._thread.is_alive() and waited < _LEAVE:
            await asyncio.sleep(_STEP)
            waited += _STEP


async def _cancel_all() -> None:
    """Cancel what has not ended, as when the agent stops while it reads its first files."""
    await asyncio.sleep(0)  # what was requested last becomes a task
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> None:
    """Schedule a call in another loop; does nothing if that loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return


async def silent_ones(paths: Iterable[Path]) -> list[Path]:
    """Return the paths on file systems that do not respond within a second."""
    silent = {path: asyncio.Event() for path in paths}
    loop = asyncio.get_running_loop()

    def ask(path: Path) -> None:
        with contextlib.suppress(OSError, ValueError):  # an error is an answer as well
            path.stat()
        _call(loop, silent[path].set)

    for path in silent:
        threading.Thread(target=ask, args=(path,), daemon=True, name=f"is {path.name} there").start()
    answers = [asyncio.ensure_future(event.wait()) for event in silent.values()]
    if answers:
        await asyncio.wait(answers, timeout=_ANSWER)
    for answer in answers:
        answer.cancel()
    return [path for path, event in silent.items() if not event.is_set()]
