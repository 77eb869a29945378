"""HTTP/1.1 through the data plane: responses, refusals, and state that persists between requests."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.sidecar.model import HttpManager, Pipe, Reply, Route, SocketAddress, VirtualHost
from tests.sidecar.stand import Serve, Stand, Streams, cluster, end_of, leave, listener, origin, push, standing
from tests.system.eventually import PATIENCE

NOWHERE = SocketAddress("127.0.0.1", 1)
ROUTES = (Route("/ok", Reply(200, b"hello\n")), Route("/dead", "dead"), Route("/quick", "c", 0.2), Route("/app", "c"))
MANAGER = HttpManager("h", (VirtualHost("v", ("*",), ROUTES),))
HOST = b"Host: x\r\n"


class Origin:
    """Answers requests by their paths, records them, and counts its connections."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                await writer.drain()
        except asyncio.IncompleteReadError:
            self.gone.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await _body(reader, head)
        self.asked.append(head + body)
        path = head.split()[1]
        if path in {b"/app/silent", b"/quick/silent"}:
            return bool(await reader.readexactly(1))
        if path == b"/app/closes":
            return False
        if path == b"/app/garbage":
            writer.write(b"garbage\r\n\r\n")
        elif path == b"/app/half":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            return False
        elif path == b"/app/chunks":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        elif path == b"/app/until-the-end":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            return False
        elif path == b"/app/hops":
            writer.write(
                b"HTTP/1.1 204 Fine\r\nconnection: x-hop\r\nx-hop: 1\r\n"
                b"keep-alive: 3\r\nserver: mine\r\nx-own: 1\r\n\r\n"
            )
        elif head.startswith(b"HEAD"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        return True


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = re.search(rb"content-length: (\d+)", head)
    if length:
        return await reader.readexactly(int(length[1]))
    body = b""
    if b"chunked" in head:
        while size := int(await reader.readuntil(b"\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return body


@asynccontextmanager
async def serving(
    manager: HttpManager = MANAGER, serve: Serve | None = None, **drain: object
) -> AsyncIterator[tuple[Stand, Origin]]:
    behind = Origin()
    async with origin(serve or behind.serve) as address:
        clusters = [cluster(address), cluster(NOWHERE, name="dead")]
        async with standing([listener(manager)], clusters, **drain) as stand:  # type: ignore[arg-type]
            yield stand, behind


async def answer(streams: Streams, *, to_head: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Read one response."""
    head = (await streams[0].readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    code = int(status.split()[1])
    body = b"" if to_head or code in {100, 204} else await _body(streams[0], head.lower().encode())
    return code, headers, body


async def ask(streams: Streams, request: bytes) -> tuple[int, dict[str, str], bytes]:
    streams[1].write(request)
    return await answer(streams, to_head=request.startswith(b"HEAD"))


def get(path: str, more: bytes = b"") -> bytes:
    return b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


CHUNKED = b"transfer-encoding: chunked\r\n"


def post(path: str, headers: bytes, body: bytes = b"") -> bytes:
    return b"POST " + path.encode() + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body


@pytest.mark.parametrize(
    ("request_", "status", "body", "closes"),
    [
        (get("/ok"), 200, b"hello\n", False),
        (get("/ok?x=/dead"), 200, b"hello\n", False),
        (get("http://y/ok"), 200, b"hello\n", False),
        (get("/none"), 404, b"", False),
        (get("/dead"), 503, b"reset reason: remote connection failure", False),
        (get("/app/closes"), 503, b"reset reason: connection termination", False),
        (get("/app/garbage"), 502, b"reset reason: protocol error", False),
        (get("/quick/silent"), 504, b"upstream request timeout", False),
        (get("/app/chunks"), 200, b"abc", False),
        (get("/app/until-the-end"), 200, b"all of it", False),
        (get("/ok", b"connection: close\r\n"), 200, b"hello\n", True),
        (get("/ok", b"connection: upgrade\r\nupgrade: websocket\r\n"), 403, b"", True),
        (b"HEAD /app HTTP/1.1\r\n" + HOST + b"\r\n", 200, b"", False),
        (post("/app", b"content-length: 3\r\n", b"abc"), 200, b"abc", False),
        (post("/app", CHUNKED, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), 200, b"abcde", False),
        (post("/ok", b"content-length: 30\r\n"), 200, b"hello\n", True),
        (b"CONNECT x:1 HTTP/1.1\r\n" + HOST + b"\r\n", 404, b"", True),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 404, b"", False),
    ],
)
async def test_what_is_answered(request_: bytes, status: int, body: bytes, closes: bool) -> None:
    async with serving() as (stand, _):
        streams = await stand.connect()
        code, headers, got = await ask(streams, request_)
        assert (code, got.endswith(body), headers.get("connection") == "close") == (status, True, closes)
        assert headers["server"] == "envoy"
        assert "date" in headers
        if closes:
            assert await streams[0].read() == b""
        else:
            assert (await ask(streams, get("/ok")))[0] == 200
        await leave(streams)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"BLA\r\n\r\n", 400),
        (b"GET /ok HTTP/1.1\r\n\r\n", 400),
        (b"GET /ok HTTP/1.0\r\n\r\n", 426),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (get("/ok", b"a: 1\r\n b: 2\r\n\0\r\n"), 400),
        (get("/ok", b"a : 1\r\n"), 400),
        (get("/ok", b"x: " + b"a" * 70_000 + b"\r\n"), 431),
        (get("/ok", b"".join(b"x%d: 1\r\n" % n for n in range(150))), 431),
        (post("/app", CHUNKED + b"content-length: 3\r\n", b"0\r\n\r\n"), 400),
        (post("/app", b"content-length: 3\r\ncontent-length: 4\r\n"), 400),
        (post("/app", b"content-length: +3\r\n", b"abc"), 400),
        (post("/app", b"transfer-encoding: gzip\r\n"), 501),
        (post("/app", CHUNKED, b"zz\r\nabc\r\n0\r\n\r\n"), 400),
    ],
)
async def test_what_two_readers_might_read_differently_is_refused(request_: bytes, status: int) -> None:
    async with serving() as (stand, behind):
        streams = await stand.connect()
        code, headers, _ = await ask(streams, request_ + get("/app/smuggled"))
        assert (code, headers["connection"]) == (status, "close")
        assert await end_of(streams[0]) == b""
        await leave(streams)
        assert not any(b"smuggled" in each for each in behind.asked)


async def test_headers_without_end_are_bounded() -> None:
    async with serving() as (stand, _):
        streams = await stand.connect()
        streams[1].write(b"GET /ok HTTP/1.1\r\n")
        for _ in range(200):
            streams[1].write(b"x: " + b"a" * 1000 + b"\r\n")
        assert (await answer(streams))[0] == 431
        await leave(streams)


async def test_headers_that_do_not_end_in_time() -> None:
    async with serving(MANAGER._replace(request_headers_timeout=0.1)) as (stand, _):
        streams = await stand.connect()
        assert (await ask(streams, b"GET /ok HT"))[0] == 408
        await leave(streams)
        assert stand.stat("http.h.downstream_rq_header_timeout") == 1


@pytest.mark.parametrize(
    ("manager", "counted"),
    [
        (MANAGER._replace(stream_idle_timeout=0.1), "downstream_rq_idle_timeout"),
        (MANAGER._replace(request_timeout=0.1), "downstream_rq_timeout"),
    ],
)
async def test_a_body_that_does_not_come(manager: HttpManager, counted: str) -> None:
    async with serving(manager) as (stand, _):
        streams = await stand.connect()
        assert (await ask(streams, post("/app", b"content-length: 3\r\n", b"a")))[0] == 408
        await leave(streams)
        assert stand.stat(f"http.h.{counted}") == 1


async def test_an_upstream_that_goes_silent() -> None:
    async with serving(MANAGER._replace(stream_idle_timeout=0.1)) as (stand, _):
        streams = await stand.connect()
        assert (await ask(streams, get("/app/silent")))[0] == 504
        await leave(streams)


async def test_a_connection_without_a_request_is_closed() -> None:
    async with serving(MANAGER._replace(idle_timeout=1.0)) as (stand, _):
        streams = await stand.connect()
        assert (await ask(streams, get("/ok")))[0] == 200
        assert await streams[0].read() == b""
        await leave(streams)
        assert stand.stat("http.h.downstream_cx_idle_timeout") == 1


async def test_requests_in_a_row_are_answered_in_order() -> None:
    async with serving() as (stand, behind):
        streams = await stand.connect()
        paths = ["/ok", "/app/chunks", "/none", "/app/chunks", "/ok"]
        streams[1].write(b"".join(get(path) for path in paths))
        assert [(await answer(streams))[0] for _ in paths] == [200, 200, 404, 200, 200]
        await leave(streams)
        assert behind.connections == 1


async def test_many_requests_at_once_block_no_client() -> None:
    async with serving() as (stand, _):
        greedy, modest = await stand.connect(), await stand.connect()
        greedy[1].write(get("/ok") * 5000)
        await stand.until("http.h.downstream_rq_total", 10)
        assert (await ask(modest, get("/none")))[0] == 404
        assert stand.stat("http.h.downstream_rq_2xx") < 1000
        greedy[1].transport.abort()
        await leave(modest)


async def test_what_goes_to_the_cluster() -> None:
    more = b"Connection: close-not, x-hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 3\r\n"
    more += b"X-Request-Id: mine\r\nX-Own: 1\r\n"
    async with serving() as (stand, behind):
        streams = await stand.connect()
        await ask(streams, get("/app?q", more))
        await ask(streams, get("http://other/app"))
        await leave(streams)
        first, second = (each.decode().split("\r\n") for each in behind.asked)
        assert first[0] == "GET /app?q HTTP/1.1"
        assert sorted(first[1:-2]) == [
            "host: x",
            "te: trailers",
            "x-envoy-expected-rq-timeout-ms: 15000",
            "x-forwarded-proto: http",
            "x-own: 1",
            "x-request-id: mine",
        ]
        assert second[:2] == ["GET /app HTTP/1.1", "host: other"]
        assert any(
            re.fullmatch(r"x-request-id: [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", line)
            for line in second
        )


async def test_what_comes_back() -> None:
    async with serving() as (stand, _):
        streams = await stand.connect()
        status, headers, _ = await ask(streams, get("/app/hops"))
        assert status == 204
        assert set(headers) == {"x-own", "server", "date", "x-envoy-upstream-service-time"}
        assert headers["server"] == "envoy"
        await leave(streams)


async def test_a_waiting_client_gets_100_continue() -> None:
    async with serving() as (stand, behind):
        streams = await stand.connect()
        assert (await ask(streams, post("/app", b"expect: 100-continue\r\ncontent-length: 3\r\n")))[0] == 100
        streams[1].write(b"abc")
        assert (await answer(streams))[2] == b"abc"
        await leave(streams)
        assert b"\r\nexpect:" not in behind.asked[0]


async def test_a_kept_connection_that_died_is_no_failure() -> None:
    """Its end may be detected before the next request, or only after that was sent."""
    cut = asyncio.Event()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")  # and never answers a second one
        cut.set()

    async with serving(serve=once) as (stand, _):
        streams = await stand.connect()
        for _ in range(3):
            assert (await ask(streams, get("/app")))[0] == 200
        assert cut.is_set()
        assert stand.stat("cluster.c.upstream_rq_retry") == 2
        assert (await ask(streams, post("/app", b"content-length: 1\r\n", b"x")))[0] == 503
        await leave(streams)


async def test_a_kept_connection_whose_end_is_known_is_not_used() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _body(reader, await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with serving(serve=once) as (stand, _):
        streams = await stand.connect()
        for _ in range(3):
            assert (await ask(streams, post("/app", b"content-length: 1\r\n", b"x")))[0] == 200
            await stand.until("cluster.c.upstream_cx_active", 0)
        await leave(streams)


async def test_an_answer_that_breaks_off_breaks_the_connection() -> None:
    async with serving() as (stand, _):
        streams = await stand.connect()
        streams[1].write(get("/app/half"))
        got = await end_of(streams[0])
        assert got.endswith((b"\r\n\r\n", b"half"))
        assert b"content-length: 10" in got
        await leave(streams)
        assert stand.stat("http.h.rq_reset_after_downstream_response_started") == 1


async def test_a_client_that_leaves_takes_its_request_back() -> None:
    async with serving() as (stand, behind):
        streams = await stand.connect()
        streams[1].write(get("/app/silent"))
        await stand.until("cluster.c.upstream_rq_active", 1)
        await leave(streams)
        await behind.gone.wait()
        await stand.until("http.h.downstream_rq_rx_reset", 1)


async def test_bodies_are_streamed_both_ways_at_once() -> None:
    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while size := int(await reader.readline(), 16):
            data = (await reader.readexactly(size + 2))[:-2]
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with serving(serve=mirror) as (stand, _):
        streams = await stand.connect()
        streams[1].write(post("/app", CHUNKED))
        await streams[0].readuntil(b"\r\n\r\n")
        for part in (b"first", b"x" * 300_000, b"last"):
            streams[1].write(b"%x\r\n%s\r\n" % (len(part), part))
            got = b""
            while len(got) < len(part):
                size = int(await streams[0].readline(), 16)
                got += (await streams[0].readexactly(size + 2))[:-2]
            assert got == part
        streams[1].write(b"0\r\n\r\n")
        assert await end_of(streams[0]) == b"0\r\n\r\n"
        await leave(streams)


async def test_a_client_that_does_not_read_stops_its_upstream() -> None:
    stalled = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1 << 30))
        with pytest.raises(TimeoutError):
            await push(writer, 32 << 20)
        stalled.set()

    async with serving(serve=flood) as (stand, _):
        _, writer = await stand.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get("/app"))
        await stalled.wait()
        others = await stand.connect()
        assert (await ask(others, get("/ok")))[0] == 200
        await leave(others)
        writer.transport.abort()


async def test_an_answer_before_the_whole_request_is_passed_on() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        await writer.drain()
        writer.write_eof()
        await reader.read()

    async with serving(serve=refuse) as (stand, _):
        streams = await stand.connect()
        status, headers, body = await ask(streams, post("/app", b"content-length: 1000000\r\n", b"x" * 1000))
        assert (status, headers["connection"], body) == (413, "close", b"no")
        await leave(streams)


@pytest.mark.parametrize("is_whole", [False, True])
async def test_an_answer_before_the_whole_request_takes_nothing_from_it(tmp_path: Path, is_whole: bool) -> None:
    """A Unix socket has space for a few hundred small writes: the rest waits unparsed when the response arrives."""
    loop = asyncio.get_running_loop()
    count, end = 2000, b"0\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        listening.setblocking(False)
        clusters = [cluster(Pipe(str(tmp_path / "s"))), cluster(NOWHERE, name="dead")]
        async with standing([listener(MANAGER)], clusters) as stand:
            streams = await stand.connect()
            streams[1].write(post("/app", CHUNKED, b"1\r\nx\r\n" * count + (end if is_whole else b"")))
            upstream, _ = await loop.sock_accept(listening)
            with upstream:
                while stand.stat("cluster.c.upstream_cx_tx_bytes_total") < 1000:  # noqa: ASYNC110  # until it waits
                    await asyncio.sleep(0)
                await loop.sock_sendall(upstream, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                head = await streams[0].readuntil(b"\r\n\r\n")
                assert (b"connection: close" in head) is not is_whole
                if not is_whole:
                    streams[1].write(end)
                got = b""
                async with asyncio.timeout(PATIENCE):
                    while not got.endswith(end):
                        got += await loop.sock_recv(upstream, 1 << 16)
                assert got.partition(b"\r\n\r\n")[2] == b"1\r\nx\r\n" * count + end
                await loop.sock_sendall(upstream, end)
                assert await streams[0].readexactly(len(end)) == end
                if is_whole:
                    assert (await ask(streams, get("/ok")))[0] == 200
            await leave(streams)


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_an_upstream_sends_unasked_is_no_response(at_once: bool) -> None:
    """It would be the response to the next request, possibly of another client."""
    answer, sent = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n", asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer + b"wanted")
        if not at_once:
            await sent.wait()
        writer.write(answer + b"forged")
        await writer.drain()
        sent.set()
        await reader.read()
        writer.close()

    async with serving(serve=upstream) as (stand, _):
        streams = await stand.connect()
        for number in range(1, 4):
            assert (await ask(streams, get("/app")))[2] == b"wanted"
            sent.set()
            received = number * len(answer + b"wanted" + answer + b"forged")
            while stand.stat("cluster.c.upstream_cx_rx_bytes_total") < received:  # noqa: ASYNC110  # until it is there
                await asyncio.sleep(0)
        await leave(streams)


@pytest.mark.parametrize("how", ["immediate", "failing", "elapsed"])
async def test_a_drain_asks_clients_to_leave(how: str) -> None:
    drain_time = 0.0 if how == "elapsed" else 600.0
    async with serving(drain_time=drain_time, immediate=how == "immediate") as (stand, _):
        streams = await stand.connect()
        assert "connection" not in (await ask(streams, get("/ok")))[1]
        if how == "failing":
            stand.traffic.fail_health(failing=True)
        else:
            stand.traffic.drain()
        assert (await ask(streams, get("/app/chunks")))[1]["connection"] == "close"
        assert await streams[0].read() == b""
        await leave(streams)
        assert stand.stat("http.h.downstream_cx_drain_close") == 1


async def test_a_gradual_drain_closes_no_connection_at_first() -> None:
    async with serving(drain_time=3600) as (stand, _):
        stand.traffic.drain()
        streams = await stand.connect()
        started = time.monotonic()
        kept = [(await ask(streams, get("/ok")))[1].get("connection") for _ in range(20)]
        assert kept == [None] * 20 or time.monotonic() - started > 60
        await leave(streams)


async def test_answers_are_counted() -> None:
    async with serving() as (stand, _):
        streams = await stand.connect()
        for path in ("/ok", "/none", "/app/chunks", "/dead"):
            await ask(streams, get(path))
        await leave(streams)
        await stand.until("http.h.downstream_cx_active", 0)
        expected = {"total": 4, "completed": 4, "2xx": 2, "4xx": 1, "5xx": 1, "active": 0}
        assert {name: stand.stat(f"http.h.downstream_rq_{name}") for name in expected} == expected
        assert stand.of_listener("http.h.downstream_rq_2xx") == 2
        assert stand.stat("cluster.c.upstream_rq_200") == stand.stat("cluster.dead.upstream_rq_503") == 1
        assert stand.stat("cluster.c.upstream_cx_active") == 1


async def test_a_cut_leaves_nothing_in_any_state() -> None:
    async with serving() as (stand, _):
        streams = [await stand.connect() for _ in range(4)]
        streams[0][1].write(get("/app/silent"))
        streams[1][1].write(b"GET /ok HT")
        streams[2][1].write(post("/app", b"content-length: 10\r\n", b"x"))
        await stand.until("http.h.downstream_rq_active", 3)
        await stand.traffic.close()
        for each in streams:
            assert await end_of(each[0]) == b""
            await leave(each)
