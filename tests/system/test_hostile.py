"""Slow, broken and hostile clients: they cost bounded memory, and never block the others."""

import os
import re
import socket
import ssl
from collections.abc import Callable

import pytest

from tests.system.eventually import eventually
from tests.system.hostile_clients import GOOD, KIB, Arena, Fight, Waits, bounded, reset
from tests.system.origins import endless_origin, origin
from tests.system.proxies import KINDS, Proxy, needed
from tests.system.room import Room
from tests.system.wire import connect

pytestmark = pytest.mark.quiet

MIB = KIB * KIB
IDLE = 10_000 if os.environ.get("AGENT_LONG") else 1_000
IDLE_TLS = IDLE if IDLE > 1_000 else 300
SOME = 150
WAVE = 100
PER_PLAIN = 48 * KIB  # the permitted cost of a connection, in bytes
PER_TLS = 160 * KIB
PER_STUCK = 1 * MIB  # with buffers of 64 KiB in either direction, and data in flight between them


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return needed(request.param)


@pytest.fixture
def arena(room: Room, proxy: Proxy) -> Arena:
    return Arena(room, proxy)


def client_hello() -> bytes:
    """Return the first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="proxy.test").do_handshake()
    return outgoing.read()


def costs(fight: Fight, before: int, count: int, each: int) -> None:
    """Check that this many connections cost at most `each` bytes each, beside the one-time cost of the first ones."""
    grown = fight.memory() - before
    assert grown <= count * each + 2 * MIB, f"{grown / count / KIB:.0f} KiB a connection"


@pytest.mark.parametrize("sent", ["nothing", "half a hello", "a hello"])
def test_half_open_handshakes_block_no_client(arena: Arena, sent: str) -> None:
    hello = client_hello()
    with arena.open() as fight:
        before = fight.warm(SOME)
        parts = {"nothing": b"", "half a hello": hello[: len(hello) // 2], "a hello": hello}
        signing = 10 if sent == "a hello" else 1  # each hello is answered with a signature
        bounded(fight.crowd(fight.asks(arena.tls, parts[sent]), SOME), patience=signing)
        bounded(fight.waits(20, tls=True))
        costs(fight, before, SOME, PER_TLS)


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_idle_connections_cost_little_and_block_no_client(arena: Arena, kind: str) -> None:
    target, count, each = (arena.tls, IDLE_TLS, PER_TLS) if kind == "tls" else (arena.plain, IDLE, PER_PLAIN)
    with arena.open() as fight:
        before = fight.warm(SOME)
        bounded(fight.crowd(lambda: connect(target, arena.context), count))
        costs(fight, before, count, each)
        bounded(fight.waits(50))


@pytest.mark.long
def test_what_a_wave_of_clients_took_serves_the_next_wave(arena: Arena) -> None:
    with arena.open() as fight:
        before, peaks = fight.memory(), []
        for _ in range(4):
            fight.crowd(lambda: connect(arena.tls, arena.context), WAVE)
            peaks.append(fight.memory() - before)
            fight.leave()
            eventually(lambda: left(fight), what="the wave is gone")
        assert max(peaks[2:]) <= 1.25 * max(peaks[:2]) + MIB


def left(fight: Fight) -> bool:
    """Return whether no client is connected to the TLS listener."""
    return fight.alone.console.numbers(f"listener.127.0.0.1_{fight.arena.tls.port}.")["downstream_cx_active"] == 0


@pytest.mark.parametrize("way", ["raw", "http"])
def test_clients_that_never_read_cost_bounded_memory(arena: Arena, way: str) -> None:
    asked = b"GET /origin HTTP/1.1\r\nHost: test\r\n\r\n"
    with arena.open() as fight, endless_origin(arena.room, arena.origin_port):
        before = fight.warm(50)
        target = arena.raw if way == "raw" else arena.plain
        fight.crowd(fight.asks(target, asked, receive_buffer=4 * KIB), 50)  # fills the kernel's buffers, by all cores
        eventually(lambda: stuck(fight), every=0, what="nothing is taken from the origin any more")
        bounded(fight.waits(50))
        costs(fight, before, 50, PER_STUCK)


def stuck(fight: Fight) -> bool:
    """Return whether a bounded amount is read from the origin while the good client makes some requests."""
    taken = fight.alone.console.numbers("cluster.origin.")["upstream_cx_rx_bytes_total"]
    for _ in range(20):
        fight.good()
    return 0 < taken == fight.alone.console.numbers("cluster.origin.")["upstream_cx_rx_bytes_total"]


def test_heads_without_end_are_refused(arena: Arena) -> None:
    with arena.open() as fight:
        before = fight.warm(50)
        bounded(fight.crowd(fight.asks(arena.plain, GOOD[:-2]), 20))
        bounded(flood(fight))
        answers = [everything(sock) for sock in fight.hostile]
        assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 431", b""}
        costs(fight, before, 20, 256 * KIB)


def flood(fight: Fight, most: int = 16 * MIB) -> Waits:
    """Let all send headers until the proxy closes each connection; return the waits of the good clients."""
    line, waits = (b"x-more: " + b"a" * 1000 + b"\r\n") * 16, Waits([], [])
    open_still = dict.fromkeys(fight.hostile, 0)
    while open_still:
        for sock in tuple(open_still):
            sock.setblocking(False)
            try:
                open_still[sock] += sock.send(line)
            except BlockingIOError:
                pass
            except OSError:
                del open_still[sock]
        assert max(open_still.values(), default=0) < most, "headers without end are taken"
        fight.beside(waits)
    for sock in fight.hostile:
        sock.settimeout(10)
    return waits


def everything(sock: socket.socket) -> bytes:
    """Read until the proxy closes the connection; data before a reset may be lost."""
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except TimeoutError:
        return data + b" and open"
    except OSError:
        pass
    return data


def test_slow_heads_are_given_up(room: Room, proxy: Proxy) -> None:
    arena = Arena(room, proxy, {"request_headers_timeout": "0.5s"})
    with arena.open() as fight:
        bounded(fight.crowd(fight.asks(arena.plain, GOOD[:-2]), 50))
        for sock in fight.hostile:
            assert sock.recv(65536).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert fight.alone.console.numbers("http.http.")["downstream_rq_header_timeout"] == 50


def test_a_body_that_never_comes_is_given_up(room: Room, proxy: Proxy) -> None:
    arena = Arena(room, proxy, {"stream_idle_timeout": "0.5s"})
    asked = b"POST /origin HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc"
    with arena.open() as fight, origin(arena.origin_port):
        fight.crowd(fight.asks(arena.plain, asked), 20)
        for sock in fight.hostile:
            assert sock.recv(65536)[:12] in {b"HTTP/1.1 200", b"HTTP/1.1 408"}


@pytest.mark.parametrize("going", ["reset", "half-closed"])
def test_clients_that_break_off_leave_nothing(arena: Arena, going: str) -> None:
    body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na"
    with arena.open() as fight:
        for sent in (GOOD[:10], GOOD[:-2], GOOD, body):
            bounded(fight.crowd(breaks_off(fight, sent, going), SOME // 4))
        if going == "half-closed":
            assert not any(everything(sock).endswith(b"open") for sock in fight.hostile)


def breaks_off(fight: Fight, sent: bytes, going: str) -> Callable[[], socket.socket]:
    """Return a client that sends these bytes and disconnects, or sends no more."""
    come = fight.asks(fight.arena.plain, sent)

    def come_and_go() -> socket.socket:
        sock = come()
        if going == "reset":
            reset(sock)
        else:
            sock.shutdown(socket.SHUT_WR)
        return sock

    return come_and_go


def test_requests_sent_ahead_are_answered_in_turn(arena: Arena) -> None:
    """Two: Envoy treats three that it answers itself as a flood."""
    with arena.open() as fight:
        sock = fight.asks(arena.plain, GOOD * 2)()
        with sock:
            data = b""
            while data.count(b"HTTP/1.1 200 OK\r\n") < 2 or not data.endswith(b"ok\n"):
                more = sock.recv(65536)
                assert more
                data += more
        assert data.count(b"ok\n") == 2


# Malformed and ambiguous requests

POST = b"POST /origin HTTP/1.1\r\nHost: a\r\n"
CHUNKS = b"0\r\n\r\n"
ENVOY_LAX = (200, 400)
HEADLONG = (400, 200)  # the origin answers the head before the error in its body is detected
BROKEN: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "length and chunks": (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, (400,)),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + CHUNKS, (400,)),
    "chunks twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, (501, 400)),
    "chunks, then none": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS, (501, 400)),
    "unknown encoding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS, (501, 400)),
    "space before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS, (400,)),
    "vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKS, (400, 501)),
    "two lengths": (POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", (400,)),
    "a length twice": (POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", (400, 200)),
    "a list of lengths": (POST + b"Content-Length: 4, 5\r\n\r\nabcd", (400,)),
    "negative length": (POST + b"Content-Length: -1\r\n\r\nabcd", (400,)),
    "signed length": (POST + b"Content-Length: +4\r\n\r\nabcd", (400,)),
    "hexadecimal length": (POST + b"Content-Length: 0x4\r\n\r\nabcd", (400,)),
    "huge length": (POST + b"Content-Length: 99999999999999999999999\r\n\r\nabcd", (400,)),
    "folded header": (b"GET /origin HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", ENVOY_LAX),
    "folded encoding": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS, ENVOY_LAX),
    "bare line feeds": (b"GET /origin HTTP/1.1\nHost: a\n\n", ENVOY_LAX),
    "one bare line feed": (b"GET /origin HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", ENVOY_LAX),
    "bare carriage return": (b"GET /origin HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", ENVOY_LAX),
    "two hosts": (b"GET /origin HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ENVOY_LAX),
    "nul in a value": (b"GET /origin HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", (400,)),
    "nul in the path": (b"GET /origin\0 HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
    "space in a name": (b"GET /origin HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n", (400,)),
    "no name": (b"GET /origin HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", (400,)),
    "no colon": (b"GET /origin HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", (400,)),
    "first header indented": (b"GET /origin HTTP/1.1\r\n Host: a\r\n\r\n", (400,)),
    "no host": (b"GET /origin HTTP/1.1\r\n\r\n", (400,)),
    "an older version": (b"GET /origin HTTP/1.0\r\nHost: a\r\n\r\n", (426,)),
    "no version": (b"GET /origin\r\n\r\n", (426, 400)),
    "no request": (b"\x00\x01\x02\x03\r\n\r\n", (400,)),
    "TLS": (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n", (400,)),
    "no such method": (b"G@T( /origin HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
    "path without a slash": (b"GET origin HTTP/1.1\r\nHost: a\r\n\r\n", (400, 404)),
    "bytes above 127 in the path": (b"GET /origin\xff HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
    "one long header": (b"GET /origin HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", (431,)),
    "a long path": (b"GET /origin" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", (431,)),
    "many headers": (b"GET /origin HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 150 + b"\r\n", (431,)),
    "no size of a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", HEADLONG),
    "a chunk too long to count": (POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n", HEADLONG),
    "a chunk longer than it says": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", (200, 400)),
}


def test_broken_requests_are_refused_as_by_envoy_and_never_reach_an_origin_in_two_readings(arena: Arena) -> None:
    """If several statuses are listed, the first one is Envoy's; the others are as safe."""
    wrong = []
    with arena.open() as fight, origin(arena.origin_port) as source:
        for number, (name, (sent, allowed)) in enumerate(BROKEN.items()):
            path = b"/origin-%d-" % number  # a head may reach the origin after the response has reached us
            statuses = answers(fight, sent.replace(b"/origin", path))
            wanted = allowed[:1] if arena.proxy.name == "envoy" else allowed
            if statuses not in [[status] for status in wanted]:
                wrong.append(f"{name}: {statuses}, not {wanted}")
            fight.good()
            heads = [head for head in source.heads if path in head]
            if any(map(two_readings, heads)) or len(heads) > 1:
                wrong.append(f"{name}: the origin read {heads}")
    assert not wrong, "\n".join(wrong)


def answers(fight: Fight, sent: bytes) -> list[int]:
    """Send these bytes on a connection, then no more; return the statuses of all responses."""
    with fight.asks(fight.arena.plain, sent)() as sock:
        data = sock.recv(65536)
        sock.settimeout(0.02)
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", data + everything(sock))]


def two_readings(head: bytes) -> bool:
    """Return whether two servers may measure this head's body differently, or count its lines differently."""
    lines = head.lower().split(b"\r\n")[1:]
    framing = [line for line in lines if line.startswith((b"content-length", b"transfer-encoding"))]
    return len(framing) > 1 or any(line.startswith((b" ", b"\t")) or b"\n" in line or b"\r" in line for line in lines)
