"""A small HTTP/1.1 client: one request a connection, over a Unix socket or TCP, streamed or whole."""

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
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid; of who called listen(2), see unix(7)
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te", "trailer"})


LIMIT = 16 << 20
"""Bytes of a body that is taken whole; no console has more to say."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A Unix socket at which only one may answer, for somebody else may own its directory. No link is followed there.

    He is the process `pid`, where that is not None, and of a user (a uid) that `admits` does not deny.
    """

    path: Path
    pid: int | None = None
    admits: Callable[[int], bool] = lambda _: True

    def __str__(self) -> str:
        return str(self.path)


UnixPlace = Path | Owned


async def fetch(path: UnixPlace, target: str, *, method: str = "GET", timeout: float) -> tuple[int, bytes]:
    """Return the status and the whole body of one request to the server at a Unix socket.

    Raises `OSError` (with `TimeoutError` among them) if it does not answer, `ConnectionError` if what it says is not
    HTTP.
    """
    async with asyncio.timeout(timeout):
        async with stream(path, Request(method, target)) as response:
            assert not isinstance(response.body, bytes)
            return response.status, await _whole(response.body)


async def _whole(body: AsyncIterator[bytes]) -> bytes:
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
    """Make one request, at a path or a host and port, there also by TLS; `host` is what it calls the server.

    The response's body is read from the connection while it is iterated over. Raises as `fetch` does.
    """
    reader, writer = await _connect(place, tls)
    exchange = _Exchange(reader, writer)
    try:
        yield await exchange.ask(request, host)
    except h11.ProtocolError as error:
        where = host if isinstance(place, tuple) else place
        message = f"cannot understand the answer from {where}: {error}"
        raise ConnectionError(message) from error
    finally:
        writer.transport.abort()


async def passed_on(path: UnixPlace, request: Request) -> Response:
    """The same for whoever passes the answer on: the connection ends with the response's body."""
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


async def _connect(
    place: UnixPlace | tuple[str, int], tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(place, Path):
        return await asyncio.open_unix_connection(str(place), limit=_CHUNK)
    if isinstance(place, Owned):
        return await _connect_to_owner(place)
    return await asyncio.open_connection(*place, limit=_CHUNK, ssl=tls)


async def _connect_to_owner(place: Owned) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with held_socket(place.path) as way:
        reader, writer = await asyncio.open_unix_connection(way, limit=_CHUNK)
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(peer)
    if place.pid in {None, pid} and place.admits(user):
        return reader, writer
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    whose = f"not the proxy (pid {place.pid})" if place.pid is not None else f"of uid {user}, which is not believed"
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
