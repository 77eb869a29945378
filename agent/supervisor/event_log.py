"""Log events about epochs: one log line each, and a copy to each follower of an attempt."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.host import log


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One log event: its dotted name, a sentence, and the epoch that it is about, if any."""

    event: str
    text: str
    epoch: int | None = None


class EventLog:
    """Logs events and passes them on to followers."""

    def __init__(self) -> None:
        self._followers: set[asyncio.Queue[LogEvent]] = set()

    def say(self, level: int, event: str, text: str, *, epoch: int | None = None, **facts: object) -> None:
        """Log one event and queue it for each follower."""
        log.log_event(level, event, text, None, epoch=epoch, **facts)
        for follower in self._followers:
            follower.put_nowait(LogEvent(event, text, epoch))

    @contextmanager
    def follow(self) -> "Iterator[asyncio.Queue[LogEvent]]":
        """Yield a queue that receives every event logged from now on."""
        queue: asyncio.Queue[LogEvent] = asyncio.Queue()
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)
