"""One request to a cluster and its response, each streamed at the pace of its slower side."""

import asyncio
import contextlib
from typing import TYPE_CHECKING

import h11

from agent.sidecar.http_headers import is_framed_well, to_client, to_upstream, values
from agent.sidecar.http_pool import Closed, Pool, Unreachable, UpstreamConnection
from agent.sidecar.model import Route

if TYPE_CHECKING:
    from agent.sidecar.http_conversation import ServerConnection

_REPLAYABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})  # RFC 9110, 9.2.2
_TOGETHER = 64 << 10  # bytes of a response that are collected for one write
_RESET = "upstream connect error or disconnect/reset before headers. reset reason: "


class ClientGone(ConnectionError):
    """The client has disconnected."""


class HttpError(Exception):
    """An error response for the client.

    `text` None: the client violated the protocol, and gets the status's phrase.
    """

    def __init__(self, status: int, text: str | None, *, closes: bool = True) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.text = text
        self.closes = closes


class UpstreamRequest:
    """Forwards a client's request to a cluster, and the response to the client."""

    def __init__(
        self, conversation: "ServerConnection", request: h11.Request, authority: bytes, target: bytes, route: Route
    ) -> None:
        self._conversation = conversation
        self._service = conversation.service
        self._request = request
        self._route = route
        self._loop = asyncio.get_running_loop()
        self._timeout: asyncio.Timeout | None = None
        is_secure = conversation.client.wire.is_secure
        headers = to_upstream(request, authority, is_secure=is_secure, timeout=route.timeout)
        self._head = h11.Request(method=request.method, target=target, headers=headers)
        chunked = values(request.headers, b"transfer-encoding")
        self._has_body = bool(chunked) or values(request.headers, b"content-length") not in ([], [b"0"])
        self._began_at = self._sent_at = self._loop.time()
        self._line: UpstreamConnection | None = None
        self._trouble: HttpError | OSError | None = None  # an error on the client's side, which has precedence

    async def run(self, pool: Pool) -> None:
        """Forward the request and its response.

        Raises `HttpError` while no part of the response is sent, OSError if the client's connection is broken.
        """
        counters = pool.upstream.counters
        try:
            await self._run(pool)
        except HttpError as refusal:
            if refusal.text is not None and refusal.status in {502, 503, 504}:
                counters.answered(refusal.status)
            raise

    async def _run(self, pool: Pool) -> None:
        if not self._has_body:
            await self._conversation.body(None)  # the request's end, which h11 returns at once
            self._conversation.stream.watch(self._client_left)
        try:
            async with asyncio.timeout(None) as self._timeout:
                if not self._has_body:
                    self._start_clock()
                await self._try(pool)
        except TimeoutError as error:
            if self._timeout is None or not self._timeout.expired():
                raise
            pool.upstream.counters.upstream_rq_timeout.add()
            if self._conversation.is_answering:
                raise ClientGone("the answer took too long") from error
            raise HttpError(504, "upstream request timeout", closes=False) from error
        finally:
            self._conversation.stream.unwatch()

    def _client_left(self) -> None:
        """Stop waiting for the upstream, since the client has disconnected."""
        self._trouble = ClientGone("the client has disconnected")
        if self._line is not None:
            self._line.stream.break_off(self._trouble)

    def _start_clock(self) -> None:
        if self._timeout is not None and self._route.timeout:
            self._timeout.reschedule(self._loop.time() + self._route.timeout)

    async def _try(self, pool: Pool) -> None:
        """Send the request to an upstream.

        Retries once if a reused connection was closed already, and repeating the request is safe.
        """
        may_repeat = not self._has_body and self._request.method in _REPLAYABLE
        while True:
            line = await self._connect(pool)
            try:
                await self._talk(pool, line)
            except (Closed, ConnectionResetError, BrokenPipeError) as error:
                if may_repeat and line.uses and not self._conversation.is_answering and self._trouble is None:
                    may_repeat = False
                    pool.upstream.counters.upstream_rq_retry.add()
                    continue
                raise self._failure(error, pool) from error
            except (OSError, h11.RemoteProtocolError) as error:
                raise self._failure(error, pool) from error
            return

    async def _connect(self, pool: Pool) -> UpstreamConnection:
        try:
            line = await pool.line(self._conversation.client.original)
        except Unreachable as error:
            reason = str(error)
            text = reason if reason == "no healthy upstream" else _RESET + reason
            raise HttpError(503, text, closes=False) from error
        if self._trouble is not None:
            pool.release(line)
            raise self._trouble
        return line

    def _failure(self, error: Exception, pool: Pool) -> HttpError | OSError:
        """Return the error to raise towards the client for a failure of the upstream."""
        if self._trouble is not None:
            return self._trouble
        counters = pool.upstream.counters
        is_timeout = isinstance(error, TimeoutError)
        if isinstance(error, h11.RemoteProtocolError):
            counters.upstream_cx_protocol_error.add()
        if self._conversation.is_answering:
            self._service.counters.rq_reset_after_downstream_response_started.add()
            return ClientGone("the answer broke off")
        if is_timeout:
            self._service.counters.downstream_rq_idle_timeout.add()
            return HttpError(504, "stream timeout", closes=False)
        if isinstance(error, h11.RemoteProtocolError):
            return HttpError(502, f"{_RESET}protocol error", closes=False)
        return HttpError(503, f"{_RESET}connection termination", closes=False)

    async def _talk(self, pool: Pool, line: UpstreamConnection) -> None:
        counters = pool.upstream.counters
        counters.upstream_rq_total.add()
        counters.upstream_rq_active.add()
        self._line = line
        upload: asyncio.Task[None] | None = None
        by_us = True
        try:
            if self._has_body:
                await line.stream.write(line.pack(self._head), self._idle)
                upload = self._loop.create_task(self._upload(line))
            else:
                await line.stream.write(line.pack(self._head) + line.pack(h11.EndOfMessage()), self._idle)
            await self._download(pool, line)
        except (Closed, ConnectionError):
            by_us = self._trouble is not None
            raise
        finally:
            self._line = None
            try:
                if upload is not None:
                    upload.cancel()
                    await asyncio.gather(upload, return_exceptions=True)
            finally:  # this task may be cancelled meanwhile
                counters.upstream_rq_active.sub()
                if line.is_reusable:
                    pool.release(line)
                else:
                    line.close(by_us=by_us, busy=True)

    @property
    def _idle(self) -> float:
        return self._service.settings.stream_idle_timeout

    async def _upload(self, line: UpstreamConnection) -> None:
        limit = self._service.settings.request_timeout
        until = self._began_at + limit if limit else None
        try:
            while data := await self._conversation.body(until):
                packed = line.pack(h11.Data(data=data))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have responded before
                    await line.stream.write(packed, self._idle)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await line.stream.write(line.pack(h11.EndOfMessage()), self._idle)
        except (HttpError, OSError) as error:
            self._trouble = error
            line.stream.break_off(ConnectionAbortedError("the request broke off"))
        except h11.LocalProtocolError:  # an error response came first: h11 sends no more of the request
            return
        else:
            self._sent_at = self._loop.time()
            self._start_clock()
            self._conversation.stream.watch(self._client_left)

    async def _download(self, pool: Pool, line: UpstreamConnection) -> None:
        response = await self._next(line)
        while isinstance(response, h11.InformationalResponse):
            response = await self._next(line)
        if not isinstance(response, h11.Response):
            raise h11.RemoteProtocolError("no answer")
        if not is_framed_well(response):
            raise h11.RemoteProtocolError("the end of the answer is ambiguous")
        milliseconds = int((self._loop.time() - self._began_at) * 1000)
        pool.upstream.counters.answered(response.status_code)
        headers = to_client(response, milliseconds, self._service.name)
        out = bytearray(self._conversation.head(response.status_code, headers))
        machine = self._conversation.machine
        while not isinstance(event := line.ready() or await self._more(line, out), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                out += machine.send(event) or b""
            if len(out) >= _TOGETHER:
                await self._flush(out)
        out += machine.send(h11.EndOfMessage()) or b""
        await self._flush(out)

    async def _more(self, line: UpstreamConnection, out: bytearray) -> h11.Event:
        await self._flush(out)
        return await self._next(line)

    async def _next(self, line: UpstreamConnection) -> h11.Event:
        """Return the response's next part; the idle timeout starts once the request is sent."""
        within = self._idle
        while True:
            try:
                return await line.next(within)
            except TimeoutError:
                if self._conversation.is_complete:
                    within = self._sent_at + self._idle - self._loop.time()
                    if within <= 0:
                        raise

    async def _flush(self, out: bytearray) -> None:
        try:
            await self._conversation.stream.write(bytes(out), self._idle)
        except OSError as error:
            self._trouble = ClientGone(str(error))
            raise
        out.clear()
