"""A small API server over TLS: it stores one MutatingWebhookConfiguration, and applies JSON patches to it."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonpatch

from agent.host.server_context import server_context
from agent.host.service_account import ServiceAccount
from agent.webhook.ca_bundle import Authorities, registered
from tests.host.pods import mount
from tests.pki import Authority
from tests.system.eventually import PATIENCE

NAME = "proxy-agent-webhook"
PATH = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"


def configuration() -> dict[str, Any]:
    """Return a configuration of two webhooks without authorities, with fields that nobody may change."""
    client: dict[str, Any] = {"service": {"name": NAME, "namespace": "proxy-agent", "path": "/inject"}}
    webhooks = [{"name": f"{kind}.x.svc", "clientConfig": {**client}, "timeoutSeconds": 5} for kind in ("a", "b")]
    return {"metadata": {"name": NAME, "resourceVersion": "1", "labels": {"a": "b"}}, "webhooks": webhooks}


@dataclass
class Cluster:
    """The API server. It answers with each status of `moods` once, before it works; 0 is no answer."""

    stored: dict[str, Any] | None = field(default_factory=configuration)
    moods: list[int] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)  # method and content type
    asked: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split("\r\n")[0].split()
        fields = dict(row.lower().split(": ", 1) for row in head.split("\r\n")[1:] if row)
        assert path == PATH
        assert fields["authorization"].startswith("bearer ")
        body = await reader.readexactly(int(fields["content-length"]))
        async with self.asked:
            status = self.moods.pop(0) if self.moods else self.answer(method, body)
            self.calls.append((method, fields.get("content-type", "")))
            self.asked.notify_all()
        if status:
            content = json.dumps(self.stored if status == 200 else {"kind": "Status"}).encode()
            head = f"HTTP/1.1 {status} x\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
            writer.write(head.encode() + content)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def answer(self, method: str, body: bytes) -> int:
        """Answer as an API server does."""
        if self.stored is None:
            return 404
        if method == "PATCH":
            try:
                self.stored = jsonpatch.apply_patch(self.stored, body.decode())
            except jsonpatch.JsonPatchException:
                return 422
            self.stored["metadata"]["resourceVersion"] += "1"
        return 200

    async def until(self, count: int) -> None:
        """Wait for so many calls."""
        async with asyncio.timeout(PATIENCE), self.asked:
            await self.asked.wait_for(lambda: len(self.calls) >= count)

    def bundles(self) -> list[Authorities]:
        """Return what is registered, by webhook."""
        assert self.stored is not None
        clients = [each["clientConfig"] for each in self.stored["webhooks"]]
        return [registered(base64.b64decode(each.get("caBundle", ""))) for each in clients]

    @asynccontextmanager
    async def listening(self, directory: Path) -> AsyncIterator[ServiceAccount]:
        """Listen on loopback; yield the account of a pod."""
        authority = Authority.create("cluster")
        leaf = authority.issue(["127.0.0.1"])
        mount(directory, authority)
        context = server_context("tls.crt", leaf.chain_pem, leaf.key_pem)
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0, ssl=context)
        host, port = server.sockets[0].getsockname()
        environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
        try:
            yield ServiceAccount.find(environment, directory)
        finally:
            server.close()
            await server.wait_closed()
