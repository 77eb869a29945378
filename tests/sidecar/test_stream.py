"""A stream over a pair of sockets: reads and writes that wait, watches that do not."""

import asyncio
import errno
from typing import NamedTuple

import pytest

from agent.sidecar.stream import Stream
from agent.sidecar.wire import Wire
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.wires import Pair, connected, drain, fill, pair, reset, tcp_connected, turns

pytestmark = pytest.mark.usefixtures("leaps")


class Stand(NamedTuple):
    stream: Stream
    pair: Pair
    stats: Writer

    def counted(self) -> tuple[int, int]:
        counters = self.stats.read().counters
        return counters["read"], counters["sent"]

    def close(self) -> None:
        self.stream.close()
        self.pair.close()


def stand(kind: type[Wire] = Wire) -> Stand:
    made, stats = pair(kind), Writer.private()
    return Stand(Stream(made.wire, stats.counter("read"), stats.counter("sent")), made, stats)


class Holding(Wire):
    """A wire as under TLS: what has come before is not to be seen by the kernel."""

    held = b""

    def receive(self, room: memoryview) -> int:
        if not self.held:
            return super().receive(room)
        size = len(self.held)
        room[:size], self.held = self.held, b""
        return size

    @property
    def holds_more(self) -> bool:
        return bool(self.held)


# Reading


async def test_bytes_that_are_there_are_read_at_once_and_counted() -> None:
    it = stand()
    it.pair.far.send(b"hello")
    assert await it.stream.read() == b"hello"
    assert it.counted() == (5, 0)
    it.close()


async def test_a_read_waits_for_bytes_and_for_the_end() -> None:
    it = stand()
    reading = asyncio.create_task(it.stream.read())
    await turns()
    assert not reading.done()
    it.pair.far.send(b"late")
    assert await reading == b"late"
    it.pair.far.close()
    assert await it.stream.read() == b""
    assert it.counted() == (4, 0)
    it.close()


async def test_a_read_returns_32_kb_at_most() -> None:
    it = stand()
    it.pair.far.send(bytes(32 << 10) + b"rest")
    assert await it.stream.read() == bytes(32 << 10)
    assert await it.stream.read() == b"rest"
    it.close()


async def test_a_connection_that_always_has_bytes_lets_others_run() -> None:
    it = stand()
    it.pair.far.send(bytes(5 * (32 << 10)))
    order: list[str] = []

    async def other() -> None:
        for _ in range(5):
            order.append("other")
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(5):
        await it.stream.read()
        order.append("read")
    assert order == ["read", *["other", "read"] * 4]
    await task
    it.close()


async def test_a_read_after_a_wait_does_not_give_way() -> None:
    it = stand()
    reading = asyncio.create_task(it.stream.read())
    await turns()
    it.pair.far.send(bytes(40 << 10))
    await reading
    ran: list[int] = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    await it.stream.read()
    assert not ran, "it had waited just before"
    it.pair.far.send(b"x")
    await it.stream.read()
    assert ran
    it.close()


async def test_a_read_ends_when_its_time_is_over() -> None:
    it = stand()
    with pytest.raises(TimeoutError):
        await it.stream.read(2.5)
    assert now() == 2.5
    it.pair.far.send(b"x")
    assert await it.stream.read(2.5) == b"x"
    it.close()


@pytest.mark.parametrize("within", [None, 0])
async def test_no_time_and_zero_are_no_limit(within: float | None) -> None:
    it = stand()
    asyncio.get_running_loop().call_later(1e6, it.pair.far.send, b"x")
    assert await it.stream.read(within) == b"x"
    assert now() == 1e6
    it.close()


async def test_a_read_in_time_leaves_no_timer() -> None:
    it = stand()
    loop = asyncio.get_running_loop()
    loop.call_later(1, it.pair.far.send, b"x")
    assert await it.stream.read(60) == b"x"
    assert not [each for each in loop._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
    assert not loop.remove_reader(it.pair.wire.fd)
    it.close()


async def test_a_reset_is_an_error_of_the_read() -> None:
    near, far = tcp_connected()
    stats = Writer.private()
    stream = Stream(Wire(near), stats.counter("read"), stats.counter("sent"))
    reset(far)
    with pytest.raises(ConnectionResetError):
        await stream.read()
    stream.close()


async def test_a_cancelled_read_loses_nothing() -> None:
    it = stand()
    reading = asyncio.create_task(it.stream.read())
    await turns()
    reading.cancel()
    it.pair.far.send(b"kept")
    await asyncio.gather(reading, return_exceptions=True)
    assert await it.stream.read() == b"kept"
    it.close()


async def test_bytes_that_come_as_the_time_ends_are_not_lost() -> None:
    it = stand()
    loop = asyncio.get_running_loop()
    loop.call_later(1, it.pair.far.send, b"x")
    reading = asyncio.create_task(it.stream.read(1))
    await asyncio.gather(reading, return_exceptions=True)
    assert (b"x" if reading.exception() else reading.result()) == b"x"
    if reading.exception():
        assert await it.stream.read() == b"x"
    it.close()


async def test_a_break_as_the_time_ends_is_the_break() -> None:
    it = stand()
    loop = asyncio.get_running_loop()
    reading = asyncio.create_task(it.stream.read(1))
    await turns()
    loop.call_at(1, it.stream.break_off, ConnectionAbortedError("cut"))
    with pytest.raises((ConnectionAbortedError, TimeoutError)):
        await reading
    it.close()


async def test_bytes_after_a_break_wake_nobody() -> None:
    it = stand()
    reading = asyncio.create_task(it.stream.read())
    await turns()
    it.pair.far.send(b"x")
    asyncio.get_running_loop().call_soon(it.stream.break_off, ConnectionAbortedError("cut"))
    with pytest.raises(ConnectionAbortedError):
        await reading
    it.close()


# Writing


async def test_a_write_sends_all_and_counts_it() -> None:
    it = stand()
    await it.stream.write(b"hello")
    assert it.pair.far.recv(100) == b"hello"
    assert it.counted() == (0, 5)
    await it.stream.write(b"")
    assert it.counted() == (0, 5)
    it.close()


async def test_a_write_waits_for_a_slow_peer_and_keeps_the_order() -> None:
    it = stand()
    data = b"".join(b"%07d\n" % number for number in range(200_000))
    writing = asyncio.create_task(it.stream.write(data))
    got = bytearray()
    while not writing.done():
        await turns(2)
        got += drain(it.pair.far)
    await writing
    assert got + drain(it.pair.far) == data
    assert it.counted() == (0, len(data))
    it.close()


async def test_a_write_ends_when_nothing_is_received_in_time() -> None:
    it = stand()
    fill(it.pair.wire.socket)
    with pytest.raises(TimeoutError):
        await it.stream.write(b"x", 3)
    assert now() == 3
    it.close()


async def test_each_part_that_a_peer_receives_gives_a_write_new_time() -> None:
    it = stand()
    size = fill(it.pair.wire.socket)
    writing = asyncio.create_task(it.stream.write(bytes(3 * size), 10))
    for _ in range(100):
        await asyncio.sleep(9)
        drain(it.pair.far)
        if writing.done():
            break
    await writing
    assert now() > 20
    it.close()


async def test_a_write_to_nobody_is_an_error() -> None:
    it = stand()
    it.pair.far.close()
    with pytest.raises(BrokenPipeError):
        await it.stream.write(b"x")
    it.close()


async def test_a_cancelled_write_watches_the_socket_no_more() -> None:
    it = stand()
    fill(it.pair.wire.socket)
    writing = asyncio.create_task(it.stream.write(b"x"))
    await turns()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert not asyncio.get_running_loop().remove_writer(it.pair.wire.fd)
    it.close()


# Breaking off


async def test_a_break_ends_the_read_that_waits_and_all_that_follows() -> None:
    it = stand()
    reading = asyncio.create_task(it.stream.read())
    await turns()
    it.stream.break_off(ConnectionAbortedError("first"))
    it.stream.break_off(ConnectionAbortedError("second"))
    with pytest.raises(ConnectionAbortedError, match="first"):
        await reading
    it.pair.far.send(b"too late")
    for again in (it.stream.read(), it.stream.write(b"x")):
        with pytest.raises(ConnectionAbortedError, match="first"):
            await again
    assert drain(it.pair.far) == b""
    assert not it.stream.is_silent()
    it.close()


async def test_a_break_twice_before_the_reader_runs_is_one() -> None:
    it = stand()
    reading = asyncio.create_task(it.stream.read())
    await turns()
    it.pair.far.send(b"x")
    await asyncio.sleep(0)
    it.stream.break_off(ConnectionAbortedError("cut"))
    with pytest.raises(ConnectionAbortedError):
        await reading
    it.close()


async def test_what_was_received_before_a_break_is_still_read() -> None:
    it = stand()
    it.pair.far.send(b"kept")
    assert not it.stream.is_silent()
    it.stream.break_off(ConnectionAbortedError("cut"))
    assert await it.stream.read() == b"kept"
    with pytest.raises(ConnectionAbortedError):
        await it.stream.read()
    it.close()


# Watching


async def test_a_watch_reports_the_end_once() -> None:
    it = stand()
    ended: list[int] = []
    it.stream.watch(lambda: ended.append(1))
    await turns()
    assert not ended
    it.pair.far.close()
    await turns()
    assert ended == [1]
    it.close()


async def test_a_watch_takes_a_reset_for_an_end() -> None:
    near, far = tcp_connected()
    stats = Writer.private()
    stream = Stream(Wire(near), stats.counter("read"), stats.counter("sent"))
    ended: list[int] = []
    stream.watch(lambda: ended.append(1))
    reset(far)
    while not ended:  # noqa: ASYNC110
        await asyncio.sleep(0)
    stream.close()


async def test_bytes_end_a_watch_and_are_kept_for_the_next_read() -> None:
    it = stand()
    ended: list[int] = []
    it.stream.watch(lambda: ended.append(1))
    it.pair.far.send(b"early")
    await turns()
    assert it.counted() == (5, 0)
    it.pair.far.close()
    await turns()
    assert not ended
    assert await it.stream.read() == b"early"
    assert await it.stream.read() == b""
    assert it.counted() == (5, 0)
    it.close()


async def test_two_watches_in_a_row_keep_the_bytes_of_both() -> None:
    it = stand()
    for part in (b"one ", b"two"):
        it.stream.watch(lambda: None)
        it.pair.far.send(part)
        await turns()
    assert await it.stream.read() == b"one two"
    it.close()


@pytest.mark.parametrize("how", ["unwatch", "read"])
async def test_a_watch_that_is_over_reports_nothing(how: str) -> None:
    it = stand()
    ended: list[int] = []
    it.stream.watch(lambda: ended.append(1))
    if how == "read":
        it.pair.far.send(b"x")
        await it.stream.read()
    else:
        it.stream.unwatch()
        it.stream.unwatch()
        assert not asyncio.get_running_loop().remove_reader(it.pair.wire.fd)
    it.pair.far.close()
    await turns()
    assert not ended
    it.close()


async def test_a_watch_sees_what_the_kernel_does_not_report() -> None:
    it = stand(Holding)
    wire = it.pair.wire
    assert isinstance(wire, Holding)
    wire.held = b"record"
    it.stream.watch(lambda: None)
    await turns()
    assert wire.held == b""
    assert await it.stream.read() == b"record"
    it.close()


async def test_a_look_that_comes_after_the_watch_changes_nothing() -> None:
    it = stand(Holding)
    wire = it.pair.wire
    assert isinstance(wire, Holding)
    wire.held = b"record"
    it.stream.watch(lambda: None)
    it.stream.unwatch()
    await turns()
    assert wire.held == b"record"
    it.close()


async def test_a_watch_that_is_woken_for_nothing_goes_on() -> None:
    class Spurious(Wire):
        wakes = 1

        def receive(self, room: memoryview) -> int:
            if self.wakes:
                self.wakes -= 1
                return -1
            return super().receive(room)

    it = stand(Spurious)
    ended: list[int] = []
    it.stream.watch(lambda: ended.append(1))
    it.pair.far.close()
    await turns()
    assert ended == [1]
    it.close()


async def test_without_a_watch_nothing_is_read_ahead() -> None:
    it = stand()
    it.pair.far.send(b"x")
    await turns()
    assert it.counted() == (0, 0)
    it.close()


# Silence


async def test_silence_is_neither_bytes_nor_an_end_nor_an_error() -> None:
    it = stand()
    assert it.stream.is_silent()
    it.pair.far.send(b"!")
    assert not it.stream.is_silent()
    assert it.counted() == (1, 0)
    assert not it.stream.is_silent(), "what it sent is not read yet"
    assert await it.stream.read() == b"!"
    assert it.stream.is_silent()
    it.pair.far.close()
    assert not it.stream.is_silent()
    assert it.counted() == (1, 0)
    it.close()


async def test_a_broken_connection_is_not_silent() -> None:
    class Broken(Wire):
        def receive(self, room: memoryview) -> int:  # noqa: ARG002
            raise ConnectionResetError(errno.ECONNRESET, "reset")

    it = stand(Broken)
    assert not it.stream.is_silent()
    it.close()


# Closing


async def test_closing_ends_the_watch_and_the_connection() -> None:
    near, far = connected()
    stats = Writer.private()
    stream = Stream(Wire(near), stats.counter("read"), stats.counter("sent"))
    stream.watch(lambda: None)
    descriptor = near.fileno()
    stream.close()
    assert not asyncio.get_running_loop().remove_reader(descriptor)
    assert far.recv(1) == b""
    assert near.fileno() == -1
    far.close()
