"""What is said of the epochs: one line in the log, and the same to whoever follows an attempt."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.host import log


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that happened: its dotted name, a sentence, and the epoch that it is about, if any."""

    event: str
    text: str
    epoch: int | None = None


class Bulletin:
    """Says things, and passes them on."""

    def __init__(self) -> None:
        self._followers: set[asyncio.Queue[Notice]] = set()

    def say(self, level: int, event: str, text: str, *, epoch: int | None = None, **facts: object) -> None:
        """Log one event and tell everybody who follows."""
        log.say(level, event, text, None, epoch=epoch, **facts)
        for follower in self._followers:
            follower.put_nowait(Notice(event, text, epoch))

    @contextmanager
    def follow(self) -> "Iterator[asyncio.Queue[Notice]]":
        """Give a queue of everything that is said from now on."""
        queue: asyncio.Queue[Notice] = asyncio.Queue()
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)
