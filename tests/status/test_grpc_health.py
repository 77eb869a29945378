"""The health check against grpcio's own server, and against peers that are none."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from agent.status.grpc_health import check, frame, literal


@contextmanager
def health_server(*arguments: str) -> Iterator[int]:
    """Run a gRPC server; yield its port. Skip without grpcio: the lowest versions are tested without it."""
    pytest.importorskip("grpc")
    argv = [sys.executable, "-m", "tests.status.health_server", *arguments]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with health_server() as port:
        yield port


async def asked(port: int, service: str = "") -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            return await check(reader, writer, f"127.0.0.1:{port}", service)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("service", "status"),
    [("", "SERVING"), ("down", "NOT_SERVING"), ("zero", "UNKNOWN"), ("odd", "status 7")],
)
async def test_the_status_of_a_service_is_that_of_the_server(port: int, service: str, status: str) -> None:
    assert await asked(port, service) == status


@pytest.mark.parametrize("service", ["nobody", "broken", "x" * 20_000])
async def test_an_error_is_no_status(port: int, service: str) -> None:
    assert "no health check" in await asked(port, service)


async def test_another_message_is_no_status(port: int) -> None:
    assert "no HealthCheckResponse" in await asked(port, "junk")


async def test_a_server_without_health_service_has_no_status() -> None:
    with health_server("--without") as port:
        assert "no health check" in await asked(port)


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SETTINGS = frame(4, 0, 0, b"\0\3\0\0\0\x64")
SERVING = b"\0\0\0\0\2\x08\1"


def saying(*parts: bytes) -> Peer:
    """Return a peer that sends these bytes, each by itself, and ends."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()
        await reader.read()
        writer.close()

    return peer


async def answer_of(peer: Peer) -> str:
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    async with server:
        return await asked(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    "frames",
    [
        (frame(0, 1, 1, SERVING),),
        (frame(0, 0, 1, SERVING[:3]), frame(0, 0, 1, SERVING[3:6]), frame(0, 1, 1, SERVING[6:])),
        (frame(0, 9, 1, b"\4" + SERVING + bytes(4)),),
        (frame(6, 0, 0, b"12345678"), frame(8, 0, 1, bytes(4)), frame(1, 4, 1, b"\x88"), frame(0, 1, 1, SERVING)),
        (frame(0, 0, 3, b"another stream"), frame(250, 255, 1, b"unknown kind"), frame(0, 1, 1, SERVING)),
    ],
    ids=["one", "in parts", "padded", "after others", "among others"],
)
async def test_a_message_is_found_in_any_frames(frames: tuple[bytes, ...]) -> None:
    assert await answer_of(saying(SETTINGS, *frames)) == "SERVING"


@pytest.mark.parametrize(
    "frames",
    [
        (frame(1, 5, 1, b"\x88"),),
        (frame(0, 1, 1, b""),),
        (frame(0, 1, 1, SERVING[:6]),),
        (frame(3, 0, 1, bytes(4)),),
        (frame(7, 0, 0, bytes(8)),),
        (frame(6, 0, 0, bytes(8)),) * 1100,
    ],
    ids=["trailers only", "no data", "cut message", "reset", "goaway", "endless pings"],
)
async def test_an_end_without_a_message_is_no_status(frames: tuple[bytes, ...]) -> None:
    assert "no health check" in await answer_of(saying(SETTINGS, *frames))


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", frame(0, 1, 1, SERVING), SETTINGS[:5]],
)
async def test_a_peer_that_is_not_http2_is_an_error(said: bytes) -> None:
    with pytest.raises(ConnectionError, match=r"not speak HTTP/2|without an answer"):
        await answer_of(saying(said))


async def test_a_frame_above_the_limit_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="HTTP/2"):
        await answer_of(saying(SETTINGS, frame(0, 0, 1, bytes(20_000))))


def test_a_long_header_has_an_integer_of_several_bytes() -> None:
    """RFC 7541, C.1.2: 1337 with a prefix of five bits; here seven: 127, then 1210 = 0b1001_0111010."""
    assert literal("a", "x" * 1337)[3:6] == bytes((0x7F, 0xBA, 0x09))
    assert literal("a", "x" * 126)[3] == 126
    assert literal("a", "x" * 127)[3:5] == b"\x7f\0"
