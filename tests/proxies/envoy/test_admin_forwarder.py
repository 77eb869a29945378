import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.http.message import Request, Response
from agent.http.server import Server
from agent.proxies.envoy import yaml_nodes
from agent.proxies.envoy.admin_forwarder import Forwarder


@asynccontextmanager
async def leading(directory: Path, allow: str = "") -> AsyncIterator[Forwarder]:
    """Return a forwarder to an admin interface that returns the request."""

    async def answer(request: Request) -> Response:
        said = f"{request.method} {request.target} {request.body.decode()}".encode()
        return Response(201, said, (("x-own", "yes"), ("content-type", "text/plain")))

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "admin"))
    server = Server(answer)
    await server.start(listener)
    document = yaml_nodes.read(f"allow_paths: {allow or []}", "x.yaml")
    forwarder = Forwarder(yaml_nodes.items(yaml_nodes.get(document, "allow_paths")))
    forwarder.target = directory / "admin"
    try:
        yield forwarder
    finally:
        await server.close()


async def whole(response: Response) -> bytes:
    if isinstance(response.body, bytes):
        return response.body
    return b"".join([part async for part in response.body])


async def test_a_request_and_its_answer_are_passed_on(tmp_path: Path) -> None:
    async with leading(tmp_path) as forwarder:
        response = await forwarder.answer(Request("POST", "/logging?level=debug", (("host", "x"),), b"body"))
        assert response.status == 201
        assert ("x-own", "yes") in response.headers
        assert await whole(response) == b"POST /logging?level=debug body"


async def test_the_target_changes_from_request_to_request(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with leading(tmp_path / "one") as forwarder, leading(tmp_path / "two") as other:
        await whole(await forwarder.answer(Request("GET", "/a")))
        forwarder.target = other.target
        assert await whole(await forwarder.answer(Request("GET", "/b"))) == b"GET /b "


async def test_where_nothing_serves_that_is_said(tmp_path: Path) -> None:
    forwarder = Forwarder([])
    assert (await forwarder.answer(Request("GET", "/"))).status == 503
    forwarder.target = tmp_path / "gone"
    response = await forwarder.answer(Request("GET", "/"))
    assert response.status == 503
    assert b"does not answer" in await whole(response)


async def test_an_epoch_that_talks_nonsense_is_a_503(tmp_path: Path) -> None:
    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"garbage\r\n\r\n")
        writer.close()

    made = await asyncio.start_unix_server(nonsense, str(tmp_path / "admin"))
    forwarder = Forwarder([])
    forwarder.target = tmp_path / "admin"
    assert (await forwarder.answer(Request("GET", "/"))).status == 503
    made.close()
    await asyncio.sleep(0)


MATCHERS = """
[{exact: /ready}, {prefix: /stats}, {suffix: .json}, {contains: mid}, {safeRegex: {regex: "/r[0-9]+"}},
 {exact: /CASE, ignoreCase: true}, {custom: {name: x}}]
"""


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/stats/../config_dump", False), ("/stats/%2e%2e/config_dump", False), ("/stats//prometheus", False),
        ("/ready", True), ("/ready?x=1", False), ("/readyz", False), ("/stats/prometheus", True), ("/x.json", True),
        ("/a/mid/b", True), ("/r12", True), ("/r12x", False), ("/x/r12", False), ("/case", True),
        ("/quitquitquit", False),
        ("/", False), ("/quitquitquit?/ready", False),
    ],
)  # fmt: skip
async def test_only_what_the_operator_allows_is_passed_on(tmp_path: Path, target: str, allowed: bool) -> None:
    async with leading(tmp_path, MATCHERS.replace("\n", "")) as forwarder:
        response = await forwarder.answer(Request("GET", target))
        assert response.status == (201 if allowed else 403)
        await whole(response)


async def test_a_matcher_that_is_not_understood_allows_nothing(tmp_path: Path) -> None:
    """RE2 supports expressions that Python does not."""
    async with leading(tmp_path, r"[{safe_regex: {regex: '\pN+'}}]") as forwarder:
        assert (await forwarder.answer(Request("GET", "/ready"))).status == 403


async def test_a_client_that_goes_before_its_answer_leaves_no_connection(tmp_path: Path) -> None:
    """The fixture counts the descriptors."""
    async with leading(tmp_path) as forwarder:
        response = await forwarder.answer(Request("GET", "/a"))
        assert not isinstance(response.body, bytes)
        await response.body.aclose()  # type: ignore[attr-defined]
