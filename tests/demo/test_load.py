"""The clients against a server of the standard library, in one process with known results."""

import asyncio
import contextlib
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.demo import load
from agent.demo.authority import CHAIN, KEY, Authority, write_pair
from agent.demo.counters import Counters, UnexpectedAnswer, reason_of
from agent.demo.load import Clients

AUTHORITY = Authority()
PAIR = AUTHORITY.issue()
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nok"
WANTED = 150
Answer = Callable[[int], bytes]


class Server:
    """Answers requests by number, from 1; without an answer it closes the connection. Counts its answers."""

    def __init__(self, answer: Answer) -> None:
        self.answered = 0
        self.asked = 0
        self.enough = asyncio.Event()
        self._answer = answer

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                continue
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        if self.asked >= WANTED:
            self.enough.set()
        answer = self._answer(self.asked)
        writer.write(answer)
        self.answered += answer in {GOOD, LAST}
        return answer == GOOD and b"connection: close" not in request


@contextlib.asynccontextmanager
async def serving(directory: Path, server: Server) -> AsyncIterator[int]:
    """Listen with PAIR; yield the port."""
    write_pair(directory, PAIR)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / CHAIN, directory / KEY)
    listener = await asyncio.start_server(server.converse, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
        listener.close()


async def counted(directory: Path, answer: Answer, trusted: Authority = AUTHORITY) -> tuple[Clients, Server]:
    """Let the clients run until the server has received enough requests."""
    server = Server(answer)
    async with serving(directory, server) as port:
        clients = Clients(port, ssl.create_default_context(cadata=trusted.pem.decode()))
        clients.start()
        await server.enough.wait()
        await asyncio.to_thread(clients.finish)
    return clients, server


async def test_every_answer_is_counted_once(tmp_path: Path) -> None:
    begun = time.monotonic()
    clients, server = await counted(tmp_path, lambda _: GOOD)
    assert clients.tally.served == server.answered == server.asked
    assert clients.tally.failures == []
    assert list(clients.tally.serials) == [PAIR.serial]
    assert 0 < clients.tally.longest < time.monotonic() - begun
    assert clients.tally.deepest is not None


async def test_an_announced_close_is_obeyed_and_costs_nothing(tmp_path: Path) -> None:
    clients, server = await counted(tmp_path, lambda _: LAST)
    assert clients.tally.served == server.answered
    assert clients.tally.connections == server.asked, "a connection for each request"
    assert clients.tally.failures == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"", "reset"), (GOOD[:-1], "reset"), (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", "answered wrongly")],
)
async def test_every_request_without_its_answer_has_failed(tmp_path: Path, answer: bytes, reason: str) -> None:
    clients, server = await counted(tmp_path, lambda number: GOOD if number % 10 else answer)
    assert clients.tally.served == server.answered
    assert len(clients.tally.failures) == server.asked - server.answered > 0
    assert {failure.reason for failure in clients.tally.failures} == {reason}


def test_failures_in_a_word() -> None:
    told = {
        "refused": ConnectionRefusedError(),
        "reset": BrokenPipeError(),
        "timed out": TimeoutError(),
        "not trusted": ssl.SSLCertVerificationError(),
        "answered wrongly": UnexpectedAnswer(),
        "broken": OSError(),
    }
    assert {reason_of(error): error for error in told.values()} == told
    assert reason_of(ssl.SSLEOFError()) == "reset"


# The program


class Reporting:
    """Clients of which some failures are still to be reported when they have finished."""

    def __init__(self, port: int, _: ssl.SSLContext) -> None:
        self.port, self.done = port, list[str]()
        self.tally = Counters()
        MADE.append(self)

    def start(self) -> None:
        self.done.append("start")
        for _ in range(250):
            self.tally.failed(1.0, "reset")

    def finish(self) -> None:
        self.done.append("finish")


MADE: list[Reporting] = []


def test_the_program_reports_until_its_input_ends_and_then_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nice: list[int] = []
    monkeypatch.setattr(load, "Clients", Reporting)
    monkeypatch.setattr(os, "nice", nice.append)
    (tmp_path / "root.pem").write_bytes(Authority().pem)
    with (tmp_path / "input").open("w+b") as stdin:  # ends at once
        monkeypatch.setattr(sys, "stdin", stdin)
        load.main(4431, str(tmp_path / "root.pem"))
    clients = MADE.pop()
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (clients.port, clients.done, len(nice)) == (4431, ["start", "finish"], 1)
    assert sum(len(each["failures"]) for each in reports) == 250
    assert reports[-1]["failures"]
