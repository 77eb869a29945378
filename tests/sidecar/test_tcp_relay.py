"""A relay on socket pairs, where the order of what happens is the test's."""

import asyncio
import socket

import pytest

from agent.sidecar.tcp_relay import SCRATCH, Relay
from agent.sidecar.wire import Wire
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.wires import Pair, drain, fill, pair, reset, tcp_connected, turns

pytestmark = pytest.mark.usefixtures("leaps")

NAMES = ("up", "down", "paused", "resumed")


class Stand:
    """A relay between a client and an upstream; `ends` is what it told: whether it was idle, and who ended first."""

    def __init__(
        self, client: Pair | None = None, upstream: Pair | None = None, idle: float = 0, limit: int = 1 << 20
    ) -> None:
        self.client, self.upstream = client or pair(), upstream or pair()
        self.stats = Writer.private()
        counters = [self.stats.counter(name) for name in NAMES]
        self.ends: list[tuple[bool, bool]] = []
        self.relay = Relay(
            self.client.wire,
            self.upstream.wire,
            limit=limit,
            idle=idle,
            counters=((counters[0],), (counters[1],)),
            pauses=(counters[2], counters[3]),
            over=self._over,
        )

    def _over(self, relay: Relay, idle: bool, upstream_first: bool) -> None:
        assert relay is self.relay
        self.ends.append((idle, upstream_first))

    def counted(self) -> tuple[int, ...]:
        counters = self.stats.read().counters
        return tuple(counters[name] for name in NAMES)

    def is_closed(self) -> bool:
        """Whether both wires are closed, and nothing is watched any more."""
        return self.client.wire.socket.fileno() == self.upstream.wire.socket.fileno() == -1

    def close(self) -> None:
        self.relay.abort()
        self.client.close()
        self.upstream.close()


class Holding(Wire):
    """A wire as under TLS: what has come before is not to be seen by the kernel."""

    held: bytes = b""

    def receive(self, room: memoryview) -> int:
        if not self.held:
            return super().receive(room)
        part = self.held[: len(room)]
        room[: len(part)], self.held = part, self.held[len(part) :]
        return len(part)

    @property
    def holds_more(self) -> bool:
        return bool(self.held)


def holding(data: bytes) -> Pair:
    made = pair(Holding)
    assert isinstance(made.wire, Holding)
    made.wire.held = data
    return made


async def test_bytes_pass_both_ways_and_are_counted() -> None:
    it = Stand()
    it.client.far.send(b"request")
    it.upstream.far.send(b"answer!!")
    await turns()
    assert (drain(it.upstream.far), drain(it.client.far)) == (b"request", b"answer!!")
    assert it.counted() == (7, 8, 0, 0)
    assert it.ends == []
    it.close()


async def test_no_more_than_the_limit_is_read_at_once() -> None:
    it = Stand(limit=3)
    it.client.far.send(b"abcdefgh")
    seen = []
    for _ in range(6):
        await asyncio.sleep(0)
        seen.append(drain(it.upstream.far))
    assert [each for each in seen if each] == [b"abc", b"def", b"gh"]
    it.close()


@pytest.mark.parametrize(("limit", "most"), [(0, 1), (-5, 1), (1 << 30, 256 << 10), (256 << 10, 256 << 10)])
async def test_a_limit_lies_between_one_byte_and_the_buffer(limit: int, most: int) -> None:
    assert len(SCRATCH) == 256 << 10
    it = Stand(limit=limit)
    assert (it.relay.up.limit, it.relay.down.limit) == (most, most)
    it.close()


# Ends


@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_an_end_of_one_direction_leaves_the_other_open(first: str) -> None:
    it = Stand()
    one, other = (it.client, it.upstream) if first == "client" else (it.upstream, it.client)
    one.far.send(b"last")
    one.far.shutdown(socket.SHUT_WR)
    await turns()
    assert drain(other.far) == b"last"
    assert other.far.recv(1) == b""
    other.far.send(b"still here")
    await turns()
    assert one.far.recv(100) == b"still here"
    assert it.ends == []
    other.far.shutdown(socket.SHUT_WR)
    await turns()
    assert it.ends == [(False, first == "upstream")]
    assert it.is_closed()
    it.close()


async def test_an_end_of_one_direction_does_not_spin() -> None:
    it = Stand()
    it.client.far.shutdown(socket.SHUT_WR)
    await turns()
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(it.client.wire.fd)
    assert not loop.remove_writer(it.upstream.wire.fd)
    it.close()


async def test_what_is_held_goes_out_after_the_end_of_its_source() -> None:
    it = Stand()
    size = fill(it.upstream.wire.socket)
    it.client.far.send(b"last words")
    it.client.far.shutdown(socket.SHUT_WR)
    await turns()
    assert it.ends == []
    got = b""
    for _ in range(100):
        await turns(2)
        got += drain(it.upstream.far)
    assert got == bytes(size) + b"last words"
    assert it.upstream.far.recv(1) == b""
    it.upstream.far.close()
    await turns()
    assert it.ends == [(False, False)]
    it.close()


async def test_an_end_that_does_not_fit_is_repeated() -> None:
    class Slow(Wire):
        tries = 0

        def end(self) -> bool:
            self.tries += 1
            return self.tries >= 3 and super().end()

    it = Stand(upstream=pair(Slow))
    it.client.far.shutdown(socket.SHUT_WR)
    await turns()
    assert it.upstream.far.recv(1) == b""
    assert isinstance(it.upstream.wire, Slow)
    assert it.upstream.wire.tries == 3
    it.close()


async def test_an_end_that_cannot_be_sent_is_a_break() -> None:
    class Broken(Wire):
        def end(self) -> bool:
            raise ValueError("told by the test")

    it = Stand(client=pair(Broken))
    it.upstream.far.shutdown(socket.SHUT_WR)
    await turns()
    assert it.ends == [(False, False)]
    assert it.is_closed()
    it.close()


# Slow sides


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_full_sink_stops_its_source_and_loses_nothing(direction: str) -> None:
    it = Stand()
    source, sink = (it.client, it.upstream) if direction == "up" else (it.upstream, it.client)
    data = b"".join(b"%07d\n" % number for number in range(200_000))
    left, got = memoryview(data), b""
    is_blocked = False
    while left:
        try:
            left = left[source.far.send(left) :]
            is_blocked = False
        except BlockingIOError:
            await turns(3)
            got += drain(sink.far) if is_blocked else b""
            is_blocked = not is_blocked
    source.far.shutdown(socket.SHUT_WR)
    for _ in range(1000):
        await turns(2)
        got += drain(sink.far)
        if len(got) == len(data):
            break
    assert got == data
    counted = it.counted()
    assert counted[0 if direction == "up" else 1] == len(data)
    assert counted[2] == counted[3]
    assert (counted[2] > 0) is (direction == "up")
    it.close()


async def test_a_full_sink_does_not_stop_the_other_direction() -> None:
    it = Stand()
    fill(it.upstream.wire.socket)
    it.client.far.send(b"held")
    await turns()
    it.upstream.far.send(b"answer")
    await turns()
    assert drain(it.client.far) == b"answer"
    assert it.counted()[2:] == (1, 0)
    it.client.far.send(b"more")
    await turns()
    assert it.counted()[0] == 4, "nothing more is read"
    it.close()


async def test_bytes_held_back_below_are_passed_on_without_an_event() -> None:
    it = Stand(client=holding(b"x" * 10), limit=3)
    await turns(20)
    assert drain(it.upstream.far) == b"x" * 10
    it.close()


async def test_bytes_held_back_below_wait_for_a_full_sink() -> None:
    it = Stand(client=holding(b"x" * 10), limit=3)
    size = fill(it.upstream.wire.socket)
    await turns(20)
    got = b""
    for _ in range(50):
        got += drain(it.upstream.far)
        await turns(2)
    assert got == bytes(size) + b"x" * 10
    it.close()


async def test_bytes_held_back_below_are_forgotten_after_the_end() -> None:
    it = Stand(client=holding(b"x" * 10))
    it.relay.abort()
    await turns()
    assert drain(it.upstream.far) == b""
    assert it.ends == [(False, False)]
    it.close()


# Breaks


async def test_what_an_upstream_said_before_it_broke_reaches_the_client() -> None:
    it = Stand()
    it.client.far.send(b"a request that nobody reads")
    it.upstream.far.send(b"answer")
    it.upstream.far.close()
    await turns(20)
    assert it.ends == [(False, True)]
    assert it.client.far.recv(100) == b"answer"
    assert it.client.far.recv(100) == b""
    it.close()


async def test_a_client_is_not_read_any_more_once_its_upstream_takes_nothing() -> None:
    class Deaf(Wire):
        def send(self, data: memoryview | bytes) -> int:  # noqa: ARG002
            raise BrokenPipeError

    it = Stand(upstream=pair(Deaf))
    it.client.far.send(b"lost")
    await turns()
    it.client.far.send(b"lost too")
    await turns()
    assert it.counted()[0] == 4
    it.upstream.far.send(b"answer")
    await turns()
    assert drain(it.client.far) == b"answer"
    assert it.ends == []
    it.upstream.far.shutdown(socket.SHUT_WR)
    await turns()
    assert it.ends == [(False, True)]
    it.close()


async def test_a_deaf_upstream_that_has_ended_is_over() -> None:
    class Deaf(Wire):
        def send(self, data: memoryview | bytes) -> int:  # noqa: ARG002
            raise BrokenPipeError

    it = Stand(upstream=pair(Deaf))
    it.upstream.far.shutdown(socket.SHUT_WR)
    await turns()
    it.client.far.send(b"lost")
    await turns()
    assert it.ends == [(False, True)]
    it.close()


async def test_a_held_part_that_breaks_its_upstream_is_dropped() -> None:
    it = Stand()
    fill(it.upstream.wire.socket)
    it.client.far.send(b"held")
    await turns()
    it.upstream.far.send(b"answer")
    it.upstream.far.close()
    await turns(20)
    assert it.ends == [(False, True)]
    assert drain(it.client.far) == b"answer"
    it.close()


@pytest.mark.parametrize(("who", "upstream_first"), [("client", False), ("upstream", True)])
async def test_a_reset_ends_both_sides(who: str, upstream_first: bool) -> None:
    near, far = tcp_connected()
    broken = Pair(Wire(near), far)
    it = Stand(client=broken) if who == "client" else Stand(upstream=broken)
    reset(far)
    while not it.ends:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert it.ends == [(False, upstream_first)]
    assert it.is_closed()
    it.close()


async def test_a_client_that_is_gone_ends_an_answer() -> None:
    it = Stand()
    it.client.far.close()
    it.upstream.far.send(b"answer")
    await turns()
    assert it.ends == [(False, False)]
    it.close()


async def test_after_the_upstream_s_end_a_client_s_break_is_still_the_second() -> None:
    near, far = tcp_connected()
    it = Stand(client=Pair(Wire(near), far))
    it.upstream.far.shutdown(socket.SHUT_WR)
    await turns()
    reset(far)
    while not it.ends:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert it.ends == [(False, True)]
    it.close()


# Time


async def test_silence_in_both_directions_ends_a_relay() -> None:
    it = Stand(idle=10)
    await asyncio.sleep(9.9)
    assert it.ends == []
    await asyncio.sleep(0.2)
    assert it.ends == [(True, False)]
    assert it.is_closed()
    it.close()


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_each_byte_begins_the_silence_anew(who: str) -> None:
    it = Stand(idle=10)
    far = it.client.far if who == "client" else it.upstream.far
    for _ in range(5):
        await asyncio.sleep(7)
        far.send(b"x")
    await turns()
    await asyncio.sleep(9.9)
    assert it.ends == []
    await asyncio.sleep(0.2)
    assert it.ends == [(True, False)]
    assert now() == pytest.approx(45.1)
    it.close()


async def test_bytes_that_are_taken_begin_the_silence_anew() -> None:
    it = Stand(idle=10)
    fill(it.upstream.wire.socket)
    it.client.far.send(b"held")
    await asyncio.sleep(8)
    drain(it.upstream.far)
    await turns()
    await asyncio.sleep(9)
    assert it.ends == []
    await asyncio.sleep(2)
    assert it.ends == [(True, False)]
    it.close()


async def test_without_a_limit_a_relay_may_be_silent_for_ever() -> None:
    it = Stand(idle=0)
    await asyncio.sleep(1e6)
    assert it.ends == []
    it.close()


async def test_an_end_leaves_no_timer_and_no_watch() -> None:
    it = Stand(idle=10)
    numbers = [it.client.wire.fd, it.upstream.wire.fd]
    it.relay.abort()
    it.relay.abort()
    assert it.ends == [(False, False)]
    loop = asyncio.get_running_loop()
    assert not any(loop.remove_reader(number) or loop.remove_writer(number) for number in numbers)
    await asyncio.sleep(20)
    assert it.ends == [(False, False)]
    it.close()


async def test_a_break_after_the_end_is_nothing() -> None:
    it = Stand()
    it.relay.abort()
    it.relay.broken(it.relay.up, at_source=True)
    assert it.ends == [(False, False)]
    it.close()
