"""A small HTTP/1.1 server with bounded memory; slow or hostile clients do not affect others."""

import asyncio
import contextlib
import math
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from agent.http.message import Peer, Request, Response

if TYPE_CHECKING:
    import ssl

ADMITTED = 8  # clients accepted in one turn of the loop; further ones wait in the accept queue
BACKLOG = 128
BODY_LIMIT = 1 << 20
HEADER_LIMIT = 64 << 10
READ_TIMEOUT = 60.0  # seconds for a client to send a whole request, or to read a part of a response
PATIENCE = 1.0  # seconds that a client may be idle before it can be dropped for a new one
SEND_BUFFER = 64 << 10  # bytes that the kernel buffers for a client that does not read; its default is megabytes
RECEIVE_BUFFER = 32 << 10  # and for a client that sends ahead; up to a quarter of a megabyte is read at once

Handler = Callable[[Request], Awaitable[Response]]
Admission = Callable[[socket.socket], bool]
Tls = Callable[[], "ssl.SSLContext | None"]
"""Returns the context for the next connection; None as long as there is no certificate: the connection is cut."""

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_LAST = (("content-type", "text/plain; charset=utf-8"), ("connection", "close"))
_LINGER = 2.0  # seconds for which the rest of a refused request is read and discarded
_GOODBYE = 1.0  # seconds for a client to end a TLS connection; asyncio's own limit is 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what clients send.

    `body`: bytes of one body, answered with 413 beyond; `bodies`: of all that are being received or answered, 503.
    `request_timeout`: seconds for a TLS handshake, and from a request's first byte to its last; without it,
    READ_TIMEOUT covers a whole request with the time before it.
    """

    body: int = BODY_LIMIT
    bodies: int | None = None
    request_timeout: float | None = None


class Server:
    """Answers connections on a listening socket that the caller bound; closes it at the end.

    From half of `clients_limit` on, a client that was idle for longer than `PATIENCE` is dropped for the next; at the
    limit, the one that was idle longest. Idle means that the server waits for its request or for it to read the
    response. With `tls`, a handshake is part of the time in which a client may be idle.
    """

    def __init__(
        self,
        handler: Handler,
        admission: Admission | None = None,
        clients_limit: int | None = None,
        limits: Limits = Limits(),
        tls: Tls | None = None,
    ) -> None:
        self._handler = handler
        self._limits = limits
        self._tls = tls
        self._admission = admission
        self._clients_limit = clients_limit or affordable_clients()
        self._listener: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], _Conversation] = {}
        self._held = _HeldBodies(limits.bodies)

    async def start(self, listener: socket.socket) -> None:
        """Start accepting."""
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # inherited by accepted sockets
        # Not start_unix_server: since Python 3.13 that removes the file, which belongs to the caller.
        self._listener = await asyncio.start_server(self._accept, sock=listener, limit=HEADER_LIMIT, backlog=ADMITTED)
        listener.listen(BACKLOG)  # asyncio's `backlog` is also how many connections it accepts in one turn of the loop

    def duplicate(self) -> int | None:
        """Return a duplicate of the listening socket's descriptor, for another process; None if it does not listen."""
        listening = () if self._listener is None else self._listener.sockets
        return next((os.dup(each.fileno()) for each in listening), None)

    async def drain(self, timeout: float) -> None:
        """Stop accepting, wait for the requests in progress, and close; after `timeout` seconds at the latest.

        Connections between two requests are cut at once. The handler sends `connection: close` in time.
        """
        if self._listener is not None:
            self._listener.close()
        for client, conversation in tuple(self._clients.items()):
            if conversation.is_between_requests:
                client.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=timeout)
        await self.close()

    async def close(self) -> None:
        """Stop accepting and cut open connections."""
        if self._listener is not None:
            self._listener.close()
        for client in tuple(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client: socket.socket = writer.get_extra_info("socket")
        refused = self._admission is not None and not self._admission(client)
        context = self._tls() if self._tls is not None else None
        if refused or (self._tls is not None and context is None) or not self._has_room():
            writer.transport.abort()
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        writer.transport.set_write_buffer_limits(high=0)
        conversation = _Conversation(reader, writer, client, self._limits, self._held)
        if context is not None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # until the handshake reads
        task = asyncio.get_running_loop().create_task(self._serve(conversation, context))
        self._clients[task] = conversation
        task.add_done_callback(self._end)  # also runs for a task that is cancelled before it starts

    def _has_room(self) -> bool:
        """Return whether there is room for one more client; drop an idle one if necessary."""
        if len(self._clients) < self._clients_limit // 2:
            return True
        idle = min(self._clients, key=lambda task: self._clients[task].waits_since)
        since = self._clients[idle].waits_since
        if since + PATIENCE > asyncio.get_running_loop().time() and len(self._clients) < self._clients_limit:
            return True  # all clients are new or being answered
        if since == math.inf:
            return False
        self._clients[idle].waits_since = math.inf  # cancel it only once
        idle.cancel()
        return True

    async def _serve(self, conversation: "_Conversation", context: "ssl.SSLContext | None") -> None:
        with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
            if context is not None:
                await conversation.shake_hands(context)
            while (request := await conversation.request()) is not None:
                await conversation.respond(await self._handler(request))
                await asyncio.sleep(0)  # let other clients run after each of many pipelined requests

    def _end(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task).end()


def peer_of(client: socket.socket) -> Peer | None:
    """Return the process that connected to a Unix socket; None for other kinds of socket.

    As it was at connect (SO_PEERCRED, unix(7)).
    """
    if client.family != socket.AF_UNIX:
        return None
    return Peer(*_CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def _address_of(writer: asyncio.StreamWriter, end: str) -> str | None:
    """Return the internet address of one end, `peername` or `sockname`; None at a Unix socket."""
    name = writer.get_extra_info(end)
    return name[0] if isinstance(name, tuple) else None


def affordable_clients() -> int:
    """Return a client limit that keeps clients from using up the agent's descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, min(256, descriptors // 8))


class _HeldBodies:
    """Counts the bytes of all bodies that are held, up to a limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = math.inf if limit is None else limit
        self._bytes = 0

    def add(self, count: int) -> bool:
        """Count more bytes; return whether all are within the limit."""
        self._bytes += count
        return self._bytes <= self._limit


class _Conversation:
    """One connection: receives requests and sends responses with h11."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: socket.socket,
        limits: Limits,
        held: _HeldBodies,
    ) -> None:
        # Since when the client is idle: it owes a request or must read a response. Infinite while it waits for the
        # server.
        self.waits_since = asyncio.get_running_loop().time()
        self.is_between_requests = False
        """Whether a request has been answered, and none of the next has arrived."""
        self._is_secure = False
        self._limits = limits
        self._held = held
        self._body_size = 0
        self._timeout: asyncio.Timeout | None = None  # of a request whose first byte has not arrived
        self._peer = peer_of(client)
        self._address = _address_of(writer, "peername")
        self._local = _address_of(writer, "sockname")
        self._reader = reader
        self._writer = writer
        self._machine = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_LIMIT)
        self._ended_well = False
        self._wants_body = True

    async def shake_hands(self, context: "ssl.SSLContext") -> None:
        """Continue over TLS, as the server. Raises `OSError` or `TimeoutError`."""
        with self._waiting():
            async with asyncio.timeout(self._limits.request_timeout or READ_TIMEOUT):
                await self._writer.start_tls(context)
        self._is_secure = True
        self._writer.transport.set_write_buffer_limits(high=1)  # at 0, asyncio's TLS never resumes writing

    async def request(self) -> Request | None:
        """Return the next request, within its time limits; None when either side is done."""
        self._release()
        if self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE:
            self._machine.start_next_cycle()
        if self._machine.our_state is h11.MUST_CLOSE:
            self._ended_well = True
            return None
        with self._waiting():
            async with asyncio.timeout(READ_TIMEOUT) as self._timeout:
                if self._machine.trailing_data[0]:
                    self._begin()
                return await self._read()

    def _begin(self) -> None:
        """Note the arrival of a request's first byte."""
        now = asyncio.get_running_loop().time()
        self.waits_since, self.is_between_requests = now, False
        if self._timeout is not None and self._limits.request_timeout is not None:
            self._timeout.reschedule(now + self._limits.request_timeout)
        self._timeout = None

    def _release(self) -> None:
        self._held.add(-self._body_size)
        self._body_size = 0

    async def _read(self) -> Request | None:
        event = await self._next()
        if not isinstance(event, h11.Request):
            self._ended_well = True
            return None
        self._wants_body = event.method != b"HEAD"
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
            # Request smuggling: an intermediary may have used the other length, and hidden a request in the body.
            await self.respond(Response(400, b"two lengths\n", (("connection", "close"),)))
            return None
        body = bytearray()
        while isinstance(data := await self._next(), h11.Data):
            body += data.data
            self._body_size += len(data.data)
            is_held = self._held.add(len(data.data))
            if len(body) > self._limits.body:
                await self._refuse(Response(413, b"request too large\n", _LAST))
                return None
            if not is_held:
                await self._refuse(Response(503, b"too many large requests at once\n", _LAST))
                return None
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
        method, target = event.method.decode(), event.target.decode("latin-1")
        return Request(method, target, headers, bytes(body), self._peer, self._address, self._local)

    async def _refuse(self, response: Response) -> None:
        """Respond to a request that goes on: until its client has read that, a reset would discard the response."""
        self._release()
        await self.respond(response)
        with contextlib.suppress(TimeoutError), self._waiting():
            async with asyncio.timeout(_LINGER):
                while await self._reader.read(HEADER_LIMIT):
                    pass

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._machine.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA is excluded by identity
            data = await self._reader.read(HEADER_LIMIT)
            if data and self._timeout is not None:
                self._begin()
            self._machine.receive_data(data)

    async def respond(self, response: Response) -> None:
        """Send a whole response; for HEAD, only its head."""
        try:
            await self._respond(response)
        finally:
            # Since Python 3.12 asyncio keeps an exception whose frames reference the body until garbage collection.
            close = getattr(response.body, "aclose", None)
            if close is not None:
                await close()

    async def _respond(self, response: Response) -> None:
        headers = [*response.headers]
        if isinstance(response.body, bytes):
            headers.append(("content-length", str(len(response.body))))
        await self._send(h11.Response(status_code=response.status, headers=headers, reason=b""))
        async for part in _parts(response.body):
            if self._wants_body:
                await self._send(h11.Data(data=part))
        await self._send(h11.EndOfMessage())
        self.is_between_requests = True

    async def _send(self, event: h11.Event) -> None:
        data = self._machine.send(event)
        if data:
            self._writer.write(data)
            with self._waiting():
                async with asyncio.timeout(READ_TIMEOUT):
                    await self._writer.drain()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self.waits_since = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self.waits_since = math.inf

    def end(self) -> None:
        """Close the connection, gracefully if the conversation ended normally."""
        self._release()
        if self._ended_well:
            self._writer.close()
            if self._is_secure:
                asyncio.get_running_loop().call_later(_GOODBYE, self._writer.transport.abort)
        else:
            self._writer.transport.abort()


async def _parts(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    async for part in body:
        yield part
