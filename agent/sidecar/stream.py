"""A wire for coroutines, which wait until it can be read or written."""

import asyncio
from collections.abc import Callable

from agent.sidecar.tcp_relay import SCRATCH
from agent.sidecar.wire import Wire
from agent.stats.writer import Counter

_READING = 32 << 10


class Stream:
    """Reads and writes a wire, for one reading and one writing task at a time.

    `read_bytes` and `sent_bytes` count the bytes.
    """

    __slots__ = ("_broken", "_held", "_is_busy", "_loop", "_reader", "_watching", "read_bytes", "sent_bytes", "wire")

    def __init__(self, wire: Wire, read_bytes: Counter, sent_bytes: Counter) -> None:
        self.wire = wire
        self.read_bytes = read_bytes
        self.sent_bytes = sent_bytes
        self._loop = asyncio.get_running_loop()
        self._is_busy = False  # the last read did not wait
        self._held = b""  # received while no task was reading
        self._broken: OSError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._watching: Callable[[], None] | None = None

    async def read(self, within: float | None = None) -> bytes:
        """Return the next bytes, 32 KB at most; empty at the end of the stream.

        Raises TimeoutError if none arrive `within` seconds (None, 0: no limit), OSError if the connection is broken.
        """
        self.unwatch()
        if self._is_busy:
            await asyncio.sleep(0)  # a connection that always has bytes to read must not delay the others
        self._is_busy = True
        if self._held:
            held, self._held = self._held, b""
            return held
        while True:
            if self._broken is not None:
                raise self._broken
            count = self.wire.receive(SCRATCH[:_READING])
            if count >= 0:
                self.read_bytes.add(count)
                return bytes(SCRATCH[:count])
            await self._readable(within)

    async def write(self, data: bytes, within: float | None = None) -> None:
        """Send all of `data`; raise as `read` does, if the peer receives nothing."""
        left = memoryview(data)
        while left:
            if self._broken is not None:
                raise self._broken
            sent = self.wire.send(left)
            self.sent_bytes.add(sent)
            left = left[sent:]
            if left:
                await self._writable(within)

    def break_off(self, error: OSError) -> None:
        """Raise `error` in the pending read, and in every later read and write."""
        self._broken = self._broken or error
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(error)

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended` once when the peer has closed, until the next `read` or `unwatch`.

        Bytes that arrive are kept for `read`, and end the watch.
        """
        self._watching = ended
        self._loop.add_reader(self.wire.fd, self._look)
        if self.wire.holds_more:
            self._loop.call_soon(self._look)

    def unwatch(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching = None
            self._loop.remove_reader(self.wire.fd)

    def is_silent(self) -> bool:
        """Whether the peer has sent nothing that was not read, and has not closed."""
        if self._held or self._broken is not None:
            return False
        try:
            count = self.wire.receive(SCRATCH[:_READING])
        except OSError:
            return False
        if count > 0:
            self.read_bytes.add(count)
            self._held = bytes(SCRATCH[:count])
        return count < 0

    def close(self) -> None:
        """Close the wire; no task may read or write any more."""
        self.unwatch()
        self.wire.close()

    def _look(self) -> None:
        ended = self._watching
        if ended is None:
            return
        try:
            count = self.wire.receive(SCRATCH[:_READING])
        except OSError:
            count = 0
        if count < 0:
            return
        self.unwatch()
        if count:
            self.read_bytes.add(count)
            self._held += bytes(SCRATCH[:count])
        else:
            ended()

    async def _readable(self, within: float | None) -> None:
        self._reader = self._loop.create_future()
        self._loop.add_reader(self.wire.fd, _wake, self._reader)
        try:
            await _within(self._loop, self._reader, within)
            self._is_busy = False
        finally:
            self._reader = None
            self._loop.remove_reader(self.wire.fd)

    async def _writable(self, within: float | None) -> None:
        writer: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self.wire.fd, _wake, writer)
        try:
            await _within(self._loop, writer, within)
        finally:
            self._loop.remove_writer(self.wire.fd)


async def _within(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], within: float | None) -> None:
    timer = loop.call_later(within, _expire, future) if within else None
    try:
        await future
    finally:
        if timer is not None:
            timer.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError("timed out"))
