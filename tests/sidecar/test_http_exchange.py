"""One request to a cluster: what is sent, what comes back, and what happens when a side breaks off."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import h11
import pytest

from agent.sidecar.model import HttpManager, Route, UpstreamTls
from agent.sidecar.wire import Wire
from tests.sidecar.http_stand import HttpStand, get, http, post, request, response, routes
from tests.sidecar.leaping import now
from tests.sidecar.stand import authority, written
from tests.sidecar.wires import PretendSecure, Serve, abstract, turns, unix_origin

pytestmark = pytest.mark.usefixtures("leaps")

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"transfer-encoding: chunked\r\n"
RESET = b"upstream connect error or disconnect/reset before headers. reset reason: "


class Script:
    """An endpoint that answers its requests in order, and then is silent.

    An answer of None closes the connection without a byte; one in a tuple closes it afterwards.
    """

    def __init__(self, *answers: bytes | tuple[bytes] | None) -> None:
        self.answers = list(answers)
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            try:
                head, content = await request(reader)
            except asyncio.IncompleteReadError:
                self.gone.set()
                return
            self.heads.append(head)
            self.bodies.append(content)
            if not self.answers:
                continue
            answer = self.answers.pop(0)
            if answer is None:
                return
            writer.write(answer[0] if isinstance(answer, tuple) else answer)
            await writer.drain()
            if isinstance(answer, tuple):
                return


@asynccontextmanager
async def serving(serve: Serve, settings: HttpManager | None = None, **more: object) -> AsyncIterator[HttpStand]:
    async with unix_origin(serve) as place, http(settings, place, **more) as stand:  # type: ignore[arg-type]
        yield stand


def lines(head: bytes) -> list[str]:
    return head.decode("latin-1").strip().split("\r\n")


# What is sent


async def test_a_request_is_forwarded_with_its_target_and_method() -> None:
    script = Script(OK)
    async with serving(script) as stand:
        answer = await stand.ask(get("/app/x?q=%20&y", b"X-Own: 1\r\n"))
        assert (answer.status, answer.body) == (200, b"hi")
    head = lines(script.heads[0])
    assert head[:3] == ["GET /app/x?q=%20&y HTTP/1.1", "host: x", "x-own: 1"]
    assert "x-envoy-expected-rq-timeout-ms: 15000" in head
    assert "x-forwarded-proto: http" in head


async def test_the_cluster_is_told_of_tls() -> None:
    script = Script(OK)
    async with serving(script, wire=PretendSecure) as stand:
        await stand.ask(get("/app"))
    assert "x-forwarded-proto: https" in lines(script.heads[0])


async def test_a_body_in_odd_pieces_arrives_whole() -> None:
    script = Script(OK)
    async with serving(script) as stand:
        whole = post(CHUNKED, b"1;ext=1\r\na\r\n00002\r\nbc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n")
        for byte in whole:
            stand.writer.write(bytes([byte]))
            await turns(3)
        assert (await response(stand.reader)).status == 200
        assert script.bodies == [b"abc0123456789"]
        assert "transfer-encoding: chunked" in lines(script.heads[0])
        assert (await stand.ask(get("/ok"))).status == 200


async def test_a_length_stays_a_length() -> None:
    script = Script(OK)
    async with serving(script) as stand:
        await stand.ask(post(b"content-length: 5\r\n", b"a\0b\r\n"))
    assert script.bodies == [b"a\0b\r\n"]
    assert "content-length: 5" in lines(script.heads[0])


@pytest.mark.parametrize("headers", [b"", b"content-length: 0\r\n"])
async def test_a_request_without_a_body_is_complete_with_its_head(headers: bytes) -> None:
    script = Script(OK)
    async with serving(script) as stand:
        assert (await stand.ask(post(headers))).status == 200
        assert stand.of_cluster("upstream_cx_active") == 1, "it is kept for the next one"
    assert ("content-length: 0" in lines(script.heads[0])) is bool(headers)


@pytest.mark.parametrize("frame", [b"content-length: 000\r\n", CHUNKED])
async def test_an_empty_body_may_look_like_one(frame: bytes) -> None:
    script = Script(OK)
    async with serving(script) as stand:
        assert (await stand.ask(post(frame, b"0\r\n\r\n" if frame == CHUNKED else b""))).status == 200
    assert script.bodies == [b""]


# What comes back


@pytest.mark.parametrize(
    ("answer", "status", "content"),
    [
        (OK, 200, b"hi"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nx-t: 1\r\n\r\n",
            200,
            b"abcd",
        ),
        ((b"HTTP/1.1 200 OK\r\n\r\nto the end",), 200, b"to the end"),
        ((b"HTTP/1.0 200 OK\r\n\r\nold",), 200, b"old"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, 200, b"hi"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK, 200, b"hi"),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 50\r\n\r\n", 304, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 999 What\r\ncontent-length: 1\r\n\r\n?", 999, b"?"),
        (b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200, b""),
    ],
)
async def test_a_response_is_passed_on(answer: bytes | tuple[bytes], status: int, content: bytes) -> None:
    async with serving(Script(answer)) as stand:
        got = await stand.ask(get("/app"))
        assert (got.status, got.body, got.closes) == (status, content, False)
        assert (await stand.ask(get("/ok"))).body == b"hello\n"
        assert stand.of_cluster(f"upstream_rq_{status}") == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\ncontent-type: x\r\n\r\n",
    ],
)
async def test_the_response_to_head_has_no_body(answer: bytes) -> None:
    script = Script(answer, OK)
    async with serving(script) as stand:
        got = await stand.ask(get("/app").replace(b"GET", b"HEAD"))
        assert (got.status, got.body) == (200, b"")
        assert (await stand.ask(get("/app"))).body == b"hi"
        assert script.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nserver : x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 140_000 + b"\r\n\r\n",
        (b"HTTP/1.1 200 OK\r\ncontent-le",),
    ],
)
async def test_a_response_that_parsers_may_read_differently_is_not_passed_on(answer: bytes | tuple[bytes]) -> None:
    async with serving(Script(answer)) as stand:
        got = await stand.ask(get("/app"))
        assert (got.status, got.body, got.closes) == (502, RESET + b"protocol error", False)
        assert stand.of_cluster("upstream_cx_protocol_error") == 1
        assert stand.of_cluster("upstream_rq_502") == stand.of_cluster("external.upstream_rq_5xx") == 1
        assert stand.of_cluster("upstream_cx_active") == 0
        assert (await stand.ask(get("/ok"))).status == 200


async def test_the_time_of_the_upstream_is_told_in_milliseconds() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.sleep(1.2505)
        writer.write(OK)
        await reader.read()

    async with serving(slow) as stand:
        await asyncio.sleep(3)
        assert (await stand.ask(get("/app")))["x-envoy-upstream-service-time"] == "1250"


async def test_a_long_response_comes_whole_and_in_order() -> None:
    content = b"".join(b"%07d\n" % number for number in range(100_000))

    async def long(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content))
        writer.write(content)
        await writer.drain()
        await reader.read()

    async with serving(long) as stand:
        assert (await stand.ask(get("/app"))).body == content


async def test_each_part_of_a_response_is_passed_on_as_it_comes() -> None:
    proceed = asyncio.Event()

    async def parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await proceed.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await reader.read()

    async with serving(parts) as stand:
        stand.writer.write(get("/app"))
        await stand.reader.readuntil(b"\r\n\r\n")
        assert await stand.reader.readexactly(8) == b"3\r\none\r\n"
        proceed.set()
        assert await stand.reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"


class CountingWrites(Wire):
    """A wire that counts the writes of more than nothing."""

    writes: ClassVar[list[int]] = []

    def send(self, data: memoryview | bytes) -> int:
        self.writes.append(len(data))
        return super().send(data)


async def test_parts_that_are_there_go_out_together_up_to_64_kb() -> None:
    CountingWrites.writes.clear()
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with serving(Script(head + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n"), wire=CountingWrites) as stand:
        assert (await stand.ask(get("/app"))).body == b"x" * 2000
    assert len(CountingWrites.writes) == 1


# Without an upstream


async def test_without_an_endpoint_there_is_no_healthy_upstream() -> None:
    async with http() as stand:
        got = await stand.ask(get("/app"))
        assert (got.status, got.body, got.closes) == (503, b"no healthy upstream", False)
        assert stand.of_cluster("upstream_rq_503") == stand.of_cluster("upstream_rq_completed") == 1
        assert (await stand.ask(get("/ok"))).status == 200


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_an_endpoint_that_is_not_there_is_told(method: bytes) -> None:
    async with unix_origin(Script()) as place:
        pass
    async with http(None, place) as stand:
        got = await stand.ask(get("/app").replace(b"GET", method))
        text = RESET + b"remote connection failure"
        assert (got.status, got["content-length"]) == (503, str(len(text)))
        assert got.body == (text if method == b"GET" else b"")
        assert (await stand.ask(get("/ok"))).status == 200


# Upstreams that break off


async def test_an_upstream_that_closes_without_a_response_is_told() -> None:
    async with serving(Script(None)) as stand:
        got = await stand.ask(get("/app"))
        assert (got.status, got.body, got.closes) == (503, RESET + b"connection termination", False)
        assert stand.of_cluster("upstream_cx_destroy_remote_with_active_rq") == 1
        assert stand.of_cluster("upstream_rq_retry") == stand.of_cluster("upstream_cx_protocol_error") == 0
        assert (await stand.ask(get("/ok"))).status == 200


@pytest.mark.parametrize("more", [b"", b"content-length: 0\r\n"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"])
async def test_a_reused_connection_that_is_closed_is_tried_again_once(method: bytes, more: bytes) -> None:
    script = Script(OK, None, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    async with serving(script) as stand:
        await stand.ask(get("/app"))
        assert (await stand.ask(get("/app", more).replace(b"GET", method))).status == 200
        assert stand.of_cluster("upstream_rq_total") == 3
        assert stand.of_cluster("upstream_rq_retry") == 1
        assert (script.connections, len(script.heads)) == (2, 3)


async def test_two_reused_connections_that_are_closed_are_a_failure() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await request(reader)

    async with serving(once) as stand:
        lines = [await stand.pool.line(None) for _ in range(2)]
        for line in lines:
            for part in (h11.Request(method="GET", target="/", headers=[("host", "x")]), h11.EndOfMessage()):
                await line.stream.write(line.pack(part))
            while not isinstance(await line.next(0), h11.EndOfMessage):
                pass
        for line in lines:
            stand.pool.release(line)
        assert (await stand.ask(get("/app"))).status == 503
        assert stand.of_cluster("upstream_rq_retry") == 1


async def test_a_fresh_connection_is_not_tried_again() -> None:
    script = Script(OK, None, None, OK)
    async with serving(script) as stand:
        await stand.ask(get("/app"))
        assert (await stand.ask(get("/app"))).status == 503
        assert (stand.of_cluster("upstream_rq_retry"), len(script.heads)) == (1, 3)


@pytest.mark.parametrize(
    "asked",
    [get("/app").replace(b"GET", b"POST"), get("/app").replace(b"GET", b"PATCH"), post(b"content-length: 1\r\n", b"x")],
)
async def test_a_request_that_must_not_be_repeated_is_not(asked: bytes) -> None:
    script = Script(OK, None, OK)
    async with serving(script) as stand:
        await stand.ask(get("/app"))
        got = await stand.ask(asked)
        assert (got.status, got.body) == (503, RESET + b"connection termination")
        assert (stand.of_cluster("upstream_rq_retry"), len(script.heads)) == (0, 2)


async def test_a_body_cannot_be_repeated_even_for_put() -> None:
    script = Script(OK, None, OK)
    async with serving(script) as stand:
        await stand.ask(get("/app"))
        assert (await stand.ask(post(b"content-length: 1\r\n", b"x").replace(b"POST", b"PUT"))).status == 503


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
)
async def test_a_response_that_breaks_off_ends_the_connection_without_its_end(answer: bytes) -> None:
    async with serving(Script((answer,))) as stand:
        stand.writer.write(get("/app"))
        got = await stand.end()
        assert got.endswith((b"half", b"half\r\n")) or (b"zz" in answer and got == b"")
        assert stand.stat("rq_reset_after_downstream_response_started") == 1
        assert stand.of_cluster("upstream_rq_200") == 1
        assert stand.stat("downstream_rq_rx_reset") == 1


# Time


def routed(timeout: float = 15.0, **fields: float) -> HttpManager:
    return routes(Route("/timed", "c", timeout), **fields)


async def test_a_route_s_timeout_is_that_of_the_whole_response() -> None:
    async with serving(Script(), routed(2.5)) as stand:
        got = await stand.ask(get("/timed"))
        assert (got.status, got.body, got.closes) == (504, b"upstream request timeout", False)
        assert now() == 2.5
        assert stand.of_cluster("upstream_rq_timeout") == stand.of_cluster("upstream_rq_504") == 1
        assert stand.of_cluster("upstream_cx_destroy_local_with_active_rq") == 1
        assert (await stand.ask(get("/ok"))).status == 200


async def test_a_route_without_a_timeout_waits() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.sleep(3000)
        writer.write(OK)
        await reader.read()

    async with serving(late, routed(0, stream_idle_timeout=0)) as stand:
        assert (await stand.ask(get("/timed"))).status == 200


async def test_a_timeout_within_a_response_ends_the_connection() -> None:
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        for _ in range(100):
            writer.write(b"x")
            await asyncio.sleep(1)

    async with serving(dripping, routed(4.5)) as stand:
        stand.writer.write(get("/timed"))
        assert (await stand.end()).endswith(b"\r\n\r\nxxxxx")
        assert now() == 4.5
        assert stand.of_cluster("upstream_rq_timeout") == 1
        with pytest.raises(KeyError):
            stand.of_cluster("upstream_rq_504")


async def test_the_timeout_begins_with_the_end_of_the_request() -> None:
    async with serving(Script(), routed(3)) as stand:
        stand.writer.write(post(b"content-length: 3\r\n", b"a", b"/timed"))
        await asyncio.sleep(10)
        stand.writer.write(b"bc")
        assert (await response(stand.reader)).status == 504
        assert now() == 13


async def test_a_whole_request_has_its_time_from_its_head_on() -> None:
    async with serving(Script(), routed(0, stream_idle_timeout=0, request_timeout=20)) as stand:
        await asyncio.sleep(100)
        stand.writer.write(post(b"content-length: 3\r\n", b"a", b"/timed"))
        got = await response(stand.reader)
        assert (got.status, got.body) == (408, b"request timeout")
        assert now() == 120
        assert "cluster.c.upstream_rq_408" not in stand.stats.read().counters


async def test_an_upstream_that_is_silent_for_the_idle_timeout_is_given_up() -> None:
    async with serving(Script(), routed(0, stream_idle_timeout=7)) as stand:
        got = await stand.ask(get("/timed"))
        assert (got.status, got.body, got.closes) == (504, b"stream timeout", False)
        assert now() == 7
        assert stand.stat("downstream_rq_idle_timeout") == 1
        assert stand.of_cluster("upstream_rq_504") == 1
        assert (await stand.ask(get("/ok"))).status == 200


async def test_the_idle_timeout_of_the_upstream_begins_with_the_end_of_the_request() -> None:
    async with serving(Script(), routed(0, stream_idle_timeout=7)) as stand:
        stand.writer.write(post(b"content-length: 3\r\n", b"", b"/timed"))
        for byte in (b"a", b"b", b"c"):
            await asyncio.sleep(5)
            stand.writer.write(byte)
        assert (await response(stand.reader)).body == b"stream timeout"
        assert now() == pytest.approx(22)


async def test_an_idle_timeout_within_a_response_ends_the_connection() -> None:
    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx")
        await reader.read()

    async with serving(stuck, routed(0, stream_idle_timeout=7)) as stand:
        stand.writer.write(get("/timed"))
        assert (await stand.end()).endswith(b"\r\n\r\nx")
        assert now() == 7
        assert stand.stat("rq_reset_after_downstream_response_started") == 1


# Clients that break off


async def test_a_client_that_leaves_cancels_its_request() -> None:
    script = Script()
    async with serving(script) as stand:
        stand.writer.write(get("/app"))
        await stand.until("upstream_rq_active", 1)
        await turns()
        stand.writer.close()
        await script.gone.wait()
        await turns()
        assert stand.stat("downstream_rq_rx_reset") == 1
        assert stand.stat("downstream_cx_destroy_remote_active_rq") == 1
        assert stand.of_cluster("upstream_cx_destroy_local_with_active_rq") == 1
        assert stand.of_cluster("upstream_rq_active") == 0


async def test_a_client_that_leaves_after_its_body_cancels_its_request() -> None:
    script = Script()
    async with serving(script) as stand:
        stand.writer.write(post(b"content-length: 1\r\n", b"x"))
        await stand.until("upstream_rq_active", 1)
        await turns(20)
        stand.writer.close()
        await script.gone.wait()
        await turns()
        assert stand.stat("downstream_rq_rx_reset") == 1


async def test_a_client_that_leaves_within_its_body_cancels_its_request() -> None:
    ended = asyncio.Event()

    async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with pytest.raises(asyncio.IncompleteReadError):
            await request(reader)
        ended.set()

    async with serving(waiting) as stand:
        stand.writer.write(post(b"content-length: 5\r\n", b"abc"))
        await stand.until("upstream_rq_active", 1)
        stand.writer.close()
        await ended.wait()
        await turns()
        assert stand.stat("downstream_rq_rx_reset") == 1
        assert stand.of_cluster("upstream_cx_destroy_local_with_active_rq") == 1


class Ended(asyncio.Protocol):
    """Waits for the end of a connection, and keeps what came before."""

    def __init__(self) -> None:
        self.received = b""
        self.is_over = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, _: Exception | None) -> None:
        self.is_over.set()


async def test_a_client_that_leaves_while_its_upstream_is_connected_sends_no_request(tmp_path: Path) -> None:
    """The upstream takes its time for the TLS handshake."""
    made, place, loop = (
        written(tmp_path, authority().issue(["a.example"]), "server"),
        abstract(),
        asyncio.get_running_loop(),
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.chain, made.key)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as door:
        door.bind(f"\0{place.path[1:]}")
        door.listen()
        async with http(None, place, tls=UpstreamTls()) as stand:
            stand.writer.write(get("/app"))
            await stand.until("upstream_rq_pending_active", 1)
            stand.writer.close()
            await turns(20)
            accepted, _ = await loop.sock_accept(door)
            _, peer = await loop.connect_accepted_socket(Ended, accepted, ssl=server)
            await peer.is_over.wait()
            assert peer.received == b""
            assert stand.stat("downstream_rq_rx_reset") == 1
            assert stand.of_cluster("upstream_rq_total") == 0
            assert stand.of_cluster("upstream_cx_destroy_local") == 1


async def test_a_client_that_does_not_receive_ends_after_the_idle_timeout() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    async with serving(flood, routes(stream_idle_timeout=9)) as stand:
        stand.writer.transport.pause_reading()  # type: ignore[attr-defined]
        stand.writer.write(get("/app"))
        await asyncio.sleep(8)
        assert stand.of_cluster("upstream_rq_active") == 1
        await asyncio.sleep(2)
        assert stand.of_cluster("upstream_rq_active") == 0
        assert stand.of_cluster("upstream_cx_destroy_local_with_active_rq") == 1
        stand.writer.transport.abort()


async def test_a_body_that_breaks_the_protocol_is_refused_and_its_upstream_closed() -> None:
    async with serving(Script()) as stand:
        stand.writer.write(post(CHUNKED, b"3\r\nabc\r\n"))
        await stand.until("upstream_rq_active", 1)
        stand.writer.write(b"xyz\r\n")
        got = await response(stand.reader)
        assert (got.status, got.closes) == (400, True)
        assert stand.of_cluster("upstream_rq_active") == 0
        assert "cluster.c.upstream_rq_400" not in stand.stats.read().counters
        assert stand.stat("downstream_cx_protocol_error") == 1


# Responses before the request is complete


@pytest.mark.parametrize("has_end", [True, False])
async def test_an_early_response_is_the_last_of_its_connection(has_end: bool) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        if has_end:
            writer.close()
        else:
            await reader.read()

    async with serving(refuse) as stand:
        got = await stand.ask(post(b"content-length: 1000000\r\n", b"x" * 10))
        assert (got.status, got.body, got.closes) == (413, b"no", True)
        assert await stand.end() == b""
        assert now() <= 1, "the rest of the request is not waited for"
        assert stand.stat("downstream_rq_response_before_rq_complete") == 1
        assert stand.of_cluster("upstream_cx_active") == 0


async def test_an_upstream_that_refuses_the_rest_may_still_answer() -> None:
    """It has closed for reading, and its response is on its way."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").shutdown(socket.SHUT_RD)
        await asyncio.sleep(5)
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.sleep(100)

    async with serving(refuse) as stand:
        stand.writer.write(post(b"content-length: 300000\r\n", b"x" * 100))
        await asyncio.sleep(1)
        stand.writer.write(b"x" * 200_000)
        got = await response(stand.reader)
        assert (got.status, got.body) == (413, b"no")
        assert now() == 5


async def test_an_early_response_and_the_upload_go_on_side_by_side() -> None:
    received = asyncio.Event()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        assert await reader.readexactly(5) == b"abcde"
        received.set()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await reader.read()

    async with serving(both) as stand:
        stand.writer.write(post(b"content-length: 5\r\n", b"ab"))
        await stand.reader.readuntil(b"one\r\n")
        stand.writer.write(b"cde")
        await received.wait()
        assert await stand.end() == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_a_client_that_breaks_off_within_an_early_response_gets_no_end() -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await reader.read()

    async with serving(early) as stand:
        stand.writer.write(post(CHUNKED, b"1\r\na\r\n"))
        await stand.reader.readuntil(b"one\r\n")
        stand.writer.write(b"xyz\r\n")
        assert await stand.end() == b""
        assert stand.of_cluster("upstream_rq_active") == 0
        assert stand.stat("downstream_cx_protocol_error") == 1


async def test_a_cut_at_the_end_of_an_early_response_leaves_no_connection() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await reader.read()

    async with serving(refuse) as stand:
        stand.writer.write(post(b"content-length: 9\r\n", b"x"))
        for _ in range(100):
            await asyncio.sleep(0)
            if stand.of_cluster("upstream_rq_completed"):
                break
        stand.client.session.abort()
        await stand.manager.ended()
        assert stand.of_cluster("upstream_cx_active") == stand.of_cluster("upstream_rq_active") == 0


async def test_what_an_upstream_sends_after_its_response_is_not_the_next_one() -> None:
    script = Script(OK + OK.replace(b"hi", b"no"), OK.replace(b"hi", b"ok"))
    async with serving(script) as stand:
        assert (await stand.ask(get("/app"))).body == b"hi"
        assert (await stand.ask(get("/app"))).body == b"ok"
        assert script.connections == 2
