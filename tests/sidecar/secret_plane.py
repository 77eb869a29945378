"""A control plane that answers SDS long polls by REST at a Unix socket."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.http.message import Request, Response
from agent.http.server import Server
from agent.sidecar.model import SecretSource
from tests.pki import Authority, Leaf
from tests.system.eventually import PATIENCE

Json = dict[str, Any]
TYPES = "type.googleapis.com"
SECRET = f"{TYPES}/envoy.extensions.transport_sockets.tls.v3.Secret"
NOTHING_NEW = Response(304, b"")


def secret_of(name: str, **intervals: float) -> SecretSource:
    """Return the source of a secret behind the cluster `plane`; the polls follow one another at once."""
    return SecretSource(name, "plane", 0.01, PATIENCE * 10, 0.0)._replace(**intervals)  # type: ignore[arg-type]


def inline(content: bytes) -> Json:
    """Return a data source that has the bytes themselves."""
    return {"inline_bytes": base64.b64encode(content).decode()}


def pair_of(leaf: Leaf, key: bytes | None = None) -> Json:
    """Return a certificate, with another key if one is given."""
    return {
        "tls_certificate": {"certificate_chain": inline(leaf.chain_pem), "private_key": inline(key or leaf.key_pem)}
    }


def trusted(*authorities: Authority) -> Json:
    """Return a validation context."""
    return {"validation_context": {"trusted_ca": inline(b"".join(each.pem for each in authorities))}}


def answer(version: str, name: str, secret: Json) -> Response:
    """Return a DiscoveryResponse with one secret."""
    resource = {"@type": SECRET, "name": name, **secret}
    body = {"version_info": version, "type_url": SECRET, "resources": [resource]}
    return raw(json.dumps(body).encode())


def raw(body: bytes, status: int = 200) -> Response:
    """Return a response with these bytes."""
    return Response(status, body, (("content-type", "application/json"),))


@dataclass
class Poll:
    """One request: its document, and the answer that it waits for."""

    asked: Json
    answered: "asyncio.Future[Response]"

    @property
    def version(self) -> str:
        """The version of what its sender has applied; empty if nothing."""
        return str(self.asked.get("version_info", ""))


@dataclass
class SecretPlane:
    """Holds each poll until the test answers it."""

    path: Path
    held: dict[str, Poll] = field(default_factory=dict)
    polls: list[Json] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: Server | None = None

    async def open(self) -> None:
        """Listen at the path."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(str(self.path))
        self._server = Server(self._answer)
        await self._server.start(listener)

    async def close(self) -> None:
        """Cut all polls, and stop listening."""
        if self._server is not None:
            await self._server.close()
            self._server = None
        self.held.clear()

    async def poll(self, name: str) -> Poll:
        """Return the open poll of a secret; wait for it."""
        async with asyncio.timeout(PATIENCE):
            while name not in self.held or self.held[name].answered.done():
                self._changed.clear()
                await self._changed.wait()
        return self.held[name]

    async def send(self, name: str, response: Response) -> Poll:
        """Answer the open poll of a secret; return the next one, which acknowledges or refuses."""
        poll = await self.poll(name)
        poll.answered.set_result(response)
        return await self.poll(name)

    async def give(self, version: str, name: str, secret: Json) -> str:
        """Send a secret; return the version that the next poll has."""
        return (await self.send(name, answer(version, name, secret))).version

    async def _answer(self, request: Request) -> Response:
        assert (request.method, request.path) == ("POST", "/v3/discovery:secrets")
        asked = json.loads(request.body)
        self.polls.append(asked)
        poll = Poll(asked, asyncio.get_running_loop().create_future())
        [name] = asked["resource_names"]
        self.held[name] = poll
        self._changed.set()
        return await poll.answered


@asynccontextmanager
async def plane(directory: Path) -> AsyncIterator[SecretPlane]:
    """Run a control plane in the block."""
    made = SecretPlane(directory / "plane")
    await made.open()
    try:
        yield made
    finally:
        await made.close()
