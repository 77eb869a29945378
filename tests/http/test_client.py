"""The client: which processes it trusts at a Unix socket, and the limits of an answer."""

import asyncio
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
from tests.system.eventually import PATIENCE

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


@asynccontextmanager
async def answering(path: Path, answer: bytes) -> AsyncIterator[list[bytes]]:
    """Answer everything at a Unix socket with these bytes."""
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    made = await asyncio.start_unix_server(talk, str(path))
    try:
        yield heard
    finally:
        made.close()
        await asyncio.sleep(0.0)


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


# Answers


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
    ],
    ids=["length", "chunked", "until the end", "after an informational one"],
)
async def test_every_kind_of_answer_is_read_whole(tmp_path: Path, answer: bytes, body: bytes) -> None:
    async with answering(tmp_path / "s", answer):
        assert await client.fetch(tmp_path / "s", "/", timeout=PATIENCE) == (200, body)


@pytest.mark.parametrize(
    "answer",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nx"],
    ids=["nothing", "garbage", "half a body", "half a head"],
)
async def test_what_is_no_whole_answer_is_a_connection_error(tmp_path: Path, answer: bytes) -> None:
    async with answering(tmp_path / "s", answer):
        with pytest.raises(ConnectionError):
            await client.fetch(tmp_path / "s", "/", timeout=PATIENCE)


async def test_a_server_that_is_not_there_or_says_nothing_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await client.fetch(tmp_path / "none", "/", timeout=PATIENCE)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(TimeoutError):
            await client.fetch(tmp_path / "s", "/", timeout=0.05)


async def test_a_client_asks_one_question_a_connection(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", b"HTTP/1.1 204 No Content\r\n\r\n") as heard:
        assert await client.fetch(tmp_path / "s", "/a?b=c", method="POST", timeout=PATIENCE) == (204, b"")
    assert heard[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert b"connection: close" in heard[0].lower()


# Requests


async def test_headers_of_the_hop_are_not_passed_on_and_the_host_is_ours(tmp_path: Path) -> None:
    headers = (
        ("accept", "text/plain"),
        ("host", "evil.example"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("content-length", "99"),
        ("upgrade", "websocket"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("x-own", "1"),
    )
    async with (
        answering(tmp_path / "s", b"HTTP/1.1 204 No Content\r\n\r\n") as heard,
        client.stream(tmp_path / "s", Request("GET", "/", headers), host="agent.test") as answer,
    ):
        assert answer.status == 204
    assert sorted(heard[0].lower().splitlines()[1:]) == sorted(
        [b"accept: text/plain", b"x-own: 1", b"host: agent.test", b"connection: close", b"content-length: 0", b""]
    )


async def test_a_request_brings_its_body(tmp_path: Path) -> None:
    request = Request("PUT", "/a", body=b"\0" * 100_000)
    async with serving(tmp_path / "s", b"") as asked, client.stream(tmp_path / "s", request):
        pass
    assert [(each.method, each.target, each.body) for each in asked] == [("PUT", "/a", b"\0" * 100_000)]


async def test_an_answer_comes_with_its_headers_but_those_of_the_hop(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: x/y\r\nConnection: close\r\nContent-Length: 0\r\n"
    head += b"X-Two: a\r\nX-Two: b\r\n\r\n"
    async with answering(tmp_path / "s", head), client.stream(tmp_path / "s", Request("GET", "/")) as answer:
        assert answer.headers == (("content-type", "x/y"), ("x-two", "a"), ("x-two", "b"))


async def test_a_server_is_reached_over_tcp_and_named_by_its_host_when_it_answers_nonsense() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n\r\n")
        writer.close()

    made = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        with pytest.raises(ConnectionError, match=r"cannot parse .* page\.test"):
            async with client.stream(made.sockets[0].getsockname(), Request("GET", "/"), "page.test"):
                pass
    finally:
        made.close()
        await made.wait_closed()


async def test_nonsense_at_a_unix_socket_is_named_by_its_path(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", b"garbage\r\n\r\n"):
        with pytest.raises(ConnectionError, match=str(tmp_path / "s")):
            await client.fetch(Owned(tmp_path / "s"), "/", timeout=PATIENCE)


# How much


@pytest.mark.parametrize(("size", "is_read"), [(10, True), (11, False)])
async def test_an_answer_of_the_limit_is_read_and_one_byte_more_is_not(
    size: int, is_read: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LIMIT", 10)
    async with serving(tmp_path / "s", b"x" * size):
        if is_read:
            assert await client.fetch(tmp_path / "s", "/", timeout=PATIENCE) == (200, b"x" * size)
        else:
            with pytest.raises(ConnectionError, match="10 bytes"):
                await client.fetch(tmp_path / "s", "/", timeout=PATIENCE)


async def test_an_answer_of_fifteen_megabytes_is_read(tmp_path: Path) -> None:
    """Envoy's statistics and configuration may be that long with many clusters."""
    async with serving(tmp_path / "s", bytes(15 << 20)):
        status, body = await client.fetch(tmp_path / "s", "/", timeout=PATIENCE)
    assert (status, len(body)) == (200, 15 << 20)


# Who


async def test_a_socket_of_any_process_may_be_asked_if_its_user_is_admitted(tmp_path: Path) -> None:
    users: list[int] = []

    def admits(user: int) -> bool:
        users.append(user)
        return True

    async with serving(tmp_path / "s", b"well"):
        assert await client.fetch(Owned(tmp_path / "s", admits=admits), "/", timeout=PATIENCE) == (200, b"well")
    assert users == [os.geteuid()]


@pytest.mark.parametrize("pid", [None, os.getpid()], ids=["any", "own"])
async def test_a_user_who_is_not_admitted_is_asked_nothing(pid: int | None, tmp_path: Path) -> None:
    async with serving(tmp_path / "s", b"") as asked:
        with pytest.raises(ConnectionError, match=rf"pid {os.getpid()}\) listens at .*/s"):
            await client.fetch(Owned(tmp_path / "s", pid, lambda _: False), "/", timeout=PATIENCE)
    assert asked == []


async def test_a_refusal_for_its_user_names_the_user(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", b""):
        with pytest.raises(ConnectionError, match=f"uid {os.geteuid()}"):
            await client.fetch(Owned(tmp_path / "s", admits=lambda _: False), "/", timeout=PATIENCE)


# Passing on


async def test_an_answer_that_is_passed_on_is_read_as_it_comes_and_ends_its_connection(tmp_path: Path) -> None:
    more, hung_up = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 201 Created\r\nx: y\r\ncontent-length: 6\r\n\r\none")
        await more.wait()
        writer.write(b"two")
        await reader.read()
        hung_up.set()
        writer.close()

    made = await asyncio.start_unix_server(talk, str(tmp_path / "s"))
    async with asyncio.timeout(PATIENCE):
        response = await client.passed_on(tmp_path / "s", Request("GET", "/"))
        assert (response.status, response.headers) == (201, (("x", "y"),))
        assert not isinstance(response.body, bytes)
        parts = []
        async for part in response.body:
            parts.append(part)
            more.set()
        assert b"".join(parts) == b"onetwo"
        assert parts[0] == b"one"
        await hung_up.wait()
    made.close()
    await made.wait_closed()


async def test_an_answer_that_is_not_read_to_its_end_still_ends_its_connection(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", ENDLESS):
        response = await client.passed_on(tmp_path / "s", Request("GET", "/"))
        assert not isinstance(response.body, bytes)
        async for _ in response.body:
            break
        await response.body.aclose()  # type: ignore[attr-defined]


async def test_what_cannot_be_passed_on_leaves_no_connection(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", b"garbage\r\n\r\n"):
        with pytest.raises(ConnectionError, match="cannot parse"):
            await client.passed_on(tmp_path / "s", Request("GET", "/"))


def test_an_owned_socket_is_shown_by_its_path() -> None:
    assert str(Owned(Path("/run/x/admin"), 7)) == "/run/x/admin"


async def test_a_request_is_sent_with_its_headers_and_its_body(tmp_path: Path) -> None:
    asked = Request("POST", "/p", (("content-type", "application/json"),), b"{}")
    async with serving(tmp_path / "s", b"well") as requests:
        assert await client.exchange(tmp_path / "s", asked, timeout=5) == (200, b"well")
    [got] = requests
    assert (got.method, got.target, got.body) == ("POST", "/p", b"{}")
    assert ("content-type", "application/json") in got.headers
