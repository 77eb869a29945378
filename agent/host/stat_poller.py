"""Detects changes by polling stat, where the kernel sends no events.

Sizes, inodes and timestamps only trigger a read; the content shows what has changed.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping

Glance = Mapping[str, tuple[int, ...] | None]
"""Path: device, inode, mode, size, mtime and ctime in nanoseconds; None if stat fails."""


def glance(places: Iterable[str]) -> Glance:
    """Return the status of all paths, without following links."""
    return {place: _status(place) for place in places}


class StatPoller:
    """Calls `on_change` when two polls, `every` seconds apart, differ; idle until started.

    The set of paths that `look` polls may change; that counts as a difference too, so that no change is missed.
    """

    def __init__(
        self,
        look: Callable[[], Glance],
        on_change: Callable[[], None],
        *,
        every: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._look = look
        self._on_change = on_change
        self._every = every
        self._loop = loop
        self._seen: Glance = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Poll once at once, as the baseline, and start polling; does nothing if already started."""
        if self._timer is None:
            self._seen = self._look()
            self._timer = self._loop.call_later(self._every, self._tick)

    def stop(self) -> None:
        """Stop polling until started again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._every, self._tick)
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._on_change()


def _status(place: str) -> tuple[int, ...] | None:
    try:
        status = os.lstat(place)
    except (OSError, ValueError):  # missing, or an impossible name
        return None
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
