"""The rules of tests/host: coroutines run on a loop of their own, and no descriptor may leak."""

import asyncio
import inspect
from typing import Any

import pytest

from tests.host.conftest import no_descriptor_leaks, ordinary
from tests.sidecar.leaping import LeapingLoop

__all__ = ["no_descriptor_leaks", "ordinary"]


@pytest.fixture
def leaps() -> None:
    """Run the test's coroutine on a `LeapingLoop`."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def test_…` to its end on a fresh loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    factory = LeapingLoop if "leaps" in pyfuncitem.fixturenames else None
    unhandled: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    assert not unhandled, "a callback or task of the loop has failed"
    return True
