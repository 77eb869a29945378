"""NGINX's own server: whether a worker answers, and its counters."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.http.message import Request
from agent.proxies.nginx.status import Status, exposition
from tests.proxies.nginx.configurations import parsed

PAGE = b"""Active connections: 3 \nserver accepts handled requests\n 70 69 180 \nReading: 1 Writing: 2 Waiting: 0 \n"""


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name) / "ready"


@asynccontextmanager
async def answering(path: Path, status: str, body: bytes = b"") -> AsyncIterator[Status]:
    """A server that answers everything in one way."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    async with server:
        yield Status(path, parsed(""))


async def test_it_is_live_if_a_worker_answers(path: Path) -> None:
    async with answering(path, "200 OK") as status:
        assert await status.is_live()
        assert await status.responds()


async def test_another_answer_is_none(path: Path) -> None:
    async with answering(path, "503 Unavailable") as status:
        assert not await status.is_live()


async def test_without_a_listener_it_is_not_live_and_not_hung(path: Path) -> None:
    status = Status(path, parsed(""))
    assert not await status.is_live()
    assert await status.responds()


async def test_its_counters_have_the_names_of_nginxs_exporter(path: Path) -> None:
    async with answering(path, "200 OK", PAGE) as status, status.exposition(Request("GET", "/metrics")) as response:
        assert not isinstance(response.body, bytes)
        text = b"".join([part async for part in response.body])
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    assert lines == [
        "nginx_connections_accepted_total 70",
        "nginx_connections_handled_total 69",
        "nginx_http_requests_total 180",
        "nginx_connections_active 3",
        "nginx_connections_reading 1",
        "nginx_connections_writing 2",
        "nginx_connections_waiting 0",
    ]


def test_each_metric_has_a_type() -> None:
    text = exposition(PAGE.decode())
    assert text.count("# TYPE ") == 7
    assert text.count(" counter\n") == 3


def test_another_page() -> None:
    with pytest.raises(ValueError, match="no page of stub_status"):
        exposition("<html>404</html>")
