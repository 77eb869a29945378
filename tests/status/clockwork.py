"""A loop whose time passes in leaps: nothing waits, and what happens when is exact."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Leaping(selectors.SelectSelector):
    """Nobody waits here for the next timer: it is that late at once."""

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
    """Time passes when everybody waits."""

    def __init__(self) -> None:
        self.selector = _Leaping()
        super().__init__(self.selector)

    def time(self) -> float:
        """Seconds since the beginning."""
        return self.selector.now

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """What is yet to happen."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # of CPython's loop
        return [timer for timer in scheduled if not timer.cancelled()]

    @property
    def wakeups(self) -> int:
        """How often a timer has ended a wait."""
        return self.selector.wakeups


def play(what: Coroutine[Any, Any, T]) -> T:
    """Run it to its end on a loop of this kind."""
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        return runner.run(what)


def clockwork() -> Clockwork:
    """The loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clockwork)
    return loop
