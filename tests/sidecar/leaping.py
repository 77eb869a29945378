"""A loop whose clock leaps to the next timer as soon as nothing else is left to do.

It is for connections within one process that the kernel serves at once: pairs of sockets, and Unix sockets.
"""

import asyncio
import selectors

_PATIENCE = 5.0  # seconds for a kernel that is slow to deliver between ports


class _Leaping(selectors.EpollSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            events = super().select(_PATIENCE)
            assert events, "each side waits for the other, and no timer runs"
        elif not events and timeout is not None:
            self.now += max(timeout, 0.0)
        return events


class LeapingLoop(asyncio.SelectorEventLoop):
    """Its time is exact, and passes only while everything waits."""

    def __init__(self) -> None:
        self._clock = _Leaping()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the seconds since the loop began."""
        return self._clock.now


def now() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()
