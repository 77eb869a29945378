"""A small HTTP/1.1 client over Unix sockets or TCP: one request per connection."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import h11

from agent.http.held import held_socket
from agent.http.message import Headers, Request, Response

_CHUNK = 64 << 10
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid of the process that called listen(2), see unix(7)
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te", "trailer"})


LIMIT = 16 << 20
"""Size limit in bytes of a body that is read whole; far above any admin response."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A Unix socket in an untrusted directory, with checks on the process that listens there.

    Links are not followed. The listener must be the process `pid`, unless that is None, and its user (a uid) must be
    accepted by `admits`.
    """

    path: Path
    pid: int | None = None
    admits: Callable[[int], bool] = lambda _: True

    def __str__(self) -> str:
        return str(self.path)


UnixPlace = Path | Owned
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def fetch(path: UnixPlace, target: str, *, method: str = "GET", timeout: float) -> tuple[int, bytes]:
    """Send one request to the server at a Unix socket; return the status and the whole body.

    Raises `OSError` (including `TimeoutError`) if it does not answer, `ConnectionError` if the response is not HTTP.
    """
    return await exchange(path, Request(method, target), timeout=timeout)


async def exchange(path: UnixPlace, request: Request, *, timeout: float) -> tuple[int, bytes]:
    """Send a request like `fetch`, with the headers and the body that it has."""
    async with asyncio.timeout(timeout):
        async with stream(path, request) as response:
            assert not isinstance(response.body, bytes)
            return response.status, await whole(response.body)


async def whole(body: AsyncIterator[bytes]) -> bytes:
    """Return the whole body of a response. Raises `ConnectionError` if it is longer than `LIMIT`."""
    taken = bytearray()
    async for part in body:
        taken += part
        if len(taken) > LIMIT:
            message = f"the answer is longer than {LIMIT} bytes"
            raise ConnectionError(message)
    return bytes(taken)


@asynccontextmanager
async def stream(
    place: UnixPlace | tuple[str, int], request: Request, host: str = "agent", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Response]:
    """Send one request to a path or to a host and port, the latter optionally over TLS.

    `host` is sent as the Host header. The response's body is read from the connection during iteration. Raises as
    `fetch` does.
    """
    connection = await _connect(place, tls)
    async with opened(connection, request, host, str(host if isinstance(place, tuple) else place)) as response:
        yield response


@asynccontextmanager
async def opened(
    connection: Connection, request: Request, host: str, name: str | None = None
) -> AsyncIterator[Response]:
    """Send one request on an open connection, which is cut at the end; see `stream`. `name` is for messages."""
    reader, writer = connection
    try:
        yield await _Exchange(reader, writer).ask(request, host)
    except h11.ProtocolError as error:
        message = f"cannot parse the answer from {name or host}: {error}"
        raise ConnectionError(message) from error
    finally:
        writer.transport.abort()


async def passed_on(path: UnixPlace, request: Request) -> Response:
    """Send a request like `stream`, but end the connection with the response's body.

    For callers that forward the response.
    """
    stack = AsyncExitStack()
    try:
        response = await stack.enter_async_context(stream(path, request))
    except BaseException:
        await stack.aclose()
        raise
    assert not isinstance(response.body, bytes)
    return Response(response.status, _closing(response.body, stack), response.headers)


async def _closing(body: AsyncIterator[bytes], stack: AsyncExitStack) -> AsyncIterator[bytes]:
    async with stack:
        async for part in body:
            yield part


async def _connect(place: UnixPlace | tuple[str, int], tls: ssl.SSLContext | None) -> Connection:
    if isinstance(place, Path):
        return await asyncio.open_unix_connection(str(place), limit=_CHUNK)
    if isinstance(place, Owned):
        return await _connect_to_owner(place)
    return await asyncio.open_connection(*place, limit=_CHUNK, ssl=tls)


async def _connect_to_owner(place: Owned) -> Connection:
    with held_socket(place.path) as way:
        reader, writer = await asyncio.open_unix_connection(way, limit=_CHUNK)
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(peer)
    if place.pid in {None, pid} and place.admits(user):
        return reader, writer
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    whose = f"not the proxy (pid {place.pid})" if place.pid is not None else f"of uid {user}, which is not trusted"
    message = f"another process (pid {pid}) listens at {place.path}, {whose}"
    raise ConnectionError(message)


class _Exchange:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._machine = h11.Connection(h11.CLIENT)

    async def ask(self, request: Request, host: str) -> Response:
        headers = [(name, value) for name, value in request.headers if name not in _HOP_BY_HOP | {"host"}]
        headers += [("host", host), ("connection", "close"), ("content-length", str(len(request.body)))]
        events = (
            h11.Request(method=request.method, target=request.target, headers=headers),
            h11.Data(data=request.body),
            h11.EndOfMessage(),
        )
        self._writer.write(b"".join(self._machine.send(event) or b"" for event in events))
        await self._writer.drain()
        head = await self._next()
        while isinstance(head, h11.InformationalResponse):
            head = await self._next()
        assert isinstance(head, h11.Response)
        return Response(head.status_code, self._body(), _end_to_end(head))

    async def _body(self) -> AsyncIterator[bytes]:
        while isinstance(data := await self._next(), h11.Data):
            yield bytes(data.data)

    async def _next(self) -> object:
        while (event := self._machine.next_event()) is h11.NEED_DATA:
            self._machine.receive_data(await self._reader.read(_CHUNK))
        if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            message = "cannot read the answer: the connection ended before it"
            raise ConnectionError(message)
        return event


def _end_to_end(head: h11.Response) -> Headers:
    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
    return tuple((name, value) for name, value in pairs if name not in _HOP_BY_HOP)
