"""The filters without a cluster: one echoes, the other sends fixed bytes."""

import asyncio

from agent.sidecar.client import Client
from agent.sidecar.model import DirectResponse
from agent.sidecar.tcp_relay import SCRATCH

_LINGER = 1.0  # seconds for a client to receive the end of the stream, as Envoy's delayed close


class _Counting:
    """A filter without its own statistics."""

    def arrived(self, *, is_secure: bool) -> None:
        """Do nothing: there are no statistics."""

    def left(self, *, is_secure: bool) -> None:
        """Do nothing: there are no statistics."""


class EchoFilter(_Counting):
    """Sends back what it receives, and closes when the client does."""

    def __init__(self, limit: int) -> None:
        self._limit = max(min(limit, len(SCRATCH)), 1)

    def serve(self, client: Client) -> None:
        """Echo from now on."""
        _Writing(client, b"", self._limit)


class DirectResponseFilter(_Counting):
    """Sends fixed bytes to every client, then closes the connection."""

    def __init__(self, settings: DirectResponse) -> None:
        self._body = settings.body

    def serve(self, client: Client) -> None:
        """Send the bytes."""
        _Writing(client, self._body, 0)


class _Writing:
    """Sends the held bytes, then echoes what it reads; with a limit of 0 it ends instead."""

    __slots__ = ("_client", "_held", "_is_ending", "_limit", "_loop", "_timer")

    def __init__(self, client: Client, held: bytes, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._held = memoryview(held)
        self._limit = limit
        self._is_ending = not limit
        self._timer: asyncio.TimerHandle | None = None
        client.session = self
        if held:
            self._loop.add_writer(client.wire.fd, self._write)
        elif limit:
            self._loop.add_reader(client.wire.fd, self._read)
            self._read_more()
        else:
            self._loop.call_soon(self._end)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._client.wire.socket.fileno() >= 0:
            self._leave()

    def _leave(self) -> None:
        wire = self._client.wire
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(wire.fd)
        self._loop.remove_writer(wire.fd)
        wire.close()
        self._client.leave()

    def _read(self) -> None:
        wire = self._client.wire
        if wire.socket.fileno() < 0 or self._held or self._is_ending:
            return
        try:
            count = wire.receive(SCRATCH[: self._limit])
            if count > 0:
                self._send(SCRATCH[:count])
        except OSError:
            self._leave()
            return
        if count == 0:
            self._leave()

    def _send(self, data: memoryview) -> None:
        sent = self._client.wire.send(data)
        if sent == len(data):
            self._read_more()
            return
        self._held = memoryview(bytes(data[sent:]))
        self._loop.remove_reader(self._client.wire.fd)
        self._loop.add_writer(self._client.wire.fd, self._write)

    def _read_more(self) -> None:
        if self._client.wire.holds_more:
            self._loop.call_soon(self._read)

    def _write(self) -> None:
        wire = self._client.wire
        try:
            self._held = self._held[wire.send(self._held) :]
        except OSError:
            self._leave()
            return
        if self._held:
            return
        self._loop.remove_writer(wire.fd)
        if self._is_ending:
            self._end()
        else:
            self._loop.add_reader(wire.fd, self._read)
            self._read_more()

    def _end(self) -> None:
        """End the stream, then wait up to `_LINGER` seconds for the client's end.

        Closing with unread bytes would lose the response.
        """
        wire = self._client.wire
        if wire.socket.fileno() < 0:
            return
        try:
            wire.end()
        except (OSError, ValueError):
            self._leave()
            return
        self._timer = self._loop.call_later(_LINGER, self._leave)
        self._loop.add_reader(wire.fd, self._discard)

    def _discard(self) -> None:
        try:
            count = self._client.wire.receive(SCRATCH)
        except OSError:
            count = 0
        if count == 0:
            self._leave()
