"""Connects to an endpoint without blocking: socket, connect, and TLS if the cluster uses it."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from errno import EAGAIN, EINPROGRESS
from typing import NamedTuple

from agent.sidecar.counters import SecretUseCounters, TlsCounters
from agent.sidecar.handshake import Handshake
from agent.sidecar.model import Address, Pipe
from agent.sidecar.wire import SecureWire, Wire

Done = Callable[[Wire | OSError], None]


class Transport(NamedTuple):
    """TLS settings for an endpoint. With an empty `server_name` none is sent.

    `context` is None until the secrets have come that it needs.
    """

    context: ssl.SSLContext | None
    server_name: str
    counters: TlsCounters
    secret_use: SecretUseCounters | None = None


class Dial:
    """Connects to an address; calls `done` once, later, with the connection or the error."""

    __slots__ = ("_deadline", "_done", "_handshake", "_loop", "_socket", "_timer", "_transport")

    def __init__(self, address: Address, transport: Transport | None, done: Done, *, within: float) -> None:
        """Begin; `within` limits connect and TLS handshake together, in seconds."""
        self._loop = asyncio.get_running_loop()
        self._done = done
        self._transport = transport
        self._deadline = self._loop.time() + within
        self._handshake: Handshake | None = None
        self._socket: socket.socket | None = None
        self._timer = self._loop.call_later(within, self._fail, TimeoutError("timed out"))
        try:
            self._socket = _open(address)
            code = self._socket.connect_ex(_target(address))
        except OSError as error:
            self._loop.call_soon(self._fail, error)
            return
        if code and code not in {EINPROGRESS, EAGAIN}:
            self._loop.call_soon(self._fail, OSError(code, os.strerror(code)))
        elif code == EAGAIN:  # a Unix socket whose queue is full: the kernel does not signal when there is room
            self._loop.call_soon(self._fail, OSError(code, "its accept queue is full"))
        else:
            self._loop.add_writer(self._socket.fileno(), self._connected)

    def cancel(self) -> None:
        """Cancel the attempt; `done` is not called any more."""
        self._done = _nothing
        self._rest()

    def _connected(self) -> None:
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(OSError(code, os.strerror(code)))
            return
        self._loop.remove_writer(self._socket.fileno())
        if self._transport is None:
            self._succeed(Wire(self._socket))
        else:
            self._secure(self._socket, self._transport)

    def _secure(self, connected: socket.socket, transport: Transport) -> None:
        if transport.context is None:
            if transport.secret_use is not None:
                transport.secret_use.upstream_context_secrets_not_ready.add()
            self._fail(ConnectionError("the secrets of its TLS have not come"))
            return
        self._socket = None
        left = max(self._deadline - self._loop.time(), 0.001)
        try:
            self._handshake = Handshake(
                connected,
                transport.context,
                transport.counters,
                self._shaken,
                within=left,
                server_name=transport.server_name,
            )
        except OSError as error:
            self._fail(error)

    def _shaken(self, result: SecureWire | OSError) -> None:
        self._handshake = None
        if isinstance(result, OSError):
            self._fail(result)
        else:
            self._succeed(result)

    def _succeed(self, wire: Wire) -> None:
        self._timer.cancel()
        self._socket = None
        done, self._done = self._done, _nothing
        done(wire)

    def _fail(self, error: OSError) -> None:
        self._rest()
        done, self._done = self._done, _nothing
        done(error)

    def _rest(self) -> None:
        self._timer.cancel()
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
        if self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None


def _nothing(_: Wire | OSError) -> None:
    """Replace `done` after it was called, or after `cancel`."""


def _open(address: Address) -> socket.socket:
    if isinstance(address, Pipe):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _target(address: Address) -> str | tuple[str, int]:
    if isinstance(address, Pipe):
        return f"\0{address.path[1:]}" if address.path.startswith("@") else address.path
    return (address.host, address.port)
