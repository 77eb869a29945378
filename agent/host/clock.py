"""The only module that reads clocks."""

import time
from datetime import UTC, datetime


def monotonic() -> float:
    """Seconds that never step, for deadlines. The same clock as asyncio's loops use."""
    return time.monotonic()


def calendar() -> datetime:
    """The date and time, aware, for certificates and logs."""
    return datetime.now(UTC)
