"""TCP through the data plane: both directions, ends, resets, clients that do not read, missing clusters."""

import asyncio
import os
import socket

import pytest

from agent.sidecar.model import DirectResponse, Echo, Pipe, SocketAddress, TcpProxy
from tests.sidecar.stand import Stand, Streams, at_rest, cluster, drained, echo, leave, listener, origin, push, standing

PROXY = TcpProxy("t", "c")
BULK = os.urandom(1 << 20) * 5


def nowhere() -> SocketAddress:
    """Return an address that refuses: its port is bound without listening."""
    return SocketAddress("127.0.0.1", 1)


async def sent(streams: Streams, data: bytes) -> None:
    streams[1].write(data)
    await streams[1].drain()


async def test_bytes_both_ways_unchanged() -> None:
    async with origin(echo) as address, standing([listener(PROXY)], [cluster(address)]) as stand:
        reader, writer = await stand.connect()
        writer.write(BULK)
        writer.write_eof()
        assert await reader.read(-1) == BULK
        await leave((reader, writer))
        await stand.until("cluster.c.upstream_cx_active", 0)
        for name in ("tcp.t.downstream_cx_rx_bytes_total", "cluster.c.upstream_cx_rx_bytes_total"):
            assert stand.stat(name) == len(BULK)


async def test_an_end_of_one_direction_leaves_the_other_open() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = await reader.read(-1)
        writer.write(b"%d bytes" % len(whole))
        await writer.drain()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        taken.set_result(await reader.read(-1))

    taken = asyncio.get_running_loop().create_future()
    listeners = [listener(TcpProxy("t", "late"), "late"), listener(TcpProxy("t", "early"), "early")]
    async with origin(late) as first, origin(early) as second:
        clusters = [cluster(first, name="late"), cluster(second, name="early")]
        async with standing(listeners, clusters) as stand:
            reader, writer = await stand.connect("late")
            writer.write(b"x" * 1000)
            writer.write_eof()
            assert await reader.read(-1) == b"1000 bytes"
            await leave((reader, writer))
            reader, writer = await stand.connect("early")
            assert await reader.read(-1) == b"bye"
            writer.write(b"still here")
            await leave((reader, writer))
            assert await taken == b"still here"


async def test_a_client_that_never_reads_stops_only_its_upstream() -> None:
    pushed = 0
    stalled = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pushed
        assert await reader.read(5) == b"flood"
        writer.transport.set_write_buffer_limits(high=0)
        while True:
            writer.write(BULK[: 1 << 20])
            try:
                await drained(writer)
            except TimeoutError:
                stalled.set()
                return
            pushed += 1 << 20

    listeners = [listener(PROXY), listener(Echo(), "other")]
    async with origin(flood) as address, standing(listeners, [cluster(address)]) as stand:
        stuck = await asyncio.get_running_loop().run_in_executor(
            None, socket.create_connection, ("127.0.0.1", stand.ports["l"])
        )
        stuck.sendall(b"flood")
        await stalled.wait()
        assert pushed < 32 << 20
        assert stand.stat("tcp.t.downstream_flow_control_paused_reading_total") == 0
        reader, writer = await stand.connect("other")
        await sent((reader, writer), b"ping")
        assert await reader.readexactly(4) == b"ping"
        await leave((reader, writer))
        await at_rest()
        stuck.close()


async def test_an_upstream_that_never_reads_stops_its_client() -> None:
    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with origin(deaf) as address, standing([listener(PROXY)], [cluster(address)]) as stand:
        _, writer = await stand.connect()
        writer.transport.set_write_buffer_limits(high=0)
        with pytest.raises(TimeoutError):
            await push(writer, 32 << 20)
        assert stand.stat("tcp.t.downstream_flow_control_paused_reading_total") > 0
        writer.transport.abort()


async def test_a_broken_upstream_ends_its_client_after_what_it_said() -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BULK)
        await writer.drain()

    async with origin(breaks) as address, standing([listener(PROXY)], [cluster(address)]) as stand:
        reader, writer = await stand.connect()
        assert len(await reader.readexactly(1 << 20)) == 1 << 20
        await leave((reader, writer))
        await stand.until("cluster.c.upstream_cx_active", 0)


async def test_a_client_that_breaks_takes_its_upstream_along() -> None:
    async with origin(echo) as address, standing([listener(PROXY)], [cluster(address)]) as stand:
        reader, writer = await stand.connect()
        await sent((reader, writer), b"hello")
        await reader.readexactly(5)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        await stand.until("cluster.c.upstream_cx_active", 0)
        assert stand.stat("cluster.c.upstream_cx_destroy_local") == 1


async def test_silence_ends_a_connection() -> None:
    quiet = TcpProxy("t", "c", idle_timeout=0.1)
    async with origin(echo) as address, standing([listener(quiet)], [cluster(address)]) as stand:
        reader, writer = await stand.connect()
        assert await reader.read() == b""
        await leave((reader, writer))
        assert stand.stat("tcp.t.idle_timeout") == 1


async def test_endpoints_are_taken_in_turn() -> None:
    async def named(name: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        await writer.drain()
        writer.write_eof()

    said = []
    async with (
        origin(lambda _, w: named(b"1", w)) as one,
        origin(lambda _, w: named(b"2", w)) as two,
        standing([listener(PROXY)], [cluster(one, two)]) as stand,
    ):
        for _ in range(4):
            reader, writer = await stand.connect()
            said.append(await reader.read(1))
            await leave((reader, writer))
    assert said == [b"1", b"2", b"1", b"2"]


async def test_more_attempts_reach_the_endpoint_that_is_there() -> None:
    patient = TcpProxy("t", "c", max_connect_attempts=2)
    async with origin(echo) as address, standing([listener(patient)], [cluster(nowhere(), address)]) as stand:
        streams = await stand.connect()
        await sent(streams, b"hello")
        assert await streams[0].readexactly(5) == b"hello"
        await leave(streams)
        assert stand.stat("cluster.c.upstream_cx_connect_fail") == 1
        assert stand.stat("cluster.c.upstream_cx_connect_attempts_exceeded") == 0


@pytest.mark.parametrize(
    ("endpoints", "counted"),
    [((), "upstream_cx_none_healthy"), ((nowhere(),), "upstream_cx_connect_attempts_exceeded")],
)
async def test_without_an_upstream_the_client_is_closed(endpoints: tuple[SocketAddress, ...], counted: str) -> None:
    async with standing([listener(PROXY)], [cluster(*endpoints)]) as stand:
        reader, writer = await stand.connect()
        assert await reader.read() == b""
        await leave((reader, writer))
        assert stand.stat(f"cluster.c.{counted}") == 1


async def test_an_upstream_that_does_not_answer_in_time_is_given_up() -> None:
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = [socket.create_connection(full.getsockname())]  # its queue holds one; further clients get no answer
    try:
        address = SocketAddress(*full.getsockname())
        async with standing([listener(PROXY)], [cluster(address, within=0.2)]) as stand:
            reader, writer = await stand.connect()
            assert await reader.read() == b""
            await leave((reader, writer))
            assert stand.stat("cluster.c.upstream_cx_connect_timeout") == 1
    finally:
        for each in (*waiting, full):
            each.close()


async def test_an_endpoint_may_be_a_unix_socket() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo(reader, writer)
        writer.close()

    path = f"@sidecar-test-{os.getpid()}"
    server = await asyncio.start_unix_server(once, f"\0{path[1:]}")
    async with standing([listener(PROXY)], [cluster(Pipe(path))]) as stand:
        reader, writer = await stand.connect()
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read(-1) == b"hello"
        await leave((reader, writer))
        await stand.until("cluster.c.upstream_cx_active", 0)
    server.close()
    await server.wait_closed()


async def test_echo_answers_an_end_with_an_end() -> None:
    async with standing([listener(Echo())]) as stand:
        reader, writer = await stand.connect()
        task = asyncio.create_task(reader.read(-1))
        writer.write(BULK)
        writer.write_eof()
        assert await task == BULK
        await leave((reader, writer))


async def test_a_direct_response_is_whole_even_for_a_client_that_talks() -> None:
    async with standing([listener(DirectResponse(BULK))]) as stand:
        reader, writer = await stand.connect()
        writer.write(b"x" * 100_000)
        assert await reader.read(-1) == BULK
        await leave((reader, writer))


async def test_closing_cuts_every_state_of_a_connection() -> None:
    listeners = [listener(PROXY), listener(Echo(), "echo"), listener(DirectResponse(b"x"), "direct")]
    async with origin(echo) as address, standing(listeners, [cluster(address)]) as stand:
        open_ones = [await stand.connect(name) for name in stand.ports for _ in range(3)]
        await stand.until("tcp.t.downstream_cx_total", 3)
        await stand.traffic.close()
        for reader, writer in open_ones:
            await reader.read()
            await leave((reader, writer))


async def counted_in(stand: Stand, name: str, value: int) -> None:
    await stand.until(f"listener.127.0.0.1_{stand.ports['l']}.{name}", value)


async def test_connections_are_counted_from_accept_to_end() -> None:
    async with standing([listener(Echo())]) as stand:
        streams = [await stand.connect() for _ in range(3)]
        await counted_in(stand, "downstream_cx_active", 3)
        assert stand.traffic.connections == 3
        for each in streams:
            await leave(each)
        await counted_in(stand, "downstream_cx_destroy", 3)
        assert stand.of_listener("downstream_cx_active") == 0
        assert stand.of_listener("worker_0.downstream_cx_total") == 3
