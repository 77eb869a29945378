"""A small HTTP/1.1 server with bounded memory; slow or hostile clients do not affect others."""

import asyncio
import contextlib
import math
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import h11

from agent.http.message import Peer, Request, Response

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

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Server:
    """Answers connections on a listening socket that the caller bound; closes it at the end.

    From half of `clients_limit` on, a client that was idle for longer than `PATIENCE` is dropped for the next; at the
    limit, the one that was idle longest. Idle means that the server waits for its request or for it to read the
    response. A body longer than `body_limit` bytes is answered with 413.
    """

    def __init__(
        self,
        handler: Handler,
        admission: Admission | None = None,
        clients_limit: int | None = None,
        body_limit: int = BODY_LIMIT,
    ) -> None:
        self._handler = handler
        self._body_limit = body_limit
        self._admission = admission
        self._clients_limit = clients_limit or affordable_clients()
        self._listener: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], _Conversation] = {}

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
        if refused or not self._has_room():
            writer.transport.abort()
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        writer.transport.set_write_buffer_limits(high=0)
        conversation = _Conversation(reader, writer, client, self._body_limit)
        task = asyncio.get_running_loop().create_task(self._serve(conversation))
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

    async def _serve(self, conversation: "_Conversation") -> None:
        with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
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


class _Conversation:
    """One connection: receives requests and sends responses with h11."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: socket.socket, body_limit: int
    ) -> None:
        # Since when the client is idle: it owes a request or must read a response. Infinite while it waits for the
        # server.
        self.waits_since = asyncio.get_running_loop().time()
        self._body_limit = body_limit
        self._peer = peer_of(client)
        self._address = _address_of(writer, "peername")
        self._local = _address_of(writer, "sockname")
        self._reader = reader
        self._writer = writer
        self._machine = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_LIMIT)
        self._ended_well = False
        self._wants_body = True

    async def request(self) -> Request | None:
        """Return the next request, within READ_TIMEOUT; None when either side is done."""
        if self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE:
            self._machine.start_next_cycle()
        if self._machine.our_state is h11.MUST_CLOSE:
            self._ended_well = True
            return None
        with self._waiting():
            async with asyncio.timeout(READ_TIMEOUT):
                return await self._read()

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
            if len(body) > self._body_limit:
                await self.respond(Response(413, b"request too large\n"))
                return None
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
        method, target = event.method.decode(), event.target.decode("latin-1")
        return Request(method, target, headers, bytes(body), self._peer, self._address, self._local)

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._machine.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA is excluded by identity
            self._machine.receive_data(await self._reader.read(HEADER_LIMIT))

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
        if self._ended_well:
            self._writer.close()
        else:
            self._writer.transport.abort()


async def _parts(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    async for part in body:
        yield part
