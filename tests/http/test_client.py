"""The client: which processes it trusts at a Unix socket, and the limits of an answer."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.http import client
from agent.http.client import LIMIT, Owned
from agent.http.message import Request, Response
from agent.http.server import Server

ENDLESS = b"x" * (1 << 20)


@asynccontextmanager
async def serving(path: Path, body: bytes | AsyncIterator[bytes]) -> AsyncIterator[list[Request]]:
    """Answer every request at a Unix socket with this body; yield the requests."""
    asked: list[Request] = []

    async def answer(request: Request) -> Response:
        asked.append(request)
        return Response(200, body)

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    server = Server(answer)
    await server.start(listener)
    try:
        yield asked
    finally:
        await server.close()


async def test_the_process_that_is_meant_is_asked(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", b"well"):
        assert await client.fetch(Owned(tmp_path / "s", os.getpid()), "/", timeout=5) == (200, b"well")


async def test_the_socket_of_another_process_is_asked_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "victim", b"") as asked:
        with pytest.raises(ConnectionError, match=rf"another process \(pid {os.getpid()}\) listens at .*/victim"):
            await client.fetch(Owned(tmp_path / "victim", 1), "/quitquitquit", method="POST", timeout=5)
        with pytest.raises(ConnectionError, match="not the proxy"):
            await client.passed_on(Owned(tmp_path / "victim", 1), Request("POST", "/stop"))
        assert asked == []


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A server behind the link would be contacted; a connection starts some of them."""
    with socket.socket(socket.AF_UNIX) as victim:
        victim.bind(str(tmp_path / "victim"))
        victim.listen()
        victim.setblocking(False)
        (tmp_path / "admin").symlink_to(tmp_path / "victim")
        with pytest.raises(ConnectionError, match="is not a socket any more"):
            await client.fetch(Owned(tmp_path / "admin", os.getpid()), "/", timeout=5)
        with pytest.raises(BlockingIOError):
            victim.accept()


async def test_an_answer_without_an_end_costs_no_more_than_the_limit(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield ENDLESS

    async with serving(tmp_path / "s", endless()):
        with pytest.raises(ConnectionError, match=f"longer than {LIMIT} bytes"):
            await client.fetch(tmp_path / "s", "/", timeout=30)
