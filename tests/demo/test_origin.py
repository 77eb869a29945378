import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.demo.origin import Conversation, serve

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@asynccontextmanager
async def conversation() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The client's end of a connection."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(Conversation, sock=theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        yield reader, writer
    finally:
        transport.abort()
        writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("parts", "answers"),
    [
        ([REQUEST], 1),
        ([REQUEST * 3], 3),
        ([REQUEST[:10], REQUEST[10:]], 1),
        ([REQUEST[:-3], REQUEST[-3:-1], REQUEST[-1:] + REQUEST], 2),
        ([bytes([each]) for each in REQUEST], 1),
    ],
    ids=["one", "three at once", "in two parts", "across the end", "byte by byte"],
)
async def test_each_request_head_is_answered(parts: list[bytes], answers: int) -> None:
    async with conversation() as (reader, writer):
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        assert await reader.readexactly(len(ANSWER) * answers) == ANSWER * answers


async def test_half_a_request_is_not_answered() -> None:
    async with conversation() as (reader, writer):
        writer.write(REQUEST[:-1])
        for _ in range(5):
            await asyncio.sleep(0)
        writer.write(REQUEST[-1:])
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        assert not reader._buffer  # type: ignore[attr-defined]  # asyncio's


def test_data_before_a_connection_is_no_crash() -> None:
    Conversation().data_received(REQUEST)


async def test_it_serves_until_its_standard_input_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        serving = asyncio.create_task(serve(listener.detach()))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        os.write(writing, b"x")
        writer.write(REQUEST)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        assert not serving.done()
        os.close(writing)
        await serving
        writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
