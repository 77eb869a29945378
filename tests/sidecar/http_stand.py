"""The HTTP filter with one client at a pair of sockets, and its cluster at a Unix socket."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agent.sidecar.client import Client
from agent.sidecar.clusters import Upstream
from agent.sidecar.counters import HttpCounters, ListenerHttpCounters
from agent.sidecar.draining import Draining
from agent.sidecar.http_manager import HttpConnectionManager
from agent.sidecar.http_pool import Pool
from agent.sidecar.model import Address, Cluster, HttpManager, Reply, Route, VirtualHost
from agent.sidecar.routing import Routing
from agent.sidecar.wire import Wire
from agent.stats.writer import Writer
from tests.sidecar.wires import client, connected, stat, turns

HOST = b"Host: x\r\n"
OK = Reply(200, b"hello\n")


@dataclass(frozen=True)
class Answer:
    """One response; `headers` in lower case and in order."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __getitem__(self, name: str) -> str:
        """Return the value of a header, which must be there once."""
        [value] = [value for each, value in self.headers if each == name]
        return value

    @property
    def names(self) -> set[str]:
        """The names of the headers."""
        return {name for name, _ in self.headers}

    @property
    def closes(self) -> bool:
        """Whether it announces the end of the connection."""
        return ("connection", "close") in self.headers


async def response(reader: asyncio.StreamReader, *, to_head: bool = False) -> Answer:
    """Read one response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.strip().split("\r\n")
    headers = tuple((name.lower(), value) for name, value in (line.split(": ", 1) for line in lines))
    code = int(status.split()[1])
    has_body = not to_head and code >= 200 and code not in {204, 304}
    return Answer(code, headers, await body(reader, head.lower().encode()) if has_body else b"")


async def body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """Read the body that belongs to a head in lower case."""
    if length := re.search(rb"content-length: (\d+)", head):
        return await reader.readexactly(int(length[1]))
    got = b""
    if b"transfer-encoding: chunked" in head:
        while size := int((await reader.readuntil(b"\n")).partition(b";")[0], 16):
            got += (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\n") != b"\r\n":
            pass  # a trailer
    return got


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read one request; return its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await body(reader, head.lower())


@dataclass
class HttpStand:
    """One client of an HTTP filter."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    far: socket.socket
    manager: HttpConnectionManager
    client: Client
    stats: Writer
    draining: Draining
    pool: Pool
    left: list[Client]

    async def ask(self, data: bytes) -> Answer:
        """Send a request; return its response."""
        self.writer.write(data)
        return await response(self.reader, to_head=data.startswith(b"HEAD"))

    async def end(self) -> bytes:
        """Return all that comes until the sidecar ends the stream."""
        return await self.reader.read()

    def stat(self, name: str) -> int:
        """Return what a statistic of the filter stands at."""
        return stat(self.stats, f"http.h.{name}")

    def of_cluster(self, name: str) -> int:
        """Return what a statistic of the cluster stands at."""
        return stat(self.stats, f"cluster.c.{name}")

    async def until(self, name: str, value: int) -> None:
        """Wait until a statistic of the cluster stands at a value, for a thousand turns of the loop."""
        for _ in range(1000):
            if self.of_cluster(name) == value:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{name} stays at {self.of_cluster(name)}")


def routes(*more: Route, **fields: object) -> HttpManager:
    """Return a filter that answers /ok by itself, and routes /app to the cluster, after `more` routes."""
    hosts = (VirtualHost("v", ("*",), (*more, Route("/ok", OK), Route("/app", "c"))),)
    return HttpManager("h", hosts)._replace(**fields)  # type: ignore[arg-type]


@asynccontextmanager
async def http(
    settings: HttpManager | None = None,
    *endpoints: Address,
    wire: type[Wire] = Wire,
    drain: Draining | None = None,
    **cluster: object,
) -> AsyncIterator[HttpStand]:
    """Serve one client; at the end nothing may be counted as active."""
    settings = settings or routes()
    stats = Writer.private()
    upstream = Upstream(Cluster("c", "STATIC", endpoints)._replace(**cluster), stats)  # type: ignore[arg-type]
    pools: Mapping[str, Pool] = {"c": Pool(upstream)}
    draining = drain or Draining(600, immediate=False)
    counters, of_listener = HttpCounters(stats, "http.h."), ListenerHttpCounters(stats, "listener.l.http.h.")
    manager = HttpConnectionManager(settings, Routing(settings.hosts), pools, counters, of_listener, draining)
    near, far = connected()
    reader, writer = await asyncio.open_unix_connection(sock=far, limit=1 << 20)
    left: list[Client] = []
    served = client(wire(near), left)
    manager.arrived(is_secure=served.wire.is_secure)
    manager.serve(served)
    [task] = manager._tasks
    stand = HttpStand(reader, writer, far, manager, served, stats, draining, pools["c"], left)
    try:
        yield stand
    finally:
        writer.close()
        served.session.abort()
        await manager.ended()
        await turns()
        manager.left(is_secure=served.wire.is_secure)
        pools["c"].close()
        await turns()
    assert left == [served]
    if not task.cancelled():
        task.result()
    gauges = {name: value for name, value in stats.read().gauges.items() if "active" in name and value}
    assert not gauges, f"still counted: {gauges}"


def get(path: str, more: bytes = b"") -> bytes:
    """Return a request without a body."""
    return b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def post(headers: bytes, content: bytes = b"", path: bytes = b"/app") -> bytes:
    """Return a request with a body."""
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n" + content
