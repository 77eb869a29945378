"""A loop whose time passes only while nothing else can happen: then it jumps to the next timer."""

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

from tests.system.eventually import PATIENCE

_P = ParamSpec("_P")
_T = TypeVar("_T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with its own clock, `now` in seconds; threads are waited for in real time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.threads = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return the virtual time."""
        return self.now

    def run_in_executor(self, executor: Executor | None, func: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        """Run a function in a thread; time stands still meanwhile."""
        future: asyncio.Future[_T] = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self.threads -= 1


class _Selector(selectors.EpollSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._loop.threads:
            ready = super().select(PATIENCE)
            assert ready, "nothing happens any more"
            return ready
        self._loop.now += timeout
        return ready


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


def virtual_time(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run an `async def test_…` in virtual time."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def turns(count: int = 20) -> None:
    """Let the loop turn without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(span: float, awaited: Awaitable[_T]) -> _T:
    """Return a result that must come within a span of virtual time."""
    async with asyncio.timeout(span):
        return await awaited
