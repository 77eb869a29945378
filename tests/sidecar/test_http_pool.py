"""Connections to a cluster: which are reused, which are closed, and what is counted."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11
import pytest

from agent.sidecar.clusters import Upstream
from agent.sidecar.http_pool import Closed, Pool, Unreachable, UpstreamConnection
from agent.sidecar.model import Address, Cluster, SocketAddress
from agent.sidecar.stream import Stream
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.wires import abstract, counted, pair, turns

pytestmark = pytest.mark.usefixtures("leaps")

GET = h11.Request(method="GET", target="/", headers=[("host", "x")])
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Endpoint:
    """A Unix socket that listens, and what has connected to it."""

    def __init__(self, backlog: int = 200) -> None:
        self.place = abstract()
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.door.bind(f"\0{self.place.path[1:]}")
        self.door.listen(backlog)
        self.accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        made, _ = self.door.accept()
        made.setblocking(False)
        self.accepted.append(made)
        return made

    def close(self) -> None:
        for each in (self.door, *self.accepted):
            each.close()


@dataclass
class Stand:
    pool: Pool
    ends: list[Endpoint]
    stats: Writer

    def counted(self) -> dict[str, int]:
        found = counted(self.stats, "cluster.c.upstream_")
        return {name: value for name, value in found.items() if not name.startswith(("rq_", "cx_rx", "cx_tx"))}

    async def exchange(self, line: UpstreamConnection, end: int = 0, answer: bytes = EMPTY) -> None:
        """Complete a request and its response."""
        await line.stream.write(line.pack(GET) + line.pack(h11.EndOfMessage()))
        peer = self.ends[end].accepted[-1]
        peer.recv(1 << 16)
        peer.send(answer)
        while not isinstance(await line.next(0), h11.EndOfMessage):
            pass

    async def line(self, end: int = 0) -> UpstreamConnection:
        """Make a new connection, which the endpoint accepts."""
        line = await self.pool.line(None)
        self.ends[end].accept()
        return line


@asynccontextmanager
async def standing(count: int = 1, **fields: object) -> AsyncIterator[Stand]:
    stats = Writer.private()
    ends = [Endpoint() for _ in range(count)]
    settings = Cluster("c", "STATIC", tuple(each.place for each in ends))._replace(**fields)  # type: ignore[arg-type]
    stand = Stand(Pool(Upstream(settings, stats)), ends, stats)
    try:
        yield stand
    finally:
        stand.pool.close()
        for each in ends:
            each.close()
        await turns()
    assert "cx_active" not in stand.counted()
    assert "rq_pending_active" not in counted(stats, "cluster.c.upstream_")


async def test_a_new_connection_is_counted() -> None:
    async with standing() as stand:
        line = await stand.line()
        assert stand.counted() == {"cx_total": 1, "cx_http1_total": 1, "cx_active": 1}
        assert counted(stand.stats, "cluster.c.upstream_rq_") == {"pending_total": 1}
        assert (line.uses, line.address) == (0, stand.ends[0].place)
        line.close(by_us=False, busy=True)
        assert stand.counted() == {
            "cx_total": 1,
            "cx_http1_total": 1,
            "cx_destroy": 1,
            "cx_destroy_remote": 1,
            "cx_destroy_with_active_rq": 1,
            "cx_destroy_remote_with_active_rq": 1,
        }


async def test_a_connection_is_pending_until_it_is_made() -> None:
    async with standing() as stand:
        making = asyncio.create_task(stand.pool.line(None))
        await asyncio.sleep(0)
        assert counted(stand.stats, "cluster.c.upstream_rq_") == {"pending_total": 1, "pending_active": 1}
        (await making).close(by_us=True, busy=False)


async def test_a_complete_exchange_makes_a_connection_reusable() -> None:
    async with standing() as stand:
        line = await stand.line()
        before = line.is_reusable
        await stand.exchange(line)
        assert (before, line.is_reusable) == (False, True)
        stand.pool.release(line)
        assert await stand.pool.line(None) is line
        assert line.uses == 1
        await stand.exchange(line)
        stand.pool.release(line)
        assert (await stand.pool.line(None)).uses == 2
        assert stand.counted()["cx_total"] == 1
        line.close(by_us=True, busy=False)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        EMPTY + b"x",
        EMPTY + EMPTY,
    ],
)
async def test_a_connection_that_ends_or_says_more_is_not_reused(answer: bytes) -> None:
    async with standing() as stand:
        line = await stand.line()
        await stand.exchange(line, answer=answer)
        assert not line.is_reusable
        stand.pool.release(line)
        assert stand.counted()["cx_destroy_local"] == 1
        fresh = await stand.line()
        assert fresh is not line
        fresh.close(by_us=True, busy=False)


async def test_the_newest_idle_connection_is_used_first() -> None:
    async with standing() as stand:
        lines = []
        for _ in range(3):
            lines.append(await stand.line())
            await stand.exchange(lines[-1])
        for line in lines:
            stand.pool.release(line)
        assert [await stand.pool.line(None) for _ in range(3)] == lines[::-1]
        for line in lines:
            line.close(by_us=True, busy=False)


async def test_64_idle_connections_are_kept_for_an_endpoint() -> None:
    async with standing() as stand:
        lines = []
        for _ in range(66):
            lines.append(await stand.line())
            await stand.exchange(lines[-1])
        for line in lines:
            stand.pool.release(line)
        assert stand.counted()["cx_active"] == 64
        assert stand.counted()["cx_destroy_local"] == 2


async def test_idle_connections_are_kept_for_each_endpoint() -> None:
    async with standing(2) as stand:
        lines = [await stand.line(0), await stand.line(1)]
        for number, line in enumerate(lines):
            await stand.exchange(line, number)
            stand.pool.release(line)
        assert [await stand.pool.line(None) for _ in range(2)] == lines
        for line in lines:
            line.close(by_us=True, busy=False)


async def test_an_idle_connection_is_closed_after_a_minute() -> None:
    async with standing() as stand:
        line = await stand.line()
        await stand.exchange(line)
        stand.pool.release(line)
        await asyncio.sleep(59.9)
        assert stand.counted()["cx_active"] == 1
        await asyncio.sleep(0.2)
        assert stand.counted() == {
            "cx_total": 1,
            "cx_http1_total": 1,
            "cx_idle_timeout": 1,
            "cx_destroy": 1,
            "cx_destroy_local": 1,
        }
        assert stand.ends[0].accepted[0].recv(1) == b""


async def test_a_connection_in_use_does_not_expire() -> None:
    async with standing() as stand:
        line = await stand.line()
        await stand.exchange(line)
        stand.pool.release(line)
        assert await stand.pool.line(None) is line
        await asyncio.sleep(1000)
        assert stand.counted()["cx_active"] == 1
        await stand.exchange(line)
        line.close(by_us=True, busy=False)


async def test_an_endpoint_that_closes_an_idle_connection_is_noticed_at_once() -> None:
    async with standing() as stand:
        lines = [await stand.line() for _ in range(2)]
        for number, line in enumerate(lines):
            await line.stream.write(line.pack(GET) + line.pack(h11.EndOfMessage()))
            stand.ends[0].accepted[number].send(EMPTY)
            while not isinstance(await line.next(0), h11.EndOfMessage):
                pass
            stand.pool.release(line)
        stand.ends[0].accepted[1].close()
        await turns()
        assert stand.counted()["cx_active"] == 1
        assert stand.counted()["cx_destroy_remote"] == 1
        assert await stand.pool.line(None) is lines[0]
        lines[0].close(by_us=True, busy=False)
        await asyncio.sleep(100)
        assert "cx_idle_timeout" not in stand.counted()


@pytest.mark.parametrize("what", [b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged", b"x", b""])
@pytest.mark.parametrize("is_noticed", [True, False])
async def test_an_idle_connection_that_is_not_silent_is_not_reused(what: bytes, is_noticed: bool) -> None:
    async with standing() as stand:
        line = await stand.line()
        await stand.exchange(line)
        stand.pool.release(line)
        peer = stand.ends[0].accepted[0]
        peer.send(what) if what else peer.close()
        await turns(10 if is_noticed else 0)
        fresh = await stand.pool.line(None)
        assert fresh is not line
        by_whom = "local" if what or not is_noticed else "remote"
        assert {name for name in stand.counted() if "destroy" in name} == {"cx_destroy", f"cx_destroy_{by_whom}"}
        fresh.close(by_us=True, busy=False)


async def test_an_endpoint_that_is_gone_gets_no_connection_back() -> None:
    async with standing(2) as stand:
        line = await stand.line()
        await stand.exchange(line)
        stand.pool.upstream.take([stand.ends[1].place])
        stand.pool.release(line)
        assert stand.counted()["cx_destroy_local"] == 1


async def test_an_original_destination_keeps_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        place = SocketAddress(*door.getsockname())
        stats = Writer.private()
        pool = Pool(Upstream(Cluster("c", "ORIGINAL_DST"), stats))
        line = await pool.line(place)
        peer, _ = door.accept()
        with peer:
            await line.stream.write(line.pack(GET) + line.pack(h11.EndOfMessage()))
            peer.send(EMPTY)
            while not isinstance(await line.next(0), h11.EndOfMessage):
                pass
            pool.release(line)
            assert await pool.line(place) is line
            line.close(by_us=True, busy=False)
        with pytest.raises(Unreachable, match="no healthy upstream"):
            await pool.line(None)


@pytest.mark.parametrize("endpoints", [(), None])
async def test_a_cluster_without_endpoints_has_no_healthy_upstream(endpoints: tuple[Address, ...] | None) -> None:
    stats = Writer.private()
    pool = Pool(Upstream(Cluster("c", "STATIC" if endpoints == () else "STRICT_DNS"), stats))
    with pytest.raises(Unreachable, match=r"^no healthy upstream$"):
        await pool.line(None)
    assert counted(stats, "cluster.c.upstream_") == {"cx_none_healthy": 1}


async def test_a_connection_that_is_refused_is_counted() -> None:
    async with standing() as stand:
        stand.ends[0].door.close()
        with pytest.raises(Unreachable, match=r"^remote connection failure$"):
            await stand.pool.line(None)
        assert stand.counted() == {
            "cx_total": 1,
            "cx_http1_total": 1,
            "cx_destroy": 1,
            "cx_destroy_remote": 1,
            "cx_connect_fail": 1,
        }
        assert counted(stand.stats, "cluster.c.upstream_rq_") == {"pending_total": 1, "pending_failure_eject": 1}


async def test_a_connection_that_takes_too_long_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.create_connection(full.getsockname())]  # the queue has room for one
        stats = Writer.private()
        place = SocketAddress(*full.getsockname())
        pool = Pool(Upstream(Cluster("c", "STATIC", (place,), connect_timeout=3), stats))
        with pytest.raises(Unreachable, match=r"^connection timeout$"):
            await pool.line(None)
        assert now() == pytest.approx(3)
        found = counted(stats, "cluster.c.upstream_")
        expected = {"cx_connect_timeout": 1, "cx_connect_fail": 1, "cx_destroy_local": 1}
        assert {name: found.get(name) for name in expected} == expected
        for each in waiting:
            each.close()


async def test_a_cancelled_attempt_closes_its_socket_and_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = socket.create_connection(full.getsockname())
        stats = Writer.private()
        pool = Pool(Upstream(Cluster("c", "STATIC", (SocketAddress(*full.getsockname()),)), stats))
        making = asyncio.create_task(pool.line(None))
        await turns(3)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        found = counted(stats, "cluster.c.upstream_")
        assert found == {
            "cx_total": 1,
            "cx_http1_total": 1,
            "cx_destroy": 1,
            "cx_destroy_local": 1,
            "rq_pending_total": 1,
        }
        waiting.close()


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("is_there", [True, False])
async def test_a_request_may_be_cancelled_in_every_turn_of_its_connection(turn: int, is_there: bool) -> None:
    async with standing() as stand:
        if not is_there:
            stand.ends[0].door.close()
        making = asyncio.create_task(stand.pool.line(None))
        await turns(turn)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        await turns()
        if not making.cancelled() and making.exception() is None:
            making.result().close(by_us=True, busy=False)
        if is_there and stand.counted():
            assert stand.ends[0].accept().recv(1) == b""


@pytest.mark.parametrize("state", ["no request", "no response", "no end of the request"])
async def test_a_connection_in_the_middle_of_an_exchange_is_not_kept(state: str) -> None:
    async with standing() as stand:
        line = await stand.line()
        peer = stand.ends[0].accepted[0]
        if state == "no end of the request":
            line.pack(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "1")]))
            peer.send(EMPTY)
            while not isinstance(await line.next(0), h11.EndOfMessage):
                pass
        elif state == "no response":
            line.pack(GET)
            line.pack(h11.EndOfMessage())
        assert not line.is_reusable
        stand.pool.release(line)
        assert stand.counted() == {"cx_total": 1, "cx_http1_total": 1, "cx_destroy": 1, "cx_destroy_local": 1}


async def test_closing_the_pool_closes_every_idle_connection() -> None:
    async with standing(2) as stand:
        for number in range(2):
            line = await stand.line(number)
            await stand.exchange(line, number)
            stand.pool.release(line)
        stand.pool.close()
        assert stand.counted()["cx_destroy_local"] == 2
        assert [each.accepted[0].recv(1) for each in stand.ends] == [b"", b""]
        await asyncio.sleep(100)
        assert "cx_idle_timeout" not in stand.counted()


# One connection


def connection() -> tuple[UpstreamConnection, socket.socket, Writer]:
    stats = Writer.private()
    upstream = Upstream(Cluster("c", "STATIC"), stats)
    made = pair()
    upstream.counters.upstream_cx_active.add()
    stream = Stream(made.wire, stats.counter("in"), stats.counter("out"))
    return UpstreamConnection(stream, abstract(), upstream), made.far, stats


async def test_bytes_in_odd_pieces_are_one_response() -> None:
    line, far, _ = connection()
    line.pack(GET)
    line.pack(h11.EndOfMessage())
    reading = asyncio.create_task(line.next(0))
    for byte in b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n":
        far.send(bytes([byte]))
        await turns(3)
    event = await reading
    assert isinstance(event, h11.Response)
    assert line.ready() is None
    far.send(b"2\r\nab\r\n0\r\n\r\n")
    data = await line.next(0)
    assert isinstance(data, h11.Data)
    assert bytes(data.data) == b"ab"
    assert isinstance(line.ready(), h11.EndOfMessage)
    line.close(by_us=True, busy=False)
    far.close()


async def test_an_end_before_any_byte_is_told_from_one_in_the_middle() -> None:
    line, far, _ = connection()
    line.pack(GET)
    line.pack(h11.EndOfMessage())
    far.close()
    with pytest.raises(Closed):
        await line.next(0)
    line.close(by_us=False, busy=True)
    line, far, _ = connection()
    line.pack(GET)
    line.pack(h11.EndOfMessage())
    far.send(b"H")
    far.close()
    with pytest.raises(h11.RemoteProtocolError):
        await line.next(0)
    line.close(by_us=False, busy=True)


async def test_each_cycle_begins_without_a_byte() -> None:
    line, far, _ = connection()
    for part in (GET, h11.EndOfMessage()):
        line.pack(part)
    far.send(EMPTY)
    while not isinstance(await line.next(0), h11.EndOfMessage):
        pass
    line.next_cycle()
    assert line.uses == 1
    for part in (GET, h11.EndOfMessage()):
        line.pack(part)
    far.close()
    with pytest.raises(Closed):
        await line.next(0)
    line.close(by_us=False, busy=True)


async def test_a_response_that_does_not_come_in_time() -> None:
    line, far, _ = connection()
    line.pack(GET)
    with pytest.raises(TimeoutError):
        await line.next(4)
    assert now() == 4
    line.close(by_us=True, busy=True)
    far.close()


@pytest.mark.parametrize(("size", "is_good"), [(65_536, True), (65_537, False)])
async def test_the_head_of_a_response_has_64_kb_at_most(size: int, is_good: bool) -> None:
    line, far, _ = connection()
    for part in (GET, h11.EndOfMessage()):
        line.pack(part)
    far.send(b"HTTP/1.1 200 OK\r\nx: ".ljust(size, b"a"))
    reading = asyncio.create_task(line.next(0))
    await turns()
    if is_good:
        far.send(b"\r\n\r\n")
        assert isinstance(await reading, h11.Response)
    else:
        with pytest.raises(h11.RemoteProtocolError):
            await reading
    line.close(by_us=True, busy=True)
    far.close()


async def test_a_part_that_is_not_allowed_now_is_refused() -> None:
    line, far, _ = connection()
    with pytest.raises(h11.LocalProtocolError):
        line.pack(h11.Data(data=b"x"))
    line.close(by_us=True, busy=False)
    far.close()


async def test_closing_cancels_the_timer() -> None:
    line, far, stats = connection()
    fired: list[int] = []
    line.timer = asyncio.get_running_loop().call_later(1, fired.append, 1)
    line.close(by_us=True, busy=False)
    await asyncio.sleep(2)
    assert fired == []
    assert counted(stats, "cluster.c.upstream_cx_") == {"destroy": 1, "destroy_local": 1}
    assert far.recv(1) == b""
    far.close()
