"""Relays bytes between two wires, each direction at the pace of its slower end.

Only bytes that one end cannot accept yet are held, at most one read of `SCRATCH`; until they are sent, nothing more is
read from the other end. Each wake-up does a bounded amount of work, so that a fast pair does not delay the others.
"""

import asyncio
from collections.abc import Callable

from agent.sidecar.wire import Wire
from agent.stats.writer import Counter

SCRATCH = memoryview(bytearray(256 << 10))  # the buffer of every read: there is one thread, and no data stays in it
_NOTHING = memoryview(b"")


class Way:
    """One direction of a relay."""

    __slots__ = ("_relay", "_soon", "bytes", "has_ended", "held", "is_done", "limit", "sink", "source")

    def __init__(self, relay: "Relay", source: Wire, sink: Wire, limit: int, counters: tuple[Counter, ...]) -> None:
        self.source = source
        self.sink = sink
        self.limit = limit
        self.held = _NOTHING
        self.has_ended = False  # the source has ended; nothing is held then
        self.is_done = False  # the end was sent to the sink
        self.bytes = counters
        self._relay = relay
        self._soon = False

    def read(self) -> None:
        """Read from the source, and send to the sink."""
        if self.held or self.has_ended:
            return
        try:
            count = self.source.receive(SCRATCH[: self.limit])
        except OSError:
            self._relay.broken(self, at_source=True)
            return
        if count > 0:
            self._relay.active()
            for counter in self.bytes:
                counter.add(count)
            self._pass_on(SCRATCH[:count])
        elif count == 0:
            self._end()

    def _pass_on(self, data: memoryview) -> None:
        try:
            sent = self.sink.send(data)
        except OSError:
            self._relay.broken(self, at_source=False)
            return
        if sent < len(data):
            self.held = memoryview(bytes(data[sent:]))
            self._relay.pause(self)
        elif self.source.holds_more:
            self.read_soon()

    def read_soon(self) -> None:
        """Read after the other callbacks, without waiting for the socket to be readable."""
        if not self._soon:
            self._soon = True
            self._relay.loop.call_soon(self._read_now)

    def _read_now(self) -> None:
        self._soon = False
        if not self._relay.is_over:
            self.read()

    def write(self) -> None:
        """Send the held bytes."""
        try:
            sent = self.sink.send(self.held)
        except OSError:
            self._relay.broken(self, at_source=False)
            return
        self.held = self.held[sent:] if sent < len(self.held) else _NOTHING
        if sent:
            self._relay.active()
        if not self.held:
            self._relay.resume(self)
            if self.source.holds_more:
                self.read_soon()

    def _end(self) -> None:
        self.has_ended = True
        self._relay.loop.remove_reader(self.source.fd)
        self._finish()

    def _finish(self) -> None:
        try:
            is_said = self.sink.end()
        except (OSError, ValueError):
            self._relay.broken(self, at_source=False)
            return
        if is_said:
            self.is_done = True
            self._relay.loop.remove_writer(self.sink.fd)
            self._relay.ended()
        else:
            self._relay.loop.add_writer(self.sink.fd, self._finish)


class Relay:
    """Relays between a client and an upstream.

    It ends when both have ended, one breaks, or no byte passes for `idle` seconds. It then closes both wires and calls
    `over` once, with itself, whether it was idle, and whether the upstream ended first.
    """

    __slots__ = (
        "_idle",
        "_over",
        "_timer",
        "_touched_at",
        "_upstream_first",
        "down",
        "is_over",
        "loop",
        "pauses",
        "up",
    )

    def __init__(
        self,
        client: Wire,
        upstream: Wire,
        *,
        limit: int,
        idle: float,
        counters: tuple[tuple[Counter, ...], tuple[Counter, ...]],
        pauses: tuple[Counter, Counter],
        over: Callable[["Relay", bool, bool], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        limit = max(min(limit, len(SCRATCH)), 1)
        self.up = Way(self, client, upstream, limit, counters[0])
        self.down = Way(self, upstream, client, limit, counters[1])
        self.is_over = False
        self.pauses = pauses
        self._over = over
        self._idle = idle
        self._upstream_first = False
        self._touched_at = self.loop.time()
        self._timer = self.loop.call_later(idle, self._look) if idle else None
        self.loop.add_reader(client.fd, self.up.read)
        self.loop.add_reader(upstream.fd, self.down.read)
        if client.holds_more:
            self.up.read_soon()

    def active(self) -> None:
        """Restart the idle timeout."""
        self._touched_at = self.loop.time()

    def pause(self, way: Way) -> None:
        """Stop reading the source, and wait until the full sink is writable."""
        if way is self.up:
            self.pauses[0].add()
        self.loop.remove_reader(way.source.fd)
        self.loop.add_writer(way.sink.fd, way.write)

    def resume(self, way: Way) -> None:
        """Read the source again: the sink has accepted all held bytes."""
        if way is self.up:
            self.pauses[1].add()
        self.loop.remove_writer(way.sink.fd)
        self.loop.add_reader(way.source.fd, way.read)

    def ended(self) -> None:
        """Finish if both directions have ended."""
        if self.up.is_done and self.down.is_done:
            self._finish(idle=False)
        elif self.down.is_done:
            self._upstream_first = True

    def broken(self, way: Way, *, at_source: bool) -> None:
        """Finish, since one end is broken.

        If the upstream accepts no more bytes, its response so far is still relayed to the client.
        """
        if self.is_over:
            return
        upstream_broke = at_source == (way is self.down)
        self._upstream_first = self._upstream_first or upstream_broke
        if upstream_broke and not at_source and not self.down.is_done:
            self._give_up(self.up)
        else:
            self._finish(idle=False)

    def _give_up(self, way: Way) -> None:
        self.loop.remove_reader(way.source.fd)
        self.loop.remove_writer(way.sink.fd)
        way.has_ended = way.is_done = True
        way.held = _NOTHING

    def abort(self) -> None:
        """Close both wires at once."""
        if not self.is_over:
            self._finish(idle=False)

    def _look(self) -> None:
        left = self._touched_at + self._idle - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        else:
            self._finish(idle=True)

    def _finish(self, *, idle: bool) -> None:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        for wire in (self.up.source, self.down.source):
            self.loop.remove_reader(wire.fd)
            self.loop.remove_writer(wire.fd)
            wire.close()
        self._over(self, idle, self._upstream_first)
