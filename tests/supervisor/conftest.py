"""The same rules as for the host, a run directory, and time that passes when a test says so."""

import asyncio
import inspect
import signal
from collections.abc import Iterator
from datetime import timedelta

import pytest

from agent.host import clock
from tests.host.conftest import no_descriptor_leaks, ordinary
from tests.processes.conftest import directory
from tests.status.clockwork import Clockwork
from tests.supervisor.stand_ins import NOW, TODAY

__all__ = ["directory", "no_descriptor_leaks", "ordinary"]


class Time:
    """The time of the agent and of its loop; it leaps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        self._loop: Clockwork | None = None
        self._before = NOW  # the time until there is a loop
        self.set_by = timedelta()

    def loop(self) -> Clockwork:
        """Return a loop that begins now."""
        self._loop = Clockwork()
        self._loop.selector.now = self._before
        return self._loop

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self._before if self._loop is None else self._loop.selector.now

    def leap(self, seconds: float) -> None:
        """Let time pass."""
        if self._loop is None:
            self._before += seconds
        else:
            self._loop.selector.now += seconds

    def timers(self) -> list[asyncio.TimerHandle]:
        """Return what is yet to happen."""
        assert self._loop is not None
        return self._loop.timers

    def set_clock(self, by: timedelta) -> None:
        """Set the calendar; the monotonic clock goes on as before."""
        self.set_by += by


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    """Whatever signals a test blocks are free again after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Time that a test tells; a coroutine that takes it runs on its loop."""
    made = Time()
    monkeypatch.setattr(clock, "monotonic", lambda: made.now)
    monkeypatch.setattr(clock, "calendar", lambda: TODAY + made.set_by + timedelta(seconds=made.now - NOW))
    return made


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def test_…` to its end, on the loop of `time` or on a fresh one."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    time = pyfuncitem.funcargs.get("time")
    with asyncio.Runner(loop_factory=time.loop if isinstance(time, Time) else None) as runner:
        runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True
