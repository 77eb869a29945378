"""A loop with simulated time: no real waiting, and exact times of events."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Leaping(selectors.SelectSelector):
    """A selector that advances the time to the next timer instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.wakeups = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for ever"
        if timeout > 0:
            self.wakeups += 1
            self.now += timeout
        return super().select(0)


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
