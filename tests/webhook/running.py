"""A webhook as a process, in the sandbox of a test, with a certificate that the test writes."""

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agent.http.client import stream, whole
from agent.http.message import Request
from tests.pki import Authority, Leaf
from tests.system.eventually import PATIENCE, eventually
from tests.system.room import Process, Room

NAME = "webhook.proxy-agent.svc"


@dataclass
class RunningWebhook:
    """A webhook; its certificates are of `authority`."""

    room: Room
    authority: Authority = field(default_factory=lambda: Authority.create("ca"))
    process: Process | None = None

    def __post_init__(self) -> None:
        self.certificates = self.room.directory / "certs"
        self.certificates.mkdir()
        self.port, self.health_port = self.room.port(), self.room.port()
        self.log = self.room.directory / "webhook.log"

    def write(self, leaf: Leaf | None = None) -> Leaf:
        """Write a certificate and its key as a kubelet does: all at once."""
        leaf = leaf or self.authority.issue([NAME])
        data = self.certificates / f"..{leaf.certificate.serial_number}"
        data.mkdir()
        for name, content in (("tls.crt", leaf.chain_pem), ("tls.key", leaf.key_pem), ("ca.crt", self.authority.pem)):
            (data / name).write_bytes(content)
            if not (link := self.certificates / name).is_symlink():
                link.symlink_to(f"..data/{name}")
        (self.certificates / "..new").symlink_to(data.name)
        (self.certificates / "..new").rename(self.certificates / "..data")
        return leaf

    def start(self, *flags: str, ready: bool = True) -> None:
        """Start it; wait until it is ready."""
        ports = ["--port", str(self.port), "--health-port", str(self.health_port)]
        command = [sys.executable, "-m", "agent", "webhook", "--tls-certs", str(self.certificates), *ports, *flags]
        self.process = self.room.spawn(command, log=self.log)
        eventually(lambda: self.health() == (200 if ready else 503), what="the webhook answers")

    def health(self) -> int:
        """Return the status of its readiness."""
        return self.get("/healthz/ready")[0]

    def get(self, path: str) -> tuple[int, str]:
        """Send a request to the port without TLS."""
        return asyncio.run(self._get(path))

    async def _get(self, path: str) -> tuple[int, str]:
        async with asyncio.timeout(PATIENCE), stream(("127.0.0.1", self.health_port), Request("GET", path)) as response:
            assert not isinstance(response.body, bytes)
            return response.status, (await whole(response.body)).decode()

    def metrics(self) -> dict[str, float]:
        """Return its metrics, by series."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def logged(self) -> str:
        """Return its log."""
        return self.log.read_text(encoding="utf-8")

    def serial(self) -> int:
        """Return the serial number of the certificate that a new connection gets."""

        async def ask() -> int:
            async with self.line() as line:
                return int(line.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"], 16)

        return asyncio.run(ask())

    def post(self, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """Send a review on a connection of its own."""

        async def ask() -> tuple[int, bytes]:
            async with self.line() as line:
                return await line.post(body, kind)

        return asyncio.run(ask())

    @asynccontextmanager
    async def line(self) -> AsyncIterator["SecureLine"]:
        """Connect as an API server does."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=NAME)
        try:
            yield SecureLine(reader, writer)
        finally:
            writer.transport.abort()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        assert self.process is not None
        os.kill(self.process.pid, number)
        return self.process.wait(timeout=PATIENCE)


@dataclass
class SecureLine:
    """One connection that stays open."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def post(self, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """Send a review; return the status and the body of the response."""
        await self.send(body, kind)
        return await self.answer()

    async def send(self, body: bytes, kind: str = "application/json", path: str = "/inject") -> None:
        """Send a request."""
        head = f"POST {path} HTTP/1.1\r\nhost: webhook\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Read one response."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            self.head = head
            length = next(int(row.split(":")[1]) for row in head.splitlines() if row.startswith("content-length:"))
            return int(head.split()[1]), await self.reader.readexactly(length)
