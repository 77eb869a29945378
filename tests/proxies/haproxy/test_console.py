"""The console answers one command on each connection, and says why it does not."""

import asyncio
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.http.message import Request
from agent.proxies.haproxy.console import Console
from agent.proxies.standalone import StandaloneConfiguration


def console(path: Path) -> Console:
    """Return a console at a path."""
    return Console(path, path.with_name("metrics"), StandaloneConfiguration("h.cfg"))


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """Answer that many connections at a Unix socket; yield what they send."""
    asked: list[bytes] = []

    def serve(server: socket.socket) -> None:
        for answer in answers:
            client, _ = server.accept()
            with client:
                asked.append(client.recv(1 << 16))
                client.sendall(answer)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield asked
        thread.join()


def test_a_command_returns_its_whole_answer(tmp_path: Path) -> None:
    with answering(tmp_path / "c", b"x" * 100_000, b"\xff\n") as asked:
        assert asyncio.run(console(tmp_path / "c").command("show info\n")) == "x" * 100_000
        assert asyncio.run(console(tmp_path / "c").command("\xe9\n", math.inf)) == "\xff\n"
    assert asked == [b"show info\n", b"\xe9\n"]


def test_nobody_there_is_an_error_and_no_hang(tmp_path: Path) -> None:
    here = console(tmp_path / "none")
    with pytest.raises(MachineError, match=r"^cannot ask HAProxy at .*: No such file"):
        asyncio.run(here.command("show info\n"))
    with pytest.raises(MachineError, match=r"^cannot ask HAProxy at .* for its sockets: No such file"):
        here.take_sockets()
    assert asyncio.run(here.responds())


def test_silence_is_an_error_after_the_given_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "c"))
        server.listen()
        with pytest.raises(MachineError, match=r"no answer within 0\.01 s$"):
            asyncio.run(console(tmp_path / "c").command("show info\n", 0.01))


def test_an_answer_is_a_response(tmp_path: Path) -> None:
    with answering(tmp_path / "c", b"Name: HAProxy\n"):
        assert asyncio.run(console(tmp_path / "c").responds())


def test_metrics_come_from_haproxys_exporter(tmp_path: Path) -> None:
    async def body() -> bytes:
        async with console(tmp_path / "c").exposition(Request("GET", "/?scope=global", ())) as response:
            assert not isinstance(response.body, bytes)
            return b"".join([part async for part in response.body])

    with answering(tmp_path / "metrics", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx") as asked:
        assert asyncio.run(body()) == b"x"
    assert asked[0].startswith(b"GET /metrics?scope=global HTTP/1.1\r\n")


def test_refusals_are_rejections(tmp_path: Path) -> None:
    here = console(tmp_path)
    here.refusals.append("why")
    assert asyncio.run(here.rejections()) == ["why"]
