"""A cluster's HTTP/1.1 connections: reused after a complete response, watched while idle."""

import asyncio
from collections import deque

import h11

from agent.sidecar.clusters import Upstream
from agent.sidecar.connect import Dial
from agent.sidecar.model import Address, SocketAddress
from agent.sidecar.stream import Stream
from agent.sidecar.wire import Wire

_KEPT = 64  # idle connections per endpoint
_IDLE = 60.0  # seconds; servers commonly close idle connections after 60 or more
_HEAD_LIMIT = 64 << 10


class Unreachable(ConnectionError):
    """No connection could be made; the message is Envoy's term for the reason."""


class Closed(ConnectionError):
    """The connection ended before the first byte of a response."""


class UpstreamConnection:
    """A connection to an endpoint, with its h11 state. `uses`: the number of earlier requests."""

    def __init__(self, stream: Stream, address: Address, upstream: Upstream) -> None:
        self.stream = stream
        self.address = address
        self.uses = 0
        self.timer: asyncio.TimerHandle | None = None
        self._machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
        self._upstream = upstream
        self._has_heard = False

    @property
    def is_reusable(self) -> bool:
        """Whether request and response are complete, nothing came after it, and neither side wants to close."""
        is_done = self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE
        return is_done and self._machine.trailing_data == (b"", False)

    def next_cycle(self) -> None:
        """Prepare for the next request."""
        self._machine.start_next_cycle()
        self._has_heard = False
        self.uses += 1

    def pack(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> bytes:
        """Return the bytes of a request part; raise h11.LocalProtocolError if it is not allowed now."""
        return self._machine.send(event) or b""

    async def next(self, within: float) -> h11.Event:
        """Return the next part of the response.

        Raises `Closed`, h11.RemoteProtocolError, OSError, and TimeoutError if nothing arrives `within` seconds.
        """
        while (event := self._machine.next_event()) is h11.NEED_DATA:
            data = await self.stream.read(within)
            if not data and not self._has_heard:
                raise Closed("connection termination")
            self._has_heard = True
            self._machine.receive_data(data)
        assert isinstance(event, h11.Event)
        return event

    def ready(self) -> h11.Event | None:
        """Return the next part of the response if it was received already, else None."""
        event = self._machine.next_event()
        return event if isinstance(event, h11.Event) else None

    def close(self, *, by_us: bool, busy: bool) -> None:
        """Close the connection and count its end."""
        if self.timer is not None:
            self.timer.cancel()
        self.stream.close()
        self._upstream.counters.closed(by_us=by_us, busy=busy)


class Pool:
    """The idle connections to one cluster; the newest is used first."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._idle: dict[Address, deque[UpstreamConnection]] = {}

    async def line(self, original: SocketAddress | None) -> UpstreamConnection:
        """Return a reused or new connection to the next endpoint; raise `Unreachable` if that fails."""
        address = self.upstream.choose(original)
        if address is None:
            raise Unreachable("no healthy upstream")
        while kept := self._idle.get(address):
            line = kept.pop()
            if not kept:
                del self._idle[address]
            self._take(line)
            if line.stream.is_silent():
                return line
            line.close(by_us=True, busy=False)  # what it sent unasked would be taken for the next response
        return await self._new(address)

    def release(self, line: UpstreamConnection) -> None:
        """Keep a connection for the next request, or close it."""
        kept = self._idle.setdefault(line.address, deque())
        if not line.is_reusable or len(kept) >= _KEPT or line.address not in self._current(line.address):
            line.close(by_us=True, busy=False)
            if not kept:
                del self._idle[line.address]
            return
        line.next_cycle()
        kept.append(line)
        line.stream.watch(lambda: self._drop(line, by_us=False))
        line.timer = asyncio.get_running_loop().call_later(_IDLE, self._expire, line)

    def close(self) -> None:
        """Close the idle connections."""
        for line in [each for kept in self._idle.values() for each in kept]:
            self._drop(line, by_us=True)

    def _current(self, address: Address) -> tuple[Address, ...]:
        return (address,) if self.upstream.settings.kind == "ORIGINAL_DST" else self.upstream.endpoints

    def _take(self, line: UpstreamConnection) -> None:
        line.stream.unwatch()
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None

    def _expire(self, line: UpstreamConnection) -> None:
        self.upstream.counters.upstream_cx_idle_timeout.add()
        self._drop(line, by_us=True)

    def _drop(self, line: UpstreamConnection, *, by_us: bool) -> None:
        kept = self._idle[line.address]
        kept.remove(line)
        if not kept:
            del self._idle[line.address]
        line.close(by_us=by_us, busy=False)

    async def _new(self, address: Address) -> UpstreamConnection:
        counters = self.upstream.counters
        counters.upstream_cx_total.add()
        counters.upstream_cx_http1_total.add()
        counters.upstream_cx_active.add()
        counters.upstream_rq_pending_total.add()
        counters.upstream_rq_pending_active.add()
        try:
            wire = await self._dial(address)
        except OSError as error:
            counters.closed(by_us=isinstance(error, TimeoutError), busy=False)
            counters.upstream_cx_connect_fail.add()
            counters.upstream_rq_pending_failure_eject.add()
            if isinstance(error, TimeoutError):
                counters.upstream_cx_connect_timeout.add()
                raise Unreachable("connection timeout") from error
            raise Unreachable("remote connection failure") from error
        except asyncio.CancelledError:
            counters.closed(by_us=True, busy=False)
            raise
        finally:
            counters.upstream_rq_pending_active.sub()
        stream = Stream(wire, counters.upstream_cx_rx_bytes_total, counters.upstream_cx_tx_bytes_total)
        return UpstreamConnection(stream, address, self.upstream)

    async def _dial(self, address: Address) -> Wire:
        future: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()

        def done(result: Wire | OSError) -> None:
            if future.done():  # cancelled just before
                if isinstance(result, Wire):
                    result.close()
            elif isinstance(result, OSError):
                future.set_exception(result)
            else:
                future.set_result(result)

        dial = Dial(address, self.upstream.transport, done, within=self.upstream.settings.connect_timeout)
        try:
            return await future
        except asyncio.CancelledError:
            dial.cancel()
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close()
            raise
