"""Tests a candidate as a client does: a connection to the real address, a handshake, a request.

The connection waits in the candidate's own queue until it accepts it, so readiness is an event and not a poll.
"""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from agent.core.errors import UsageError
from agent.host.sockets import Endpoint
from agent.host.tls_probe import trusting_context

_TIMEOUT = 5.0
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
            case [method, target] if method.isalpha() and target.startswith("/"):
                return cls(method.upper(), target, listener)
            case _:
                message = f"cannot use --check {text!r}: it is no request; write it like 'GET /health'"
                raise UsageError(message)


class NotReadyError(Exception):
    """The candidate did not answer as it should; the message tells how."""


async def attempt(
    endpoint: Endpoint, check: Check | None, leaves: Mapping[str, str | None], steer: Callable[[int], None]
) -> None:
    """Connect, and return if the answer is right. Raises `NotReadyError`.

    `leaves`: fingerprints of the certificates of which one has to be served, with the name to ask for; none: no TLS is
    expected. Each name is asked for, up to a limit. `steer` is called with the source port before a connection.
    """
    names = list(dict.fromkeys(leaves.values()))[:_MOST_NAMES] or [None]
    try:
        async with asyncio.timeout(_TIMEOUT):
            for name in names:
                await _converse(endpoint, check, leaves, name or "", steer)
    except TimeoutError:
        message = f"{endpoint} does not answer within {_TIMEOUT:g} s"
        raise NotReadyError(message) from None
    except (OSError, ValueError) as error:
        message = f"{endpoint}: {getattr(error, 'strerror', None) or error}"
        raise NotReadyError(message) from error


async def _converse(
    endpoint: Endpoint, check: Check | None, leaves: Collection[str], name: str, steer: Callable[[int], None]
) -> None:
    connection = await _connected(endpoint, steer)
    tls = _CONTEXT if leaves else None
    reader, writer = await asyncio.open_connection(sock=connection, ssl=tls, server_hostname=name if tls else None)
    try:
        if leaves:
            _require_leaf(writer, leaves)
        if check is not None:
            await _request(reader, writer, name or str(endpoint), check)
    finally:
        writer.transport.abort()


async def _connected(endpoint: Endpoint, steer: Callable[[int], None]) -> socket.socket:
    made = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        if not endpoint.path:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            host = _WILDCARDS.get(endpoint.host, endpoint.host)
            made.bind((host, 0))
            steer(made.getsockname()[1])
            await asyncio.get_running_loop().sock_connect(made, (host, endpoint.port))
        else:
            await asyncio.get_running_loop().sock_connect(made, endpoint.name)
    except BaseException:
        made.close()
        raise
    return made


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
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        message = "it answers no HTTP"
        raise ValueError(message)
    if int(words[1]) not in _GOOD:
        message = f"it answers {check.method} {check.target} with {words[1]}"
        raise ValueError(message)
