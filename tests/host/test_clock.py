"""Which clocks are read: the loop's own for deadlines, an aware date for certificates."""

import asyncio
from datetime import UTC, datetime, timedelta

from agent.host import clock


async def test_deadlines_are_on_the_clock_of_the_loop() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    read = clock.monotonic()
    assert before <= read <= loop.time()


def test_the_date_is_that_of_the_machine_and_says_that_it_is_utc() -> None:
    before = datetime.now(UTC)
    read = clock.calendar()
    assert before <= read <= datetime.now(UTC)
    assert read.utcoffset() == timedelta(0)
    assert read.isoformat().endswith("+00:00")
