"""A small HTTP/1.1 server: one handler, bounded memory, no client that is slow or hostile costs the others anything."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import h11

from agent.http.message import Request, Response

BODY_LIMIT = 1 << 20
HEADER_LIMIT = 64 << 10
READ_TIMEOUT = 60.0  # seconds a client may take to send a request, or to take a part of an answer

Handler = Callable[[Request], Awaitable[Response]]
Admission = Callable[[socket.socket], bool]


class Server:
    """Answers connections on a listening socket that the caller bound, and closes it with itself."""

    def __init__(self, handler: Handler, admission: Admission | None = None, clients_limit: int = 256) -> None:
        self._handler = handler
        self._admission = admission
        self._clients_limit = clients_limit
        self._listener: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """Begin to accept."""
        if listener.family == socket.AF_UNIX:
            self._listener = await asyncio.start_unix_server(self._accept, sock=listener, limit=HEADER_LIMIT)
        else:
            self._listener = await asyncio.start_server(self._accept, sock=listener, limit=HEADER_LIMIT)

    async def close(self) -> None:
        """Stop accepting and cut what is open."""
        if self._listener is not None:
            self._listener.close()
        for client in tuple(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        refused = self._admission is not None and not self._admission(peer)
        if refused or len(self._clients) >= self._clients_limit:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = _Conversation(reader, writer)
        try:
            with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
                while (request := await conversation.request()) is not None:
                    await conversation.respond(await self._handler(request))
        finally:
            writer.transport.abort() if conversation.failed else writer.close()


class _Conversation:
    """One connection: requests in, responses out, by h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.failed = True  # until it has ended in good order
        self._reader = reader
        self._writer = writer
        self._machine = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_LIMIT)

    async def request(self) -> Request | None:
        """The next request; None when the client is done."""
        if self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE:
            self._machine.start_next_cycle()
        event = await self._next()
        if not isinstance(event, h11.Request):
            self.failed = False
            return None
        body = bytearray()
        while isinstance(data := await self._next(), h11.Data):
            body += data.data
            if len(body) > BODY_LIMIT:
                await self.respond(Response(413, b"request too large\n"))
                return None
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
        return Request(event.method.decode(), event.target.decode("latin-1"), headers, bytes(body))

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._machine.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA is excluded by identity
            async with asyncio.timeout(READ_TIMEOUT):
                self._machine.receive_data(await self._reader.read(HEADER_LIMIT))

    async def respond(self, response: Response) -> None:
        """Send a whole answer."""
        whole = isinstance(response.body, bytes)
        headers = [*response.headers]
        if isinstance(response.body, bytes):
            headers.append(("content-length", str(len(response.body))))
        head = h11.Response(status_code=response.status, headers=headers, reason=b"")
        await self._send(self._machine.send(head))
        async for part in _parts(response.body):
            await self._send(self._machine.send(h11.Data(data=part)))
        await self._send(self._machine.send(h11.EndOfMessage()))
        if whole and self._machine.our_state is h11.MUST_CLOSE:
            self.failed = False

    async def _send(self, data: bytes | None) -> None:
        if data:
            self._writer.write(data)
            async with asyncio.timeout(READ_TIMEOUT):
                await self._writer.drain()


async def _parts(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    async for part in body:
        yield part
