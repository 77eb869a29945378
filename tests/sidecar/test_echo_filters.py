import asyncio
import socket

import pytest

from agent.sidecar.client import Client
from agent.sidecar.echo_filters import DirectResponseFilter, EchoFilter
from agent.sidecar.model import DirectResponse
from agent.sidecar.wire import Wire
from tests.sidecar.leaping import now
from tests.sidecar.test_tcp_relay import Holding
from tests.sidecar.wires import client, drain, fill, pair, reset, tcp_connected, turns

pytestmark = pytest.mark.usefixtures("leaps")

BULK = b"".join(b"%07d\n" % number for number in range(200_000))


class Stand:
    def __init__(self, filter_: EchoFilter | DirectResponseFilter, kind: type[Wire] = Wire, held: bytes = b"") -> None:
        self.pair = pair(kind)
        if isinstance(self.pair.wire, Holding):
            self.pair.wire.held = held
        self.left: list[Client] = []
        self.client = client(self.pair.wire, self.left)
        filter_.arrived(is_secure=False)
        filter_.serve(self.client)
        filter_.left(is_secure=False)
        self.far = self.pair.far

    def is_over(self) -> bool:
        assert self.left in ([], [self.client])
        assert bool(self.left) is (self.pair.wire.socket.fileno() == -1)
        return bool(self.left)

    async def received(self, size: int) -> bytes:
        got = b""
        for _ in range(1000):
            await turns(2)
            got += drain(self.far)
            if len(got) >= size:
                break
        return got

    def close(self) -> None:
        self.client.session.abort()
        self.pair.close()


def direct(body: bytes, kind: type[Wire] = Wire) -> Stand:
    return Stand(DirectResponseFilter(DirectResponse(body)), kind)


# Echo


async def test_an_echo_is_what_was_sent() -> None:
    it = Stand(EchoFilter(100))
    for part in (b"hello", b"\0\xff"):
        it.far.send(part)
        await turns()
        assert drain(it.far) == part
    assert not it.is_over()
    it.close()


async def test_an_echo_ends_with_its_client() -> None:
    it = Stand(EchoFilter(100))
    it.far.send(b"last")
    it.far.shutdown(socket.SHUT_WR)
    await turns()
    assert drain(it.far) == b"last"
    assert it.far.recv(1) == b""
    assert it.is_over()
    it.close()


@pytest.mark.parametrize(
    ("limit", "parts"), [(3, [b"abc", b"de"]), (0, [b"a", b"b", b"c", b"d", b"e"]), (1 << 30, [b"abcde"])]
)
async def test_an_echo_reads_as_much_as_its_limit(limit: int, parts: list[bytes]) -> None:
    it = Stand(EchoFilter(limit))
    it.far.send(b"abcde")
    seen = []
    for _ in range(10):
        await asyncio.sleep(0)
        seen.append(drain(it.far))
    assert [each for each in seen if each] == parts
    it.close()


async def test_a_client_that_does_not_receive_is_not_read() -> None:
    it = Stand(EchoFilter(1 << 20))
    left, got = memoryview(BULK), b""
    while left:
        try:
            left = left[it.far.send(left) :]
        except BlockingIOError:
            before = len(left)
            await turns(20)
            try:
                left = left[it.far.send(left) :]
            except BlockingIOError:
                assert before == len(left)
            got += await it.received(1)
    assert got + await it.received(len(BULK) - len(got)) == BULK
    it.close()


async def test_bytes_held_back_below_are_echoed_without_an_event() -> None:
    it = Stand(EchoFilter(3), Holding, b"abcdefgh")
    await turns(20)
    assert drain(it.far) == b"abcdefgh"
    it.close()


async def test_bytes_held_back_below_are_echoed_after_a_full_socket() -> None:
    it = Stand(EchoFilter(3), Holding, b"abcdefgh")
    size = fill(it.pair.wire.socket)
    await turns(5)
    assert await it.received(size + 8) == bytes(size) + b"abcdefgh"
    it.close()


@pytest.mark.parametrize("state", ["reading", "writing"])
async def test_a_reset_ends_an_echo(state: str) -> None:
    near, far = tcp_connected()
    left: list[Client] = []
    served = client(Wire(near), left)
    EchoFilter(100).serve(served)
    if state == "writing":
        fill(near)
        far.send(b"x")
        await turns(20)
    reset(far)
    while not left:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert near.fileno() == -1


async def test_a_client_that_is_gone_while_bytes_are_held_ends_an_echo() -> None:
    it = Stand(EchoFilter(100))
    fill(it.pair.wire.socket)
    it.far.send(b"held")
    await turns()
    assert not asyncio.get_running_loop().remove_reader(it.pair.wire.fd), "nothing is read while it is held"
    it.far.close()
    await turns()
    assert it.is_over()
    it.close()


async def test_an_abort_ends_an_echo_once() -> None:
    it = Stand(EchoFilter(3), Holding, b"abcdefgh")
    number = it.pair.wire.fd
    it.client.session.abort()
    it.client.session.abort()
    assert it.is_over()
    await turns()
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(number)
    assert drain(it.far) == b""
    it.close()


# Direct responses


async def test_a_response_is_sent_and_its_end_too() -> None:
    it = direct(b"fixed")
    assert await it.received(5) == b"fixed"
    await turns()
    assert it.far.recv(1) == b""
    assert not it.is_over()
    it.far.close()
    await turns()
    assert it.is_over()
    assert now() == 0
    it.close()


async def test_an_empty_response_is_an_end() -> None:
    it = direct(b"")
    await turns()
    assert it.far.recv(1) == b""
    assert not it.is_over()
    it.far.close()
    await turns()
    assert it.is_over()
    it.close()


async def test_a_long_response_comes_at_the_pace_of_its_client() -> None:
    it = direct(BULK)
    await turns(20)
    assert await it.received(len(BULK)) == BULK
    await turns()
    assert it.far.recv(1) == b""
    it.close()


async def test_what_a_client_sends_is_discarded() -> None:
    it = direct(b"fixed")
    for _ in range(10):
        it.far.send(b"x" * 10_000)
        await turns()
    assert drain(it.far) == b"fixed"
    assert not it.is_over()
    it.close()


async def test_a_client_has_a_second_to_end_too() -> None:
    it = direct(b"fixed")
    await asyncio.sleep(0.9)
    it.far.send(b"still here")
    await turns()
    assert not it.is_over()
    await asyncio.sleep(0.2)
    assert it.is_over()
    assert now() == pytest.approx(1.1)
    it.close()


async def test_a_client_that_does_not_receive_is_waited_for() -> None:
    it = direct(BULK)
    await asyncio.sleep(1e6)
    assert not it.is_over()
    it.close()


async def test_a_client_that_is_gone_gets_nothing() -> None:
    for body in (b"fixed", b""):
        it = direct(body)
        it.far.close()
        await turns()
        assert it.is_over()
        it.close()


@pytest.mark.parametrize("error", [OSError("told by the test"), ValueError("told by the test")])
async def test_an_end_that_cannot_be_sent_closes_the_connection(error: Exception) -> None:
    class Broken(Wire):
        def end(self) -> bool:
            raise error

    it = direct(b"fixed", Broken)
    await turns()
    assert it.is_over()
    it.close()


async def test_a_reset_within_the_last_second_ends_it() -> None:
    near, far = tcp_connected()
    left: list[Client] = []
    served = client(Wire(near), left)
    DirectResponseFilter(DirectResponse(b"x")).serve(served)
    await turns()
    reset(far)
    while not left:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert now() == 0


@pytest.mark.parametrize("body", [b"", b"fixed", BULK])
@pytest.mark.parametrize("turn", [0, 1, 5])
async def test_an_abort_ends_a_response_once(body: bytes, turn: int) -> None:
    it = direct(body)
    number = it.pair.wire.fd
    await turns(turn)
    it.client.session.abort()
    assert it.is_over()
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(number)
    assert not loop.remove_writer(number)
    await asyncio.sleep(5)
    assert it.is_over()
    assert not [each for each in loop._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
    it.close()
