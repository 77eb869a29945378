import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agent.core.errors import UsageError
from agent.metrics.application import Application


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://app", ("app", 80, "/metrics", "app")),
        ("http://app:", ("app", 80, "/metrics", "app:")),
        ("http://app:8080", ("app", 8080, "/metrics", "app:8080")),
        ("http://app:1/", ("app", 1, "/", "app:1")),
        ("http://app:65535/a/b", ("app", 65535, "/a/b", "app:65535")),
        ("http://app?format=text", ("app", 80, "/metrics?format=text", "app")),
        ("http://app/?a=1&b=%20", ("app", 80, "/?a=1&b=%20", "app")),
        ("http://app/m#part", ("app", 80, "/m", "app")),
        ("HTTP://APP/M", ("app", 80, "/M", "APP")),
        ("http://127.0.0.1:9/", ("127.0.0.1", 9, "/", "127.0.0.1:9")),
        ("http://[::1]:9/", ("::1", 9, "/", "[::1]:9")),
        ("http://[fe80::1%eth0]/", ("fe80::1%eth0", 80, "/", "[fe80::1%eth0]")),
        ("http://my_app.ns.svc./m", ("my_app.ns.svc.", 80, "/m", "my_app.ns.svc.")),
        (f"http://{'a' * 63}/", ("a" * 63, 80, "/", "a" * 63)),
    ],
)
def test_a_url_names_host_port_and_path(url: str, expected: tuple[str, int, str, str]) -> None:
    assert Application.parse(url) == Application(*expected)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app:80/metrics",
        "https://app/",
        "unix:///run/app",
        "http:///metrics",
        "http://:80/",
        "http:app",
        "http://user@app/",
        "http://user:secret@app/",
        "http://@app/",
        "http://app:0/",
        "http://app:-1/",
        "http://app:65536/",
        "http://app:x/",
        "http://[::1/",
        "http://[::g]/",
        "http://app/a b",
        "http://a b/",
        "http://app/a\tb",
        "http://app/a\nb",
        "http://app/\x00",
        "http://app/\x7f",
        "http://app/\u00e4",
        "http://\u00e4pp/",
        "http://a..b/",
        f"http://{'a' * 64}/",
    ],
)
def test_a_url_that_cannot_be_asked_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="cannot use --app-metrics"):
        Application.parse(url)


def test_a_refusal_names_the_url() -> None:
    with pytest.raises(UsageError, match="https://app:8443/m"):
        Application.parse("https://app:8443/m")


@dataclass
class Server:
    """Answers each connection with the same bytes; keeps the requests."""

    answer: bytes
    port: int = 0
    heard: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[Server]:
    made = Server(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


async def test_the_application_is_asked_by_its_authority_with_the_given_headers() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: 4\r\n\r\na 1\n") as server:
        application = Application.parse(f"http://localhost:{server.port}/m?x=1")
        async with application.ask((("accept", "text/plain"), ("x-a", "b"))) as response:
            assert not isinstance(response.body, bytes)
            body = b"".join([part async for part in response.body])
    (request,) = server.heard
    first, *headers = request.strip().split("\r\n")
    assert first == "GET /m?x=1 HTTP/1.1"
    assert {"accept: text/plain", "x-a: b", f"host: localhost:{server.port}"} <= {each.lower() for each in headers}
    assert (response.status, dict(response.headers)["content-type"], body) == (200, "text/x", b"a 1\n")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_an_answer_that_is_not_http_is_a_connection_error(answer: bytes) -> None:
    async with serving(answer) as server:
        with pytest.raises(ConnectionError):
            async with Application.parse(f"http://127.0.0.1:{server.port}").ask(()):
                pass


async def test_an_application_that_does_not_listen_is_an_os_error() -> None:
    async with serving(b"") as server:
        port = server.port
    with pytest.raises(OSError, match=str(port)):
        async with Application.parse(f"http://127.0.0.1:{port}").ask(()):
            pass
