"""Tests a candidate as a client does: a connection to the real address, a handshake, a request.

The connection waits in the candidate's own queue until it accepts it, so readiness is an event and not a poll.
"""

import asyncio
import errno
import hashlib
import os
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from agent.core.errors import UsageError
from agent.handoff.steering import Source
from agent.host.accept_queues import is_accepted, is_accepted_unix
from agent.host.sockets import Endpoint
from agent.host.tls_probe import trusting_context

Steer = Callable[[Source | None], None]
"""Lets connections from a source reach the candidate, None: no more."""

_TIMEOUT = 5.0
_INTERVAL = 0.01
_MOST_NAMES = 8
_RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s
_GOOD = range(200, 400)
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, not bound
_CONTEXT = trusting_context()


@dataclass(frozen=True, slots=True)
class Check:
    """A request that a server answers with a status of 2xx or 3xx, at one listener or at each."""

    method: str
    target: str
    listener: str = ""

    @classmethod
    def parse(cls, text: str) -> "Check":
        """Parse `[NAME:] GET /path`. Raises `UsageError`."""
        words = text.split()
        listener = words.pop(0).removesuffix(":") if words and words[0].endswith(":") else ""
        match words:
            case [method, target] if method.isascii() and method.isalpha() and _is_target(target):
                return cls(method.upper(), target, listener)
            case _:
                message = f"cannot use --check {text!r}: it is no request; write it like 'GET /health'"
                raise UsageError(message)


class NotReadyError(Exception):
    """The candidate did not answer as it should; the message tells how."""


async def attempt(endpoint: Endpoint, check: Check | None, leaves: Mapping[str, str | None], steer: Steer) -> None:
    """Connect, and return if the answer is right. Raises `NotReadyError`.

    `leaves`: fingerprints of the certificates of which one has to be served, with the name to ask for; none: no TLS is
    expected. Each name is asked for, up to a limit. Without both it has to accept the connection. `steer` is called
    with the source before a connection, and with None after it.
    """
    names = list(dict.fromkeys(leaves.values()))[:_MOST_NAMES] or [None]
    try:
        async with asyncio.timeout(_TIMEOUT):
            for name in names:
                await _try(endpoint, check, leaves, name or "", steer)
    except TimeoutError:
        message = f"{endpoint} does not answer within {_TIMEOUT:g} s"
        raise NotReadyError(message) from None
    except ssl.SSLError as error:
        message = f"{endpoint} does not complete a TLS handshake: {error.reason or error}"
        raise NotReadyError(message) from error
    except OSError as error:
        message = f"{endpoint}: {os.strerror(error.errno) if error.errno else error}"  # asyncio words it otherwise
        raise NotReadyError(message) from error
    except ValueError as error:
        message = f"{endpoint}: {error}"
        raise NotReadyError(message) from error


async def accepts(endpoint: Endpoint) -> None:
    """Return once a process has accepted a connection, however long that takes. Raises `OSError`."""
    connection = await _connected(endpoint, lambda _: None)
    try:
        await _accepted(connection, endpoint)
    finally:
        connection.close()


async def _try(endpoint: Endpoint, check: Check | None, leaves: Collection[str], name: str, steer: Steer) -> None:
    connection = await _connected(endpoint, steer)
    try:
        if leaves or check is not None:
            await _converse(connection, endpoint, check, leaves, name)
        else:
            await _accepted(connection, endpoint)
    finally:
        connection.close()
        steer(None)


async def _connected(endpoint: Endpoint, steer: Steer) -> socket.socket:
    made = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        to = endpoint.name
        if not endpoint.path:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            to = (_WILDCARDS.get(endpoint.host, endpoint.host), endpoint.port)
            made.bind((to[0], 0))
            steer(made.getsockname()[:2])
        await asyncio.get_running_loop().sock_connect(made, to)
    except BaseException as error:
        made.close()
        if endpoint.host == "::" and isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
            return await _connected(Endpoint("127.0.0.1", endpoint.port), steer)  # IPv6 is disabled on loopback
        raise
    return made


async def _accepted(connection: socket.socket, endpoint: Endpoint) -> None:
    """Return once a process has accepted it."""
    while not _is_accepted(connection, endpoint):  # noqa: ASYNC110
        await asyncio.sleep(_INTERVAL)


def _is_accepted(connection: socket.socket, endpoint: Endpoint) -> bool:
    if endpoint.path:
        return is_accepted_unix(connection)
    return is_accepted(endpoint.port, connection.getsockname()[1])


async def _converse(
    connection: socket.socket, endpoint: Endpoint, check: Check | None, leaves: Collection[str], name: str
) -> None:
    tls = _CONTEXT if leaves else None
    reader, writer = await asyncio.open_connection(sock=connection, ssl=tls, server_hostname=name if tls else None)
    try:
        if leaves:
            _require_leaf(writer, leaves)
        if check is not None:
            await _request(reader, writer, name or ("localhost" if endpoint.path else str(endpoint)), check)
    finally:
        writer.transport.abort()


def _require_leaf(writer: asyncio.StreamWriter, leaves: Collection[str]) -> None:
    secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
    served = secured.getpeercert(binary_form=True)
    if served is None or hashlib.sha256(served).hexdigest() not in leaves:
        message = "it serves another certificate"
        raise ValueError(message)


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, check: Check) -> None:
    writer.write(f"{check.method} {check.target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    line = (await reader.readline()).decode("latin-1")
    words = line.split(None, 2)
    if not words:
        message = "it closes the connection without an answer"
        raise ValueError(message)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        message = "it answers no HTTP"
        raise ValueError(message)
    if int(words[1]) not in _GOOD:
        message = f"it answers {check.method} {check.target} with {words[1]}"
        raise ValueError(message)


def _is_target(target: str) -> bool:
    return target.startswith("/") and target.isascii() and target.isprintable()
