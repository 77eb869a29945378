"""The server over TLS, its limits on bodies and times, and its end."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.host.server_context import server_context
from agent.http.message import Request, Response
from agent.http.server import Limits, Server
from tests.http.test_server import GET, Line, echo
from tests.pki import Authority, Leaf
from tests.system.eventually import PATIENCE

CA = Authority.create("ca")


def post(size: int, path: str = "/") -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path.encode(), size) + b"x" * size


@dataclass
class Served:
    """A server on loopback; its certificate can be replaced."""

    limits: Limits = field(default_factory=Limits)
    clients: int = 64
    leaf: Leaf | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: Request) -> Response:
        if request.path == "/slow":
            self.entered.set()
            await self.goes_on.wait()
        return await echo(request)

    def context(self) -> ssl.SSLContext | None:
        return server_context("tls.crt", self.leaf.chain_pem, self.leaf.key_pem) if self.leaf else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Served"]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.errors.append(context))
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.server = Server(self.handle, None, self.clients, self.limits, self.context)
        await self.server.start(listener)
        try:
            yield self
        finally:
            await self.server.close()
            for _ in range(3):
                await asyncio.sleep(0)
        assert self.errors == []

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        context = ssl.create_default_context(cadata=CA.pem.decode())
        reader, writer = await asyncio.open_connection(*self.address, ssl=context, server_hostname="a")
        try:
            yield Line(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[Line]:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield Line(reader, writer)
        finally:
            writer.transport.abort()


@pytest.fixture
def served() -> Served:
    return Served(leaf=CA.issue(["a"]))


async def test_requests_over_tls_are_answered_one_after_another(served: Served) -> None:
    async with served.running(), served.line() as one:
        for _ in range(3):
            await one.send(GET)
            assert await one.answer() == (200, b"GET /x 0")


async def test_a_body_over_tls_that_is_longer_than_the_buffers_arrives_whole(served: Served) -> None:
    async with served.running(), served.line() as one:
        await one.send(post(1 << 20))
        assert await one.answer() == (200, b"POST / %d" % (1 << 20))


async def test_a_new_connection_gets_the_new_certificate_and_an_old_one_goes_on(served: Served) -> None:
    async with served.running(), served.line() as before:
        old = before.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        served.leaf = CA.issue(["a"])
        async with served.line() as after:
            new = after.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
            for each in (before, after):
                await each.send(GET)
                assert (await each.answer())[0] == 200
    assert int(new, 16) == served.leaf.certificate.serial_number != int(old, 16)


async def test_without_a_certificate_connections_are_cut(served: Served) -> None:
    served.leaf = None
    async with served.running(), served.plain() as one:
        assert await one.rest() == b""


async def test_a_client_that_does_not_speak_tls_is_cut(served: Served) -> None:
    async with served.running(), served.plain() as hostile:
        await hostile.send(GET)
        assert not (await hostile.rest()).startswith(b"HTTP")
        async with served.line() as one:
            await one.send(GET)
            assert (await one.answer())[0] == 200


async def test_a_silent_handshake_ends_in_time_and_holds_up_nobody() -> None:
    served = Served(Limits(request_timeout=0.1), leaf=CA.issue(["a"]))
    async with served.running(), served.plain() as silent, served.line() as one:
        await one.send(GET)
        assert (await one.answer())[0] == 200
        assert await silent.rest() == b""


async def test_handshakes_count_as_clients(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.http.server.PATIENCE", 0.0)
    served.clients = 4
    async with served.running(), contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(served.plain()) for _ in range(8)]
        async with served.line() as one:
            await one.send(GET)
            assert (await one.answer())[0] == 200
        assert await silent[0].rest() == b""


async def test_a_request_that_trickles_ends_in_time_but_an_idle_connection_stays() -> None:
    served = Served(Limits(request_timeout=0.2), leaf=CA.issue(["a"]))
    async with served.running(), served.line() as idle, served.line() as slow:
        await idle.send(GET)
        await idle.answer()
        begun = asyncio.get_running_loop().time()
        await slow.send(GET[:10])
        assert await slow.rest() == b""
        assert asyncio.get_running_loop().time() - begun < PATIENCE
        await idle.send(GET)
        assert (await idle.answer())[0] == 200


async def test_a_client_reads_the_refusal_of_a_body_that_it_sends_on() -> None:
    served = Served(Limits(body=1 << 20), leaf=CA.issue(["a"]))
    async with served.running(), served.line() as one:
        await one.send(post(4 << 20))
        assert (await one.answer())[0] == 413


async def test_bodies_together_have_a_limit_and_are_released() -> None:
    served = Served(Limits(bodies=1 << 20), leaf=CA.issue(["a"]))
    async with served.running(), served.line() as held, served.line() as refused:
        held.writer.write(post(900_000, "/slow"))
        await served.entered.wait()
        await refused.send(post(900_000))
        assert (await refused.answer())[0] == 503
        served.goes_on.set()
        assert (await held.answer())[0] == 200
        for _ in range(3):
            async with served.line() as one:
                await one.send(post(900_000))
                assert (await one.answer())[0] == 200


async def test_a_drain_answers_what_is_in_progress_and_cuts_what_is_idle(served: Served) -> None:
    async with served.running(), served.line() as idle, served.line() as busy:
        await idle.send(GET)
        await idle.answer()
        busy.writer.write(post(1, "/slow"))
        await served.entered.wait()
        drained = asyncio.ensure_future(served.server.drain(PATIENCE))
        assert await idle.rest() == b""
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(*served.address)
        assert not drained.done()
        served.goes_on.set()
        assert await busy.answer() == (200, b"POST /slow 1")
        busy.writer.transport.abort()
        await drained


async def test_a_drain_ends_in_time(served: Served) -> None:
    async with served.running(), served.line() as busy:
        busy.writer.write(post(1, "/slow"))
        await served.entered.wait()
        await served.server.drain(0.05)
        assert await busy.rest() == b""
