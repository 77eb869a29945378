"""Glances: noticing changes where the kernel does not tell, by looking at status words now and then.

Sizes, inodes and times of change only wake somebody up; what has changed is for content to decide.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping

Glance = Mapping[str, tuple[int, ...] | None]
"""Place: device, inode, mode, size and the times of change in nanoseconds; None where nothing is to be seen."""


def glance(places: Iterable[str]) -> Glance:
    """Look at all places now; links are looked at and not through."""
    return {place: _status(place) for place in places}


class StatPoller:
    """Calls `on_change` when two glances, `every` seconds apart, differ; keeps still until it is started.

    What `look` looks at may change on the way; that counts as a difference too, so that nothing slips through.
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
        """Look a first time at once, to compare with; where glancing goes on already, it just goes on."""
        if self._timer is None:
            self._seen = self._look()
            self._timer = self._loop.call_later(self._every, self._tick)

    def stop(self) -> None:
        """Look no more, until started again."""
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
    except (OSError, ValueError):  # nothing there, or a name that nothing can have
        return None
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
