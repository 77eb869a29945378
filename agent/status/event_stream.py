"""Sends the status to clients as it changes: server-sent events, each a whole status.

https://html.spec.whatwg.org/multipage/server-sent-events.html. Only the newest status is sent: a slow client gets fewer
events, and nothing is queued for it. Without clients there is no timer and no work.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from weakref import WeakSet

from agent.http.message import Headers, Request, Response
from agent.status.model import Status, document

WATCHERS_LIMIT: Final = 32

_AT_MOST_EVERY: Final = 0.25  # seconds
_AT_LEAST_EVERY: Final = 2.0  # seconds; queue lengths, connections and the time change without an event
_FIRST: Final = b"retry: 1000\n"  # milliseconds until a browser reconnects
_HEADERS: Final[Headers] = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),  # no buffering in a proxy in front of the agent
    ("x-content-type-options", "nosniff"),
)


class Stream:
    """Answers `/events`. `read` is called only while clients watch, once for all of them."""

    def __init__(self, read: Callable[[], Status], watchers_limit: int = WATCHERS_LIMIT) -> None:
        self._read = read
        self._watchers_limit = watchers_limit
        self._watchers: WeakSet[_Watcher] = WeakSet()  # the server closes a watcher with its connection
        self._turns = 0
        self._turned = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_resting = False  # a status was sent less than `_AT_MOST_EVERY` ago
        self._has_changed = False
        self._newest: tuple[int, bytes] = (0, b"")

    @property
    def watchers(self) -> int:
        """The number of clients that watch."""
        return len(self._watchers)

    def changed(self) -> None:
        """Send the status soon, since it may have changed."""
        if self._has_changed or not self._watchers:
            return
        self._has_changed = True
        if not self._is_resting:
            self._arm(0, self._turn)

    async def answer(self, request: Request) -> Response:
        """Start an event stream, or return 503 when the limit of watchers is reached."""
        if request.method not in {"GET", "HEAD"}:
            return Response(405, b"method not allowed\n", (("allow", "GET, HEAD"),))
        if request.method == "HEAD":
            return Response(200, b"", _HEADERS)
        if self.watchers >= self._watchers_limit:
            return Response(503, f"the limit of {self.watchers} watchers is reached; see /status\n".encode())
        return Response(200, self._admit(), _HEADERS)

    def _admit(self) -> AsyncIterator[bytes]:
        seen = self._turns - 1 if self._is_resting else self._turns  # while resting, the newest status is recent enough
        watcher = _Watcher(self._newer_than, seen, self._watchers.discard)
        self._watchers.add(watcher)
        self.changed()
        return watcher

    async def _newer_than(self, number: int) -> tuple[int, bytes]:
        """Wait until the status is newer than this number; return its number and event."""
        while self._turns <= number:
            await self._turned.wait()
        if self._newest[0] != self._turns:
            self._newest = (self._turns, b"data: " + document(self._read()) + b"\n")
        return self._newest

    def _turn(self) -> None:
        self._timer = None
        if not self._watchers:
            self._fall_asleep()
            return
        self._turns += 1
        self._has_changed = False
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()
        self._is_resting = True
        self._arm(_AT_MOST_EVERY, self._rested)

    def _rested(self) -> None:
        self._is_resting = False
        if self._has_changed or not self._watchers:
            self._turn()
        else:
            self._arm(_AT_LEAST_EVERY - _AT_MOST_EVERY, self._turn)

    def _fall_asleep(self) -> None:
        self._is_resting = self._has_changed = False
        self._newest = (self._turns - 1, b"")

    def _arm(self, seconds: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, what)


class _Watcher:
    """The events of one client: the newest status, each time the client is ready for more."""

    def __init__(
        self,
        newer: Callable[[int], Awaitable[tuple[int, bytes]]],
        seen: int,
        discard: Callable[["_Watcher"], None],
    ) -> None:
        self._newer = newer
        self._seen = seen
        self._discard = discard
        self._prefix = _FIRST

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._seen, event = await self._newer(self._seen)
        prefix, self._prefix = self._prefix, b""
        return prefix + event

    async def aclose(self) -> None:
        """Stop watching."""
        self._discard(self)
