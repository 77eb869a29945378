"""The server side of one HTTP/1.1 connection.

It completes each response before it reads the next request. h11 parses strictly. A request that h11 accepts, but that
two parsers may read differently (a length with chunks), is rejected here, as in Envoy.
"""

import asyncio
import contextlib
import re
from collections import deque
from http import HTTPStatus

import h11

from agent.sidecar.client import Client
from agent.sidecar.http_exchange import ClientGone, HttpError, UpstreamRequest
from agent.sidecar.http_headers import LIMIT, WITHOUT_BODY, nominated, own, upgrade_of, values
from agent.sidecar.http_service import Service
from agent.sidecar.model import Reply, Route
from agent.sidecar.stream import Stream

_LINGER = 1.0  # seconds for a client to receive its last response before the connection is closed, as in Envoy


class ServerConnection:
    """The server side of a client connection; owns its wire."""

    def __init__(self, service: Service, client: Client) -> None:
        counters = service.counters
        self.service = service
        self.client = client
        self.stream = Stream(client.wire, counters.downstream_cx_rx_bytes_total, counters.downstream_cx_tx_bytes_total)
        self.must_close = False
        self.machine = h11.Connection(h11.SERVER, max_incomplete_event_size=service.settings.max_request_headers)
        self.is_complete = False  # the whole request was received
        self.is_answering = False  # the response's head is being sent
        self._is_head = False  # the request's method is HEAD
        self._ahead: deque[bytes] = deque()  # parts of the body that were parsed before anybody asked for them
        self._is_new = True
        self._by_us = False

    async def run(self) -> None:
        """Serve requests until either side closes; only a bug raises an exception."""
        with contextlib.suppress(OSError):  # TimeoutError among them
            while await self._request():
                self.machine.start_next_cycle()
            self._by_us = True
            await self._linger()

    def close(self) -> None:
        """Close the connection and count its end."""
        counters = self.service.counters
        (counters.downstream_cx_destroy_local if self._by_us else counters.downstream_cx_destroy_remote).add()
        if not self._is_new:
            counters.downstream_cx_http1_active.sub()
        self.stream.close()

    async def _request(self) -> bool:
        """Serve one request; return whether another may follow.

        Raises OSError if the client has disconnected.
        """
        self.is_complete = self.is_answering = self._is_head = False
        self._ahead.clear()
        if not await self._first_bytes():
            return False
        counters = self.service.counters
        counters.downstream_rq_total.add()
        counters.downstream_rq_http1_total.add()
        counters.downstream_rq_active.add()
        try:
            await self._serve()
        except HttpError as refusal:
            await self._refuse(refusal)
        except (OSError, asyncio.CancelledError):
            counters.downstream_rq_rx_reset.add()
            counters.downstream_cx_destroy_active_rq.add()
            counters.downstream_cx_destroy_remote_active_rq.add()
            raise
        finally:
            counters.downstream_rq_active.sub()
        states = (self.machine.our_state, self.machine.their_state)
        return not self.must_close and states == (h11.DONE, h11.DONE)

    async def _first_bytes(self) -> bool:
        """Wait for the first bytes of a request; return False on the idle timeout."""
        if self.machine.trailing_data[0]:
            await asyncio.sleep(0)  # a client that pipelines requests must not delay the others
            return True
        try:
            data = await self.stream.read(self.service.settings.idle_timeout)
        except TimeoutError:
            self.service.counters.downstream_cx_idle_timeout.add()
            return False
        if not data:
            raise ConnectionResetError("the client has disconnected")
        if self._is_new:
            self._is_new = False
            self.service.counters.downstream_cx_http1_total.add()
            self.service.counters.downstream_cx_http1_active.add()
        self.machine.receive_data(data)
        return True

    async def _serve(self) -> None:
        request = await self._head()
        self._is_head = request.method == b"HEAD"
        _check(request)
        if upgrade_of(request.headers):
            self.service.counters.downstream_rq_ws_on_non_ws_route.add()
            self.must_close = True
            raise HttpError(403, "")
        self.must_close = b"close" in nominated(request.headers)
        if request.method == b"CONNECT":
            raise HttpError(404, "")
        authority, target = _place(request)
        if not target.startswith(b"/"):
            self.service.counters.downstream_rq_non_relative_path.add()
        self.service.counters.rq_total.add()
        route = self._route(authority, target)
        if route is None:
            self.service.counters.no_route.add()
            await self.reply(404, b"")
        elif isinstance(route.action, Reply):
            self.service.counters.rq_direct_response.add()
            await self._reply_directly(route.action)
        else:
            await UpstreamRequest(self, request, authority, target, route).run(self.service.pools[route.action])

    def _route(self, authority: bytes, target: bytes) -> Route | None:
        return self.service.routing.find(authority.decode("latin-1"), target.decode("latin-1"))

    async def _head(self) -> h11.Request:
        loop = asyncio.get_running_loop()
        limit = self.service.settings.request_headers_timeout
        until = loop.time() + limit
        while (event := self._next_event()) is h11.NEED_DATA:
            left = max(until - loop.time(), 0.001) if limit else None
            try:
                data = await self.stream.read(left)
            except TimeoutError as error:
                self.service.counters.downstream_rq_header_timeout.add()
                raise HttpError(408, "request header timeout") from error
            if not data:
                raise ClientGone("the client has disconnected in the middle of its request")
            self.machine.receive_data(data)
        if not isinstance(event, h11.Request):
            raise ClientGone("the client has disconnected")
        return event

    def _next_event(self) -> object:
        try:
            return self.machine.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpError(error.error_status_hint, None) from error

    async def body(self, until: float | None) -> bytes:
        """Return the next part of the request's body; empty at its end, which sets `is_complete`.

        `until`: the deadline for the whole request, on the loop's clock. Raises `HttpError` if the client must get an
        error response, ClientGone or OSError if it has disconnected.
        """
        if self._ahead:
            return self._ahead.popleft()
        if self.is_complete:
            return b""
        while (event := self._next_event()) is h11.NEED_DATA:
            if self.machine.they_are_waiting_for_100_continue:
                await self._continue()
            data = await self._read_body(until)
            if not data:
                raise ClientGone("the client has disconnected in the middle of its request")
            self.machine.receive_data(data)
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self.is_complete = isinstance(event, h11.EndOfMessage)
        return b""

    async def _read_body(self, until: float | None) -> bytes:
        idle = self.service.settings.stream_idle_timeout
        left = None if until is None else max(until - asyncio.get_running_loop().time(), 0.001)
        try:
            return await self.stream.read(min(filter(None, (idle, left)), default=None))
        except TimeoutError as error:
            if left is not None and (not idle or left <= idle):
                self.service.counters.downstream_rq_timeout.add()
                raise HttpError(408, "request timeout") from error
            self.service.counters.downstream_rq_idle_timeout.add()
            raise HttpError(408, "stream timeout") from error

    async def _continue(self) -> None:
        self.service.answered(100)
        await self.stream.write(
            self.machine.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b""
        )

    async def _reply_directly(self, reply: Reply) -> None:
        """Reply without reading the rest of the request; if it is incomplete, the connection ends."""
        if self.machine.they_are_waiting_for_100_continue:
            await self._continue()
        await self.reply(reply.status, reply.body)

    async def _refuse(self, refusal: HttpError) -> None:
        text = refusal.text
        if text is None:  # the client violates the protocol
            text = HTTPStatus(refusal.status).phrase if refusal.status != 400 else "Bad Request"
            self.service.counters.downstream_cx_protocol_error.add()
        if self.is_answering:
            raise ClientGone("its request broke off during the answer")
        await self.reply(refusal.status, text.encode(), is_refusal=refusal.closes)

    async def reply(self, status: int, body: bytes, *, is_refusal: bool = False) -> None:
        """Send a response that no cluster gave; with `is_refusal`, close the connection after it.

        The response to HEAD has the length of `body`, but not `body`; one with status 204 or 304 has neither.
        """
        self.must_close = self.must_close or is_refusal
        if status in WITHOUT_BODY:
            body = b""
        head = self.head(status, own(status, body, self.service.name))
        parts = [head]
        if body and not self._is_head:
            parts.append(self.machine.send(h11.Data(data=body)) or b"")
        parts.append(self.machine.send(h11.EndOfMessage()) or b"")
        await self.stream.write(b"".join(parts), self.service.settings.stream_idle_timeout)

    def head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the head of a response as bytes, with `connection: close` if it is the last one."""
        self._look_for_the_end()
        if not self.is_complete:
            self.must_close = True
            self.service.counters.downstream_rq_response_before_rq_complete.add()
        if self.service.draining.asks() and not self.must_close:
            self.service.counters.downstream_cx_drain_close.add()
            self.must_close = True
        if self.must_close:
            headers = [*headers, (b"connection", b"close")]
        self.service.answered(status)
        self.is_answering = True
        return self.machine.send(h11.Response(status_code=status, headers=headers, reason=_phrase(status))) or b""

    def _look_for_the_end(self) -> None:
        """Parse the buffered bytes before a response: an empty or short body may be complete.

        An upload may go on during the response: `body` returns what was parsed here.
        """
        if self.is_complete or self.machine.their_state is not h11.SEND_BODY:
            return
        try:
            event = self.machine.next_event()
            while isinstance(event, h11.Data):
                self._ahead.append(bytes(event.data))
                event = self.machine.next_event()
        except h11.RemoteProtocolError:
            return
        self.is_complete = isinstance(event, h11.EndOfMessage)

    async def _linger(self) -> None:
        """End the stream, then read for up to `_LINGER` seconds.

        Closing with unread bytes would discard the response.
        """
        self.stream.wire.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while await self.stream.read():
                    pass


def _check(request: h11.Request) -> None:
    if request.http_version != b"1.1":
        raise HttpError(426 if request.http_version < b"1.1" else 400, None)
    if len(list(request.headers)) > LIMIT:
        raise HttpError(431, None)
    if values(request.headers, b"transfer-encoding") and values(request.headers, b"content-length"):
        raise HttpError(400, None)


_ABSOLUTE = re.compile(rb"https?://(?:[^/?@#]*@)?([^/?@#]+)(/[^?]*)?(\?.*)?", re.IGNORECASE)


def _place(request: h11.Request) -> tuple[bytes, bytes]:
    """Return authority and path; a target with both (RFC 9112, 3.2.2) overrides the host header.

    Raises `HttpError` for a target of another form, or with a fragment, as in Envoy.
    """
    target = request.target
    if target.startswith(b"/") or (target == b"*" and request.method == b"OPTIONS"):
        authority, path = next(iter(values(request.headers, b"host")), b""), target
    else:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise HttpError(400, None)
        authority, path = absolute[1], (absolute[2] or b"/") + (absolute[3] or b"")
    if b"#" in path:
        raise HttpError(400, "")
    return authority, path


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
