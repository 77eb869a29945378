"""The server side of one connection: what is read as a request, what is refused, when it ends."""

import asyncio

import pytest

from agent.sidecar.draining import Draining
from agent.sidecar.model import HttpManager, Reply, Route, VirtualHost
from tests.sidecar.http_stand import HttpStand, get, http, post, request, response, routes
from tests.sidecar.leaping import now
from tests.sidecar.wires import counted, fill, turns, unix_origin

pytestmark = pytest.mark.usefixtures("leaps")

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"transfer-encoding: chunked\r\n"


async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its head and its body."""
    while True:
        head, content = await request(reader)
        told = head + content
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(told) + told)
        await writer.drain()


async def refused(asked: bytes, settings: HttpManager | None = None) -> tuple[int, bytes, dict[str, int]]:
    """The response to a request that must be the last of its connection, and what of the filter counts."""
    async with http(settings) as stand:
        got = await stand.ask(asked + get("/ok"))
        assert got.closes
        assert await stand.end() == b""
        return got.status, got.body, counted(stand.stats, "http.h.downstream_")


# Requests of other forms


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        (b"BLA\r\n\r\n", 400, b"Bad Request"),
        (b"\0\r\n\r\n", 400, b"Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400, b"Bad Request"),
        (b"GET /ok HTTP/1.1\r\n\r\n", 400, b"Bad Request"),
        (b"GET /ok HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, b"Bad Request"),
        (b"GET  /ok HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"Bad Request"),
        (b"GET /o k HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"Bad Request"),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"Bad Request"),
        (b"G\xc3T /ok HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"Bad Request"),
        (b"GET /ok HTTP/1.1\r\nHost: x\r\n a: folded first\r\n\r\n".replace(b"Host: x\r\n", b""), 400, b"Bad Request"),
        (b"GET /ok HTTP/1.0\r\n\r\n", 426, b"Upgrade Required"),
        (b"GET /ok HTTP/0.9\r\nHost: x\r\n\r\n", 426, b"Upgrade Required"),
        (b"GET /ok HTTP/1.2\r\nHost: x\r\n\r\n", 400, b"Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"Bad Request"),
        (get("/ok", b"x : 1\r\n"), 400, b"Bad Request"),
        (get("/ok", b"x: a\0b\r\n"), 400, b"Bad Request"),
        (get("/ok", b"x: a\rb\r\n"), 400, b"Bad Request"),
        (get("/ok", b": 1\r\n"), 400, b"Bad Request"),
        (get("/ok", b"x\r\n"), 400, b"Bad Request"),
        (get("ok"), 400, b"Bad Request"),
        (get("*"), 400, b"Bad Request"),
        (get("http:///ok"), 400, b"Bad Request"),
        (get("http://"), 400, b"Bad Request"),
        (get("http://user@/ok"), 400, b"Bad Request"),
        (get("ftp://x/ok"), 400, b"Bad Request"),
        (get("x?http://y/ok"), 400, b"Bad Request"),
        (get("/ok#fragment"), 400, b""),
        (get("http://y/ok#"), 400, b""),
        (get("http://y/ok?q#f"), 400, b""),
        (get("http://y#ok"), 400, b"Bad Request"),
        (get("http://a#@y/ok"), 400, b"Bad Request"),
    ],
)
async def test_what_is_no_request_is_refused_and_ends_the_connection(asked: bytes, status: int, text: bytes) -> None:
    assert (await refused(asked))[:2] == (status, text)


@pytest.mark.parametrize(
    "asked",
    [
        post(b"content-length: 5\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n"),
        post(b"transfer-encoding: chunked\r\ncontent-length: 0\r\n", b"0\r\n\r\n"),
        post(b"content-length: 3\r\ncontent-length: 4\r\n", b"abcd"),
        post(b"content-length: 3, 4\r\n", b"abcd"),
        post(b"content-length: +3\r\n", b"abc"),
        post(b"content-length: -3\r\n", b"abc"),
        post(b"content-length: 0x3\r\n", b"abc"),
        post(b"content-length: 3 3\r\n", b"abc"),
        post(b"content-length: \r\n"),
        post(b"content-length: 99999999999999999999999999\r\n"),
        post(b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n"),
        post(b"transfer-encoding: chunked, identity\r\n", b"0\r\n\r\n"),
        post(b"transfer-encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
        post(b"transfer-encoding : chunked\r\n", b"0\r\n\r\n"),
    ],
)
async def test_a_length_that_parsers_may_read_differently_is_refused(asked: bytes) -> None:
    status, _, found = await refused(asked)
    assert status in {400, 501}
    assert found["cx_protocol_error"] == 1


@pytest.mark.parametrize(
    "body",
    [
        b"-1\r\n\r\n0\r\n\r\n",
        b"+1\r\na\r\n0\r\n\r\n",
        b"0x1\r\na\r\n0\r\n\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"\r\na\r\n0\r\n\r\n",
        b"1 1\r\na\r\n0\r\n\r\n",
        b"123456789012345678901\r\n",
        b"g\r\n",
        b"1\r\na0\r\n\r\n",
    ],
)
async def test_chunks_that_parsers_may_read_differently_are_refused(body: bytes) -> None:
    async with unix_origin(mirror) as place, http(None, place) as stand:
        got = await stand.ask(post(CHUNKED, body))
        assert (got.status, got.closes) == (400, True)
        assert await stand.end() == b""


async def test_a_coding_that_is_not_chunked_is_not_implemented() -> None:
    assert (await refused(post(b"transfer-encoding: gzip\r\n")))[:2] == (501, b"Not Implemented")


@pytest.mark.parametrize(
    ("target", "authority", "path"),
    [
        ("/app", b"x", b"/app"),
        ("/app?q=http://y/", b"x", b"/app?q=http://y/"),
        ("//app", b"x", b"//app"),
        ("http://y/app", b"y", b"/app"),
        ("HTTPS://Y:8080/app?q", b"Y:8080", b"/app?q"),
        ("http://y", b"y", b"/"),
        ("http://y?q=/", b"y", b"/?q=/"),
        ("http://user:pass@y/app", b"y", b"/app"),
        ("http://[::1]:80/app", b"[::1]:80", b"/app"),
        ("http://y/app?u=a@b", b"y", b"/app?u=a@b"),
        ("http://y/app@b", b"y", b"/app@b"),
    ],
)
async def test_an_absolute_target_replaces_the_host(target: str, authority: bytes, path: bytes) -> None:
    async with unix_origin(mirror) as place, http(routes(Route("", "c")), place) as stand:
        told = (await stand.ask(get(target))).body.split(b"\r\n")
        assert told[:2] == [b"GET " + path + b" HTTP/1.1", b"host: " + authority]


async def test_the_authority_of_the_target_chooses_the_virtual_host() -> None:
    hosts = tuple(VirtualHost(n, (n,), (Route("/", Reply(200, n.encode())),)) for n in ("x", "y"))
    async with http(HttpManager("h", hosts)) as stand:
        assert (await stand.ask(get("/"))).body == b"x"
        assert (await stand.ask(get("http://Y/"))).body == b"y"
        assert (await stand.ask(get("http://z/"))).status == 404
        assert stand.stat("downstream_rq_non_relative_path") == 0
        assert (stand.stat("rq_total"), stand.stat("no_route"), stand.stat("rq_direct_response")) == (3, 1, 2)


async def test_asterisk_is_a_target_of_options() -> None:
    async with http(routes(Route("*", Reply(200, b"all")))) as stand:
        got = await stand.ask(get("*").replace(b"GET", b"OPTIONS"))
        assert (got.status, got.body, got.closes) == (200, b"all", False)
        assert stand.stat("downstream_rq_non_relative_path") == 1


@pytest.mark.parametrize(
    "more",
    [b"connection: upgrade\r\nupgrade: websocket\r\n", b"connection: Upgrade, HTTP2-Settings\r\nupgrade: foo\r\n"],
)
async def test_an_upgrade_is_forbidden(more: bytes) -> None:
    status, text, found = await refused(get("/ok", more))
    assert (status, text) == (403, b"")
    assert found["rq_ws_on_non_ws_route"] == 1


async def test_an_upgrade_to_h2c_is_an_ordinary_request() -> None:
    async with http() as stand:
        got = await stand.ask(
            get("/ok", b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n")
        )
        assert (got.status, got.closes) == (200, False)


async def test_connect_has_no_route() -> None:
    async with http(routes(Route("", "c"))) as stand:
        got = await stand.ask(b"CONNECT y:443 HTTP/1.1\r\nHost: y\r\n\r\n")
        assert (got.status, got.closes) == (404, True)
        assert await stand.end() == b""
        assert stand.of_cluster("upstream_rq_total") == 0


# Sizes


async def test_a_request_has_100_headers_at_most() -> None:
    """The host is one of them."""
    async with http() as stand:
        assert (await stand.ask(get("/ok", b"x: 1\r\n" * 99))).status == 200
        got = await stand.ask(get("/ok", b"x: 1\r\n" * 100))
        assert (got.status, got.body, got.closes) == (431, b"Request Header Fields Too Large", True)


@pytest.mark.parametrize(
    "start",
    [b"GET /ok HTTP/1.1\r\nHost: x\r\nx: ", b"GET /", b"GET /ok HTTP/1.1\r\n" + b"x: 1\r\n" * 50],
)
async def test_a_head_without_an_end_is_cut(start: bytes) -> None:
    async with http(routes(max_request_headers=4096)) as stand:
        got = await stand.ask(start + b"a" * 5000)
        assert (got.status, got.closes) == (431, True)
        assert stand.stat("downstream_cx_protocol_error") == 1


async def test_a_head_up_to_the_limit_is_taken() -> None:
    async with http(routes(max_request_headers=4096)) as stand:
        for byte in (b"GET /ok HTTP/1.1\r\nHost: x\r\nx: " + b"a" * 4000, b"\r\n\r\n"):
            stand.writer.write(byte)
            await turns()
        assert (await response(stand.reader)).status == 200


# Heads in pieces, and time


async def test_a_head_may_come_byte_by_byte() -> None:
    async with http() as stand:
        for byte in get("/ok", b"X: y\r\n"):
            stand.writer.write(bytes([byte]))
            await turns(2)
        assert (await response(stand.reader)).body == b"hello\n"
        assert stand.stat("downstream_rq_total") == 1


async def test_bare_line_feeds_end_lines_too() -> None:
    async with http() as stand:
        assert (await stand.ask(b"GET /ok HTTP/1.1\nHost: x\n\n")).status == 200


async def test_a_head_that_does_not_end_in_time_is_refused() -> None:
    async with http(routes(request_headers_timeout=5)) as stand:
        stand.writer.write(b"GET")
        await turns()
        for byte in b" /ok HTTP":
            await asyncio.sleep(0.5)
            stand.writer.write(bytes([byte]))
        got = await response(stand.reader)
        assert (got.status, got.body, got.closes) == (408, b"request header timeout", True)
        assert now() == pytest.approx(5)
        assert stand.stat("downstream_rq_header_timeout") == 1
        assert stand.stat("downstream_cx_protocol_error") == 0


async def test_without_a_limit_a_head_may_take_for_ever() -> None:
    async with http(routes(request_headers_timeout=0, idle_timeout=0)) as stand:
        await asyncio.sleep(1e6)
        stand.writer.write(b"GET")
        await asyncio.sleep(1e6)
        assert (await stand.ask(b" /ok HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200


async def test_a_connection_without_a_request_ends_after_the_idle_timeout() -> None:
    async with http(routes(idle_timeout=30)) as stand:
        assert await stand.end() == b""
        assert now() == 30
        stand.writer.close()
        await turns()
        found = counted(stand.stats, "http.h.downstream_")
        assert found == {"cx_total": 1, "cx_active": 1, "cx_idle_timeout": 1, "cx_destroy_local": 1}


async def test_the_idle_timeout_begins_with_each_response() -> None:
    async with http(routes(idle_timeout=30)) as stand:
        await asyncio.sleep(29)
        assert (await stand.ask(get("/ok"))).status == 200
        assert await stand.end() == b""
        assert now() == 59
        assert stand.stat("downstream_cx_idle_timeout") == 1
        assert stand.stat("downstream_cx_http1_total") == 1


async def test_a_body_that_stops_ends_after_the_stream_s_idle_timeout() -> None:
    async with unix_origin(mirror) as place, http(routes(stream_idle_timeout=6), place) as stand:
        stand.writer.write(post(b"content-length: 5\r\n", b"ab"))
        await asyncio.sleep(5)
        stand.writer.write(b"c")
        got = await response(stand.reader)
        assert (got.status, got.body, got.closes) == (408, b"stream timeout", True)
        assert now() == 11
        assert (stand.stat("downstream_rq_idle_timeout"), stand.stat("downstream_rq_timeout")) == (1, 0)


@pytest.mark.parametrize("idle", [6, 0, 10])
async def test_a_whole_request_has_its_time(idle: float) -> None:
    settings = routes(stream_idle_timeout=idle, request_timeout=10)
    async with unix_origin(mirror) as place, http(settings, place) as stand:
        stand.writer.write(post(b"content-length: 5\r\n", b"a"))
        await asyncio.sleep(5)
        stand.writer.write(b"b")
        got = await response(stand.reader)
        assert (got.status, got.body, got.closes) == (408, b"request timeout", True)
        assert now() == pytest.approx(10)
        assert (stand.stat("downstream_rq_idle_timeout"), stand.stat("downstream_rq_timeout")) == (0, 1)


async def test_without_limits_a_body_may_take_for_ever() -> None:
    async with unix_origin(mirror) as place, http(routes(stream_idle_timeout=0), place) as stand:
        stand.writer.write(post(b"content-length: 2\r\n", b"a"))
        await asyncio.sleep(1e6)
        stand.writer.write(b"b")
        assert (await response(stand.reader)).body.endswith(b"\r\n\r\nab")


async def test_a_client_that_does_not_receive_a_direct_response_is_given_up() -> None:
    async with http(routes(stream_idle_timeout=3)) as stand:
        stand.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await turns()
        fill(stand.client.wire.socket)
        stand.writer.write(get("/ok"))
        await asyncio.sleep(2.9)
        assert stand.left == []
        await asyncio.sleep(0.2)
        assert stand.left == [stand.client]
        stand.writer.transport.abort()


# One after the other


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with unix_origin(mirror) as place, http(None, place) as stand:
        for number in range(5):
            got = await stand.ask(post(b"content-length: 1\r\n", b"%d" % number))
            assert got.body.endswith(b"\r\n\r\n%d" % number)
            assert (await stand.ask(get("/none"))).status == 404
        found = counted(stand.stats, "http.h.downstream_rq_")
        assert found == {"total": 10, "http1_total": 10, "completed": 10, "2xx": 5, "4xx": 5}


async def test_requests_that_come_together_are_answered_in_order() -> None:
    async with unix_origin(mirror) as place, http(None, place) as stand:
        stand.writer.write(
            get("/ok") + post(CHUNKED, b"3\r\nabc\r\n0\r\n\r\n") + post(b"content-length: 2\r\n", b"de") + get("/none")
        )
        got = [await response(stand.reader) for _ in range(4)]
        assert [each.status for each in got] == [200, 200, 200, 404]
        assert [got[1].body[-3:], got[2].body[-2:]] == [b"abc", b"de"]


async def test_a_client_with_many_requests_lets_another_in() -> None:
    async with http() as stand:
        turned = 0

        async def other() -> None:
            nonlocal turned
            while True:
                turned += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        stand.writer.write(get("/ok") * 50)
        await turns(3)
        begun = turned
        for _ in range(50):
            await response(stand.reader)
        assert turned - begun >= 45
        task.cancel()


@pytest.mark.parametrize("word", [b"close", b"Close", b"keep-alive, CLOSE"])
async def test_a_client_may_ask_for_the_end(word: bytes) -> None:
    async with http() as stand:
        got = await stand.ask(get("/ok", b"connection: " + word + b"\r\n"))
        assert (got.status, got.closes) == (200, True)
        assert await stand.end() == b""
        assert stand.stat("downstream_rq_response_before_rq_complete") == 0


async def test_requests_after_the_last_one_are_not_answered() -> None:
    async with http() as stand:
        stand.writer.write(get("/ok", b"connection: close\r\n") + get("/ok") * 100)
        assert (await response(stand.reader)).status == 200
        assert await stand.end() == b""
        assert stand.stat("downstream_rq_total") == 1


async def test_a_client_that_leaves_between_requests_is_no_reset() -> None:
    async with http() as stand:
        await stand.ask(get("/ok"))
        stand.writer.close()
        await turns(20)
        found = counted(stand.stats, "http.h.downstream_")
        assert "rq_rx_reset" not in found
        assert found["cx_destroy_remote"] == 1
        assert "cx_http1_active" not in found


async def test_a_client_that_leaves_within_a_head_is_a_reset() -> None:
    async with http() as stand:
        stand.writer.write(b"GET /ok HT")
        await turns()
        assert stand.stat("downstream_rq_active") == stand.stat("downstream_cx_http1_active") == 1
        stand.writer.close()
        await turns(20)
        found = counted(stand.stats, "http.h.downstream_")
        expected = {
            "rq_rx_reset",
            "cx_destroy_active_rq",
            "cx_destroy_remote_active_rq",
            "cx_destroy_remote",
            "rq_total",
        }
        assert {name: found.get(name) for name in expected} == dict.fromkeys(expected, 1)


async def test_a_half_closed_client_still_gets_a_direct_response() -> None:
    async with http() as stand:
        stand.writer.write(get("/ok"))
        stand.writer.write_eof()
        assert (await response(stand.reader)).body == b"hello\n"
        assert await stand.end() == b""


# Responses of its own


@pytest.mark.parametrize("asked", [b"HEAD /ok HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_the_response_to_head_has_the_length_and_no_body(asked: bytes) -> None:
    async with http() as stand:
        got = await stand.ask(asked)
        assert (got.status, got["content-length"], got["content-type"], got.closes) == (200, "6", "text/plain", False)
        assert (await stand.ask(get("/ok"))).body == b"hello\n"


async def test_an_error_in_response_to_head_has_no_body() -> None:
    async with http() as stand:
        got = await stand.ask(b"HEAD /ok HTTP/1.0\r\nHost: x\r\n\r\n")
        assert (got.status, got["content-length"], got.closes) == (426, "16", True)
        assert await stand.end() == b""


async def test_a_request_after_head_has_its_body() -> None:
    async with http() as stand:
        stand.writer.write(get("/ok").replace(b"GET", b"HEAD") + b"BLA\r\n\r\n")
        assert (await response(stand.reader, to_head=True)).status == 200
        assert (await response(stand.reader)).body == b"Bad Request"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_route_s_status_without_a_body_has_none(status: int) -> None:
    async with http(routes(Route("/none", Reply(status, b"text")))) as stand:
        got = await stand.ask(get("/none"))
        assert (got.status, got.names) == (status, {"date", "server"})
        assert (await stand.ask(get("/ok"))).body == b"hello\n"


@pytest.mark.parametrize(
    ("status", "phrase"), [(200, "OK"), (418, "I'm a Teapot"), (599, ""), (451, "Unavailable For")]
)
async def test_a_status_has_its_phrase(status: int, phrase: str) -> None:
    async with http(routes(Route("/s", Reply(status)))) as stand:
        stand.writer.write(get("/s"))
        line = (await stand.reader.readline()).decode()
        assert line.startswith(f"HTTP/1.1 {status} {phrase}")
        assert phrase or line == f"HTTP/1.1 {status} \r\n"
        await stand.reader.readuntil(b"\r\n\r\n")


async def test_no_route_is_an_empty_response() -> None:
    async with http() as stand:
        got = await stand.ask(get("/none"))
        assert (got.status, got["content-length"], got.names) == (404, "0", {"content-length", "date", "server"})
        assert stand.stat("no_route") == 1


async def test_the_server_is_named_as_configured() -> None:
    async with http(routes(server_name="日本")) as stand:
        assert (await stand.ask(get("/ok")))["server"] == "日本".encode().decode("latin-1")


# Bodies that nobody wants


@pytest.mark.parametrize("frame", [(b"content-length: 4\r\n", b"abcd"), (CHUNKED, b"4\r\nabcd\r\n0\r\n\r\n")])
async def test_a_direct_response_to_a_whole_request_keeps_the_connection(frame: tuple[bytes, bytes]) -> None:
    async with http() as stand:
        got = await stand.ask(post(*frame, b"/ok"))
        assert (got.status, got.closes) == (200, False)
        assert (await stand.ask(get("/ok"))).status == 200
        assert stand.stat("downstream_rq_response_before_rq_complete") == 0


@pytest.mark.parametrize(
    "frame", [(b"content-length: 5\r\n", b"abcd"), (CHUNKED, b"4\r\nabcd\r\n0\r\n"), (CHUNKED, b"")]
)
@pytest.mark.parametrize("path", [b"/ok", b"/none"])
async def test_a_direct_response_to_a_part_of_a_request_is_the_last(frame: tuple[bytes, bytes], path: bytes) -> None:
    async with http() as stand:
        got = await stand.ask(post(*frame, path))
        assert (got.status, got.closes) == (200 if path == b"/ok" else 404, True)
        assert await stand.end() == b""
        assert stand.stat("downstream_rq_response_before_rq_complete") == 1


async def test_a_bad_body_that_nobody_reads_is_cut_off() -> None:
    async with http() as stand:
        got = await stand.ask(post(CHUNKED, b"nonsense\r\n", b"/ok"))
        assert (got.status, got.closes) == (200, True)
        assert await stand.end() == b""


async def test_a_client_that_still_sends_gets_the_last_response() -> None:
    async with http() as stand:
        stand.writer.write(post(b"content-length: 1000000\r\n", b"x" * 1000, b"/ok"))
        await asyncio.sleep(0.5)
        stand.writer.write(b"x" * 100_000)
        assert (await response(stand.reader)).body == b"hello\n"
        assert stand.left == []
        await asyncio.sleep(0.4)
        assert stand.left == []
        await asyncio.sleep(0.2)
        assert stand.left == [stand.client]
        assert now() == pytest.approx(1.1)


async def test_the_end_of_a_client_ends_the_wait_for_it() -> None:
    async with http() as stand:
        await stand.ask(get("/ok", b"connection: close\r\n"))
        stand.writer.close()
        await turns(20)
        assert stand.left == [stand.client]
        assert now() == 0


# Clients that wait for 100


async def test_a_client_is_told_to_go_on_when_its_body_is_wanted() -> None:
    async with unix_origin(mirror) as place, http(None, place) as stand:
        asked = post(b"expect: 100-continue\r\ncontent-length: 3\r\n")
        assert (await stand.ask(asked)).status == 100
        got = await stand.ask(b"abc")
        assert got.body.endswith(b"abc")
        assert b"\r\nexpect:" not in got.body
        assert stand.stat("downstream_rq_1xx") == 1


async def test_a_client_that_does_not_wait_is_told_nothing() -> None:
    async with unix_origin(mirror) as place, http(None, place) as stand:
        got = await stand.ask(post(b"expect: 100-continue\r\ncontent-length: 3\r\n", b"abc"))
        assert got.status == 200
        assert stand.stat("downstream_rq_1xx") == 0


async def test_a_client_is_told_to_go_on_before_a_direct_response() -> None:
    async with http() as stand:
        asked = post(b"expect: 100-continue\r\ncontent-length: 3\r\n", b"", b"/ok")
        assert (await stand.ask(asked)).status == 100
        got = await response(stand.reader)
        assert (got.status, got.closes) == (200, True)


async def test_a_client_without_a_route_is_not_told_to_go_on() -> None:
    async with http() as stand:
        got = await stand.ask(post(b"expect: 100-continue\r\ncontent-length: 3\r\n", b"", b"/none"))
        assert (got.status, got.closes) == (404, True)


# Draining


async def drained(stand: HttpStand) -> bool:
    return (await stand.ask(get("/ok"))).closes


async def test_a_drain_ends_each_connection_with_its_next_response() -> None:
    drain = Draining(600, immediate=True)
    async with http(drain=drain) as stand:
        assert not await drained(stand)
        drain.begin()
        assert await drained(stand)
        assert await stand.end() == b""
        assert stand.stat("downstream_cx_drain_close") == 1


async def test_a_drain_is_not_counted_where_the_connection_ends_anyway() -> None:
    drain = Draining(600, immediate=True)
    drain.begin()
    async with http(drain=drain) as stand:
        got = await stand.ask(get("/ok", b"connection: close\r\n"))
        assert got.closes
        assert [each for each in got.headers if each[0] == "connection"] == [("connection", "close")]
        assert stand.stat("downstream_cx_drain_close") == 0


async def test_a_drain_ends_connections_with_responses_of_a_cluster_too() -> None:
    drain = Draining(600, immediate=True)
    drain.begin()
    async with unix_origin(mirror) as place, http(None, place, drain=drain) as stand:
        assert (await stand.ask(get("/app"))).closes
        assert await stand.end() == b""
