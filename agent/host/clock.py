"""The only module that reads clocks."""

import time
from datetime import UTC, datetime


def monotonic() -> float:
    """Return monotonic seconds, for deadlines. The same clock as asyncio's loops."""
    return time.monotonic()


def calendar() -> datetime:
    """Return the current date and time, aware, for certificates and logs."""
    return datetime.now(UTC)
