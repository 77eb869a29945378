import asyncio
import socket

import pytest

from agent.sidecar.client_hello import LONGEST, RAW, Hello
from agent.sidecar.tls_inspector import HelloError, Inspection
from tests.sidecar.leaping import now
from tests.sidecar.test_client_hello import client_hello
from tests.sidecar.wires import connected, reset, tcp_connected, turns

pytestmark = pytest.mark.usefixtures("leaps")

HELLO = client_hello("a.example", ("h2",))
FOUND = Hello(is_tls=True, server_name="a.example", protocols=("h2",))


class Stand:
    def __init__(self, kind: str, within: float = 0) -> None:
        self.near, self.far = tcp_connected() if kind == "tcp" else connected()
        self.results: list[Hello | OSError] = []
        self.inspection = Inspection(self.near, self.results.append, within=within)

    async def result(self) -> Hello | OSError:
        """The result, without time passing for TCP."""
        for _ in range(1000):
            if self.results:
                [one] = self.results
                return one
            await asyncio.sleep(0)
        raise AssertionError("nothing is told")

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture(params=["tcp", "unix"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def settled(stand: Stand, kind: str) -> None:
    """Let everything happen: a Unix socket is polled every 10 ms."""
    await (asyncio.sleep(0.011) if kind == "unix" else turns(30))


async def test_a_hello_is_found_and_stays_to_be_read(kind: str) -> None:
    stand = Stand(kind)
    stand.far.send(HELLO + b"more")
    assert await stand.result() == FOUND
    assert stand.near.recv(1 << 16) == HELLO + b"more"
    stand.close()


async def test_what_is_no_tls_is_told_at_the_first_byte(kind: str) -> None:
    stand = Stand(kind)
    stand.far.send(b"G")
    assert await stand.result() == RAW
    assert stand.near.recv(10) == b"G"
    stand.close()


async def test_a_hello_may_come_in_pieces(kind: str) -> None:
    stand = Stand(kind)
    for at in range(0, len(HELLO), 50):
        assert stand.results == []
        stand.far.send(HELLO[at : at + 50])
        await settled(stand, kind)
    assert await stand.result() == FOUND
    stand.close()


async def test_one_byte_of_a_hello_is_not_its_end(kind: str) -> None:
    stand = Stand(kind)
    stand.far.send(HELLO[:1])
    await settled(stand, kind)
    assert stand.results == []
    stand.far.send(HELLO[1:])
    await settled(stand, kind)
    assert await stand.result() == FOUND
    stand.close()


def test_an_error_tells_its_reason() -> None:
    told = {str(HelloError(is_endless=each)) for each in (True, False)}
    assert len(told) == 2
    assert "" not in told


async def test_afterwards_every_byte_wakes_its_reader(kind: str) -> None:
    stand = Stand(kind)
    stand.far.send(HELLO[:-1])
    await settled(stand, kind)
    stand.far.send(HELLO[-1:])
    await settled(stand, kind)
    assert await stand.result() == FOUND
    assert stand.near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert not asyncio.get_running_loop().remove_reader(stand.near.fileno())
    stand.close()


async def test_a_part_wakes_the_loop_only_for_more() -> None:
    stand = Stand("tcp")
    stand.far.send(HELLO[:20])
    await turns(30)
    assert stand.near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 21
    stand.inspection.cancel()
    stand.close()


@pytest.mark.parametrize("size", [0, 1, 20])
async def test_a_client_that_leaves_early_is_an_error(kind: str, size: int) -> None:
    stand = Stand(kind)
    if size:
        stand.far.send(HELLO[:size])
        await settled(stand, kind)
    stand.far.close()
    await settled(stand, kind)
    found = await stand.result()
    assert isinstance(found, HelloError)
    assert not found.is_endless
    stand.close()


async def test_a_client_that_leaves_with_its_first_bytes_is_an_error(kind: str) -> None:
    stand = Stand(kind)
    stand.far.send(HELLO[:20])
    stand.far.shutdown(socket.SHUT_WR)
    await settled(stand, kind)
    found = await stand.result()
    assert isinstance(found, HelloError)
    assert not found.is_endless
    assert now() < 0.02
    stand.close()


async def test_a_whole_hello_counts_though_its_client_sends_no_more(kind: str) -> None:
    stand = Stand(kind)
    stand.far.send(HELLO)
    stand.far.shutdown(socket.SHUT_WR)
    assert await stand.result() == FOUND
    stand.close()


async def test_a_hello_without_an_end_is_an_error(kind: str) -> None:
    stand = Stand(kind)
    for size in (LONGEST - 1, 1):
        part = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" if size > 1 else b""
        stand.far.send(part + bytes(size - len(part)))
        await settled(stand, kind)
        assert size == 1 or stand.results == []
    found = await stand.result()
    assert isinstance(found, HelloError)
    assert found.is_endless
    stand.close()


async def test_silence_ends_after_its_time(kind: str) -> None:
    stand = Stand(kind, within=4)
    stand.far.send(HELLO[:20])
    await asyncio.sleep(3.95)
    assert stand.results == []
    await asyncio.sleep(0.1)
    [found] = stand.results
    assert isinstance(found, TimeoutError)
    assert not isinstance(found, HelloError)
    await asyncio.sleep(1)
    stand.far.send(HELLO[20:])
    await asyncio.sleep(1)
    assert len(stand.results) == 1
    assert stand.near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    stand.close()


async def test_without_a_limit_it_waits(kind: str) -> None:
    stand = Stand(kind)
    await asyncio.sleep(1e5)
    assert stand.results == []
    stand.far.send(HELLO)
    assert await stand.result() == FOUND
    stand.close()


async def test_a_result_in_time_leaves_no_timer(kind: str) -> None:
    stand = Stand(kind, within=4)
    stand.far.send(HELLO)
    await stand.result()
    assert not [each for each in asyncio.get_running_loop()._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
    await asyncio.sleep(10)
    assert stand.results == [FOUND]
    stand.close()


async def test_a_reset_is_the_error() -> None:
    stand = Stand("tcp")
    reset(stand.far)
    assert isinstance(await stand.result(), ConnectionResetError)
    stand.close()


@pytest.mark.parametrize("size", [0, 20])
async def test_a_cancelled_inspection_tells_nothing(kind: str, size: int) -> None:
    stand = Stand(kind, within=4)
    if size:
        stand.far.send(HELLO[:size])
        await settled(stand, kind)
    stand.inspection.cancel()
    stand.far.send(HELLO[size:])
    await asyncio.sleep(10)
    assert stand.results == []
    stand.close()


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_unix_socket_may_be_closed_during_a_pause(is_cancelled: bool) -> None:
    stand = Stand("unix")
    stand.far.send(HELLO[:20])
    await turns()
    if is_cancelled:
        stand.inspection.cancel()
    stand.near.close()
    await asyncio.sleep(1)
    assert stand.results == []
    stand.close()


async def test_a_wake_without_bytes_is_no_result() -> None:
    stand = Stand("tcp")
    stand.inspection._look()
    assert stand.results == []
    stand.near.close()
    stand.inspection._look()
    assert stand.results == []
    stand.close()


async def test_polling_takes_a_hundredth_of_a_second() -> None:
    stand = Stand("unix")
    stand.far.send(HELLO[:20])
    await turns()
    stand.far.send(HELLO[20:])
    while not stand.results:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert now() == pytest.approx(0.01, abs=0.0011)
    stand.close()
