import asyncio
import time

import pytest

from agent.host.clock_steps import ClockSteps
from tests.system.eventually import PATIENCE


async def test_each_step_of_the_clock_is_reported_and_none_before() -> None:
    """It is set to the current time, which is a step for the kernel."""
    steps: asyncio.Queue[float] = asyncio.Queue()
    heard = ClockSteps(lambda: steps.put_nowait(time.monotonic()), asyncio.get_running_loop())
    try:
        await asyncio.sleep(0.05)
        assert steps.empty()
        for _ in range(2):
            try:
                time.clock_settime(time.CLOCK_REALTIME, time.time())
            except PermissionError:
                pytest.skip("may not set the clock")
            await asyncio.wait_for(steps.get(), PATIENCE)
    finally:
        heard.close()
        heard.close()
