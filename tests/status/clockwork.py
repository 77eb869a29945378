"""A loop with simulated time: no real waiting, and exact times of events."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_ON_ITS_WAY = 0.001  # seconds that the kernel may take from one end of a socket to the other


class _Leaping(selectors.SelectSelector):
    """A selector that advances the time to the next timer instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.wakeups = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if len(self.get_map()) > 1:  # more than the loop's own socket
            ready = super().select(_ON_ITS_WAY)
        assert ready or timeout is not None, "everybody waits for ever"
        if timeout is not None and timeout > 0 and not ready:
            self.wakeups += 1
            self.now += timeout
        return ready


class Clockwork(asyncio.SelectorEventLoop):
    """Advances the time when no callback is ready."""

    def __init__(self) -> None:
        self.selector = _Leaping()
        super().__init__(self.selector)

    def time(self) -> float:
        """Return the seconds since the start."""
        return self.selector.now

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """The pending timers."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # of CPython's loop
        return [timer for timer in scheduled if not timer.cancelled()]

    @property
    def wakeups(self) -> int:
        """The number of waits that a timer has ended."""
        return self.selector.wakeups


def play(what: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on such a loop."""
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        return runner.run(what)


def clockwork() -> Clockwork:
    """Return the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clockwork)
    return loop
