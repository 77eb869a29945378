"""The agent as a client of real servers in this process."""

import asyncio
import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.core.errors import UsageError
from agent.handoff.steering import Source
from agent.host.sockets import Endpoint
from agent.proxies.server import check as module
from agent.proxies.server.check import Check, NotReadyError, accepts, attempt
from tests.pki import Leaf
from tests.proxies.server.servers import AUTHORITY, OK, Answers, context, serving

GET = Check("GET", "/health")
HOSTS = {"127.0.0.1": "127.0.0.1", "::1": "::1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def place(server: asyncio.Server) -> Endpoint:
    host, port = server.sockets[0].getsockname()[:2]
    return Endpoint(host, port)


def fingerprint(leaf: Leaf) -> str:
    return hashlib.sha256(leaf.certificate.public_bytes(Encoding.DER)).hexdigest()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("GET /health", Check("GET", "/health")),
        ("head /", Check("HEAD", "/")),
        ("web: GET /a?b=c", Check("GET", "/a?b=c", "web")),
    ],
)
def test_a_request_is_parsed(text: str, check: Check) -> None:
    assert Check.parse(text) == check


@pytest.mark.parametrize("text", ["", "GET", "/health", "GET health", "web: GET", "GET / HTTP/1.1", "G3T /", "GET /ä"])
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="it is no request; write it like 'GET /health'"):
        Check.parse(text)


@pytest.mark.parametrize("host", list(HOSTS))
async def test_its_connection_is_steered_by_its_own_source(host: str) -> None:
    sources: list[Source | None] = []
    async with serving(Answers(), host=host) as server:
        await attempt(place(server), GET, {}, sources.append)
    (source, after) = sources
    assert source is not None
    assert source[0] == HOSTS[host]
    assert after is None


async def test_the_request_names_host_and_target(tmp_path: Path) -> None:
    answers = Answers()
    async with serving(answers, host="127.0.0.1") as server:
        await attempt(place(server), GET, {}, lambda _: None)
        port = place(server).port
    async with serving(answers, path=tmp_path / "s"):
        await attempt(Endpoint(path=str(tmp_path / "s")), GET, {}, lambda _: None)
    first, second = answers.requests
    assert first == b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port
    assert b"Host: localhost\r\n" in second


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", "it answers GET /health with 500"),
        (b"HTTP/1.1 404\r\n\r\n", "it answers GET /health with 404"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "with 100"),
        (b"SSH-2.0-OpenSSH\r\n", "it answers no HTTP"),
        (b"HTTP/1.1 ok\r\n", "it answers no HTTP"),
        (b"", "it closes the connection without an answer"),
        (b"x" * (1 << 17), "it answers no HTTP|Separator is not found"),
        (None, "does not answer within 0.2 s"),
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_another_answer_is_none(answer: bytes | None, why: str) -> None:
    async with serving(Answers(answer), host="127.0.0.1") as server:
        with pytest.raises(NotReadyError, match=why) as caught:
            await attempt(place(server), GET, {}, lambda _: None)
        assert str(caught.value).startswith(str(place(server)))


@pytest.mark.parametrize("status", [200, 204, 302, 399])
async def test_good_answers(status: int) -> None:
    async with serving(Answers(b"HTTP/1.0 %d\r\n\r\n" % status), host="127.0.0.1") as server:
        await attempt(place(server), GET, {}, lambda _: None)


async def test_nobody_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = Endpoint(*gone.getsockname())
    with pytest.raises(NotReadyError, match="Connection refused"):
        await attempt(endpoint, GET, {}, lambda _: None)
    with pytest.raises(NotReadyError, match="No such file"):
        await attempt(Endpoint(path="/nowhere"), GET, {}, lambda _: None)


# Certificates


async def test_each_name_is_asked_for(tmp_path: Path) -> None:
    leaf, answers = AUTHORITY.issue(["a.test"]), Answers()
    tls = context(leaf, tmp_path, answers.names.append)
    async with serving(answers, host="127.0.0.1", tls=tls) as server:
        await attempt(place(server), GET, {fingerprint(leaf): "a.test", "0": "b.test", "1": None}, lambda _: None)
    assert answers.names == ["a.test", "b.test", None]
    assert [b"Host: b.test" in each for each in answers.requests] == [False, True, False]


async def test_another_certificate_is_none_of_ours(tmp_path: Path) -> None:
    leaf, other = AUTHORITY.issue(["a.test"]), AUTHORITY.issue(["a.test"])
    async with serving(Answers(), host="127.0.0.1", tls=context(leaf, tmp_path)) as server:
        await attempt(place(server), None, {fingerprint(leaf): "a.test"}, lambda _: None)
        with pytest.raises(NotReadyError, match="it serves another certificate"):
            await attempt(place(server), None, {fingerprint(other): "a.test"}, lambda _: None)


async def test_a_listener_without_tls_is_said() -> None:
    async with serving(Answers(OK), host="127.0.0.1") as server:
        with pytest.raises(NotReadyError, match=r"does not complete a TLS handshake|does not answer within"):
            await attempt(place(server), None, {"0": None}, lambda _: None)


# Without a request


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
async def test_a_connection_has_to_be_accepted(family: socket.AddressFamily, tmp_path: Path) -> None:
    names: dict[int, Any] = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}
    with socket.socket(family) as listening:
        listening.bind(names.get(family, str(tmp_path / "s")))
        listening.listen()
        listening.setblocking(False)
        at = listening.getsockname()
        endpoint = Endpoint(path=at) if isinstance(at, str) else Endpoint(*at[:2])
        with pytest.raises(NotReadyError, match=r"does not answer within 0\.2 s"):
            await attempt(endpoint, None, {}, lambda _: None)
        listening.accept()[0].close()
        waiting = asyncio.ensure_future(accepts(endpoint))
        client, _ = await asyncio.get_running_loop().sock_accept(listening)
        await waiting
        client.close()
