import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.http import client, server
from agent.http.message import Request, Response
from agent.http.server import BODY_LIMIT, HEADER_LIMIT, Admission, Server, affordable_clients
from tests.system.eventually import PATIENCE

GET = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n"


async def echo(request: Request) -> Response:
    """Return the request."""
    return Response(200, f"{request.method} {request.target} {len(request.body)}".encode())


class Line:
    """One client's connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Read one response with a length."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            lengths = [int(row.split(":")[1]) for row in head.splitlines() if row.startswith("content-length:")]
            return int(head.split()[1]), await self.reader.readexactly(lengths[0] if lengths else 0)

    async def rest(self) -> bytes:
        """Read until the server closes or resets the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""


@asynccontextmanager
async def serving(
    handler: Callable[[Request], Awaitable[Response]] = echo, admission: Admission | None = None, limit: int = 256
) -> AsyncIterator[tuple[str, int]]:
    """Serve on loopback; fail if an exception of the server reached the loop."""
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    listener = socket.create_server(("127.0.0.1", 0))
    name = listener.getsockname()
    made = Server(handler, admission, limit)
    await made.start(listener)
    try:
        yield name
    finally:
        await made.close()
        for _ in range(3):
            await asyncio.sleep(0)
    assert not unhandled


@asynccontextmanager
async def line(name: tuple[str, int]) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection(*name)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


async def test_a_request_with_two_lengths_is_the_last_of_its_connection() -> None:
    """The following bytes may belong to it, or be a request that an intermediary has not seen."""
    smuggled = b"0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"
    head = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\ntransfer-encoding: chunked\r\n\r\n" % len(smuggled)
    asked: list[str] = []

    async def note(request: Request) -> Response:
        asked.append(request.target)
        return Response(200)

    async with serving(note) as address, line(address) as client:
        await client.send(head + smuggled)
        rest = await client.rest()
    assert rest.startswith(b"HTTP/1.1 400 ")
    assert rest.count(b"HTTP/1.1") == 1
    assert asked == []


async def test_a_connection_answers_one_request_after_the_other() -> None:
    async with serving() as name, line(name) as one:
        for _ in range(3):
            await one.send(GET)
            assert await one.answer() == (200, b"GET /x 0")


async def test_requests_that_come_together_are_answered_in_order() -> None:
    async with serving() as name, line(name) as one:
        await one.send(b"".join(GET.replace(b"/x", b"/%d" % number) for number in range(20)))
        assert [(await one.answer())[1] for _ in range(20)] == [b"GET /%d 0" % number for number in range(20)]


async def test_a_request_may_come_byte_by_byte() -> None:
    async with serving() as name, line(name) as one:
        for number in range(len(GET)):
            await one.send(GET[number : number + 1])
            await asyncio.sleep(0)
        assert await one.answer() == (200, b"GET /x 0")


async def test_a_body_in_chunks_is_taken_whole() -> None:
    async with serving() as name, line(name) as one:
        await one.send(
            b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert await one.answer() == (200, b"POST /x 5")


async def test_an_old_client_is_answered_and_the_connection_closed() -> None:
    async with serving() as name, line(name) as one:
        await one.send(b"GET /x HTTP/1.0\r\n\r\n")
        assert (await one.rest()).endswith(b"GET /x 0")


async def test_a_client_that_wants_to_close_gets_its_answer_first() -> None:
    async with serving() as name, line(name) as one:
        await one.send(GET.replace(b"host", b"connection: close\r\nhost"))
        assert (await one.rest()).endswith(b"GET /x 0")


async def test_a_head_is_answered_without_a_body_and_the_connection_goes_on() -> None:
    async with serving() as name, line(name) as one:
        await one.send(GET.replace(b"GET", b"HEAD"))
        async with asyncio.timeout(PATIENCE):
            head = await one.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await one.send(GET)
        assert await one.answer() == (200, b"GET /x 0")


async def test_an_answer_in_parts_is_streamed_as_it_comes() -> None:
    more = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await more.wait()
        yield b"second"

    async def stream(_: Request) -> Response:
        return Response(200, parts())

    async with serving(stream) as name, line(name) as one:
        await one.send(GET)
        async with asyncio.timeout(PATIENCE):
            await one.reader.readuntil(b"first")
            more.set()
            await one.reader.readuntil(b"second\r\n0\r\n\r\n")


async def test_an_answer_that_breaks_off_is_cut_and_not_finished() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        raise ConnectionError("the proxy died")

    async def stream(_: Request) -> Response:
        return Response(200, parts())

    async with serving(stream) as name, line(name) as one:
        await one.send(GET)
        assert not (await one.rest()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "garbage",
    [b"\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n",
     b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"G\xc3\xa9T / HTTP/1.1\r\n\r\n",
     b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
     b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
     b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (HEADER_LIMIT + 10)],
    ids=["line ends", "TLS", "no target", "no name", "no host", "zeros", "no ASCII", "negative length",
         "two lengths", "no chunk", "endless header"],
)  # fmt: skip
async def test_garbage_ends_its_connection_and_no_other(garbage: bytes) -> None:
    async with serving() as name, line(name) as bystander, line(name) as hostile:
        await bystander.send(GET)
        await bystander.answer()
        await hostile.send(garbage)
        hostile.writer.write_eof()
        assert b" 200 " not in await hostile.rest()
        await bystander.send(GET)
        assert await bystander.answer() == (200, b"GET /x 0")


@settings(max_examples=15)
@given(st.lists(st.one_of(st.binary(max_size=50), st.sampled_from([GET, GET[:9], b"\r\n", b"0\r\n\r\n"])), max_size=6))
def test_whatever_a_client_sends_nothing_is_left_to_the_loop(parts: list[bytes]) -> None:
    async def play() -> None:
        async with serving() as name, line(name) as one:
            for part in parts:
                one.writer.write(part)
            one.writer.write_eof()
            await one.rest()

    asyncio.run(play())


@pytest.mark.parametrize("coding", ["length", "chunked"])
async def test_a_body_beyond_the_limit_is_refused(coding: str) -> None:
    async with serving() as name, line(name) as one:
        if coding == "length":
            await one.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (BODY_LIMIT + 1))
            one.writer.write(b"x" * (BODY_LIMIT + 1))
        else:
            await one.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            one.writer.write(b"%x\r\n" % (BODY_LIMIT + 1) + b"x" * (BODY_LIMIT + 1) + b"\r\n")
        assert (await one.answer())[0] == 413


async def test_a_body_of_the_limit_is_taken() -> None:
    async with serving() as name, line(name) as one:
        await one.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % BODY_LIMIT + b"x" * BODY_LIMIT)
        assert (await one.answer())[1] == b"POST / %d" % BODY_LIMIT


async def test_a_client_that_says_nothing_is_cut_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_TIMEOUT", 0.05)
    async with serving() as name, line(name) as silent, line(name) as half:
        await half.send(GET[:10])
        assert await silent.rest() == await half.rest() == b""


async def test_a_client_that_trickles_is_cut_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """`READ_TIMEOUT` applies to a whole request, not to each byte of it."""
    monkeypatch.setattr(server, "READ_TIMEOUT", 0.2)
    async with serving() as name, line(name) as slow:
        try:
            async with asyncio.timeout(PATIENCE):
                await slow.send(GET[:20])
                while not slow.reader.at_eof():
                    await slow.send(b"x")
                    await asyncio.sleep(0.05)
        except ConnectionError:
            return
        except TimeoutError:
            pytest.fail("it goes on for ever")


async def test_a_client_that_does_not_read_is_cut_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_TIMEOUT", 0.05)
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    async def stream(_: Request) -> Response:
        return Response(200, endless())

    async with serving(stream) as name, line(name) as deaf:
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await deaf.send(GET)
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


async def test_many_clients_at_once_are_all_answered() -> None:
    async def one(name: tuple[str, int]) -> bytes:
        async with line(name) as each:
            await each.send(GET)
            return (await each.answer())[1]

    async with serving() as name:
        assert await asyncio.gather(*(one(name) for _ in range(200))) == [b"GET /x 0"] * 200


async def test_silent_clients_do_not_keep_a_probe_from_its_answer() -> None:
    """Health is served on a port that every host can reach."""
    async with serving(limit=4) as name:
        silent = [await asyncio.open_connection(*name) for _ in range(4)]
        async with line(name) as probe:
            await probe.send(GET)
            try:
                assert await probe.answer() == (200, b"GET /x 0")
            except (ConnectionError, asyncio.IncompleteReadError):
                pytest.fail("the probe was cut")
            finally:
                for _, writer in silent:
                    writer.transport.abort()


async def test_the_longest_idle_connection_is_closed_and_not_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.0)
    async with serving(limit=8) as name, line(name) as probe, line(name) as silent, line(name), line(name):
        for number in range(3):
            await probe.send(GET)
            assert await probe.answer() == (200, b"GET /x 0")
            async with line(name) as late:
                await late.send(GET)
                assert await late.answer() == (200, b"GET /x 0"), f"after {number} others"
        assert await silent.rest() == b""


async def test_a_new_connection_keeps_its_time_while_there_is_space() -> None:
    async with serving(limit=8) as name, AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(line(name)) for _ in range(8)]
        for each in crowd:
            await each.send(GET)
            assert await each.answer() == (200, b"GET /x 0")


async def test_who_is_not_admitted_is_cut() -> None:
    async with serving(admission=lambda _: False) as name, line(name) as one:
        one.writer.write(GET)
        assert await one.rest() == b""


async def test_a_client_costs_the_kernel_little_memory_though_it_neither_reads_nor_waits() -> None:
    """The kernel doubles what is asked for; its defaults are megabytes."""
    clients: list[socket.socket] = []

    def admit(one: socket.socket) -> bool:
        clients.append(one)
        return True

    async with serving(admission=admit) as name, line(name) as one:
        await one.send(GET)
        await one.answer()
        sizes = [clients[0].getsockopt(socket.SOL_SOCKET, each) for each in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
    assert sizes == [2 * (64 << 10), 2 * (32 << 10)]


async def test_a_header_of_sixty_kilobytes_is_read() -> None:
    async with serving() as name, line(name) as one:
        await one.send(GET.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * (60 << 10) + b"\r\n\r\n"))
        assert await one.answer() == (200, b"GET /x 0")


async def test_a_header_of_a_hundred_kilobytes_is_cut_before_its_end_comes() -> None:
    async with serving() as name, line(name) as one:
        one.writer.write(GET.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * (100 << 10)))
        assert b" 200 " not in await one.rest()


async def test_a_client_that_waits_for_its_answer_is_not_dropped_for_another_one() -> None:
    may_answer, asked = asyncio.Event(), asyncio.Semaphore(0)

    async def late(request: Request) -> Response:
        asked.release()
        await may_answer.wait()
        return await echo(request)

    async with serving(late, limit=2) as name, line(name) as one, line(name) as other:
        for each in (one, other):
            await each.send(GET)
            await asked.acquire()
        async with line(name) as third:
            assert await third.rest() == b""
        may_answer.set()
        assert [await each.answer() for each in (one, other)] == [(200, b"GET /x 0")] * 2


async def test_a_waiting_server_has_a_queue_for_many_clients() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        made = Server(echo)
        await made.start(listener)
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        await made.close()
    assert int.from_bytes(info[28:32], "little") == 128, "tcpi_sacked: the limit of a listening socket's queue"


async def test_the_duplicate_of_a_listener_is_the_same_socket_and_outlives_the_server() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    made = Server(echo)
    assert made.duplicate() is None
    await made.start(listener)
    descriptor = made.duplicate()
    assert descriptor is not None
    assert os.path.sameopenfile(descriptor, listener.fileno())
    name = listener.getsockname()
    await made.close()
    with socket.socket(fileno=descriptor), socket.create_connection(name):
        assert made.duplicate() is None


async def test_a_request_at_a_unix_socket_has_its_peer(tmp_path: Path) -> None:
    async def tell(request: Request) -> Response:
        assert request.peer is not None
        return Response(200, f"{request.peer.pid} {request.peer.uid} {request.peer.gid}".encode())

    made = Server(tell)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    await made.start(listener)
    try:
        _, body = await client.fetch(tmp_path / "s", "/", timeout=PATIENCE)
    finally:
        await made.close()
    assert body.decode() == f"{os.getpid()} {os.geteuid()} {os.getegid()}"


async def test_a_request_over_tcp_has_no_peer() -> None:
    async def tell(request: Request) -> Response:
        return Response(200, str(request.peer).encode())

    async with serving(tell) as name, line(name) as one:
        await one.send(GET)
        assert await one.answer() == (200, b"None")


async def test_a_handler_that_fails_costs_its_own_connection() -> None:
    """The bug is reported to the loop's exception handler."""

    async def fails(request: Request) -> Response:
        raise OSError("no")

    async with serving(fails) as name, line(name) as one:
        await one.send(GET)
        assert await one.rest() == b""


@pytest.mark.parametrize(
    ("descriptors", "clients"), [(16, 8), (64, 8), (72, 9), (1024, 128), (2048, 256), (1 << 20, 256)]
)
def test_clients_get_an_eighth_of_the_descriptors(
    descriptors: int, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, 1 << 20))
    assert affordable_clients() == clients


async def test_by_default_as_many_clients_are_served_as_the_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "affordable_clients", lambda: 2)
    listener = socket.create_server(("127.0.0.1", 0))
    made = Server(echo)
    await made.start(listener)
    try:
        async with line(listener.getsockname()) as first, line(listener.getsockname()) as second:
            for each in (first, second):
                await each.send(GET)
                assert await each.answer() == (200, b"GET /x 0")
            async with line(listener.getsockname()) as third:
                await third.send(GET)
                assert await third.answer() == (200, b"GET /x 0")
            assert await first.rest() == b""
    finally:
        await made.close()


async def test_a_server_that_never_started_can_be_closed() -> None:
    await Server(echo).close()


async def test_a_request_over_tcp_tells_both_addresses() -> None:
    async def tell(request: Request) -> Response:
        return Response(200, f"{request.address} {request.local}".encode())

    async with serving(tell) as name, line(name) as one:
        await one.send(GET)
        assert await one.answer() == (200, b"127.0.0.1 127.0.0.1")


async def test_a_handler_is_given_method_target_headers_and_body() -> None:
    asked: list[Request] = []

    async def note(request: Request) -> Response:
        asked.append(request)
        return Response(204)

    async with serving(note) as name, line(name) as one:
        await one.send(b"PUT /a%20b?c=d HTTP/1.1\r\nHost: a\r\nX-Odd: \xe9\r\nContent-Length: 2\r\n\r\n\0\xff")
        async with asyncio.timeout(PATIENCE):
            await one.reader.readuntil(b"\r\n\r\n")
    (request,) = asked
    assert (request.method, request.target, request.body) == ("PUT", "/a%20b?c=d", b"\0\xff")
    assert ("x-odd", "\xe9") in request.headers


async def test_closing_cuts_who_still_waits() -> None:
    never = asyncio.Event()

    async def waits(_: Request) -> Response:
        await never.wait()
        raise AssertionError

    async with serving(waits) as name:
        reader, writer = await asyncio.open_connection(*name)
        writer.write(GET)
        await asyncio.sleep(0)
    assert await Line(reader, writer).rest() == b""
    writer.transport.abort()


async def test_clients_that_come_all_at_once_and_have_no_room_are_hung_up_on() -> None:
    async with serving(limit=2) as name:
        loop = asyncio.get_running_loop()
        crowd = [socket.create_connection(name) for _ in range(20)]  # none is accepted before the loop's next iteration
        for client in crowd[:-2]:
            client.setblocking(False)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(loop.sock_recv(client, 1), PATIENCE) == b""
        async with line(name) as late:
            await late.send(b"GET /late HTTP/1.1\r\nhost: a\r\n\r\n")
            assert await late.answer() == (200, b"GET /late 0")
        for client in crowd:
            client.close()
