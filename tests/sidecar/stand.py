"""A data plane in this process, on sockets of the kernel's choice, and servers behind it."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.sidecar.model import (
    Address,
    Certificate,
    Cluster,
    Configuration,
    DownstreamTls,
    FilterChain,
    Listener,
    NetworkFilter,
    SocketAddress,
    UpstreamTls,
)
from agent.sidecar.traffic import DataPlane
from agent.stats.writer import Writer
from tests.pki import Authority, Leaf
from tests.system.eventually import PATIENCE

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Stand:
    """A data plane that serves."""

    traffic: DataPlane
    writer: Writer
    ports: dict[str, int]

    def stat(self, name: str) -> int:
        """Return what a counter or gauge stands at, which must be there."""
        snapshot = self.writer.read()
        return {**snapshot.counters, **snapshot.gauges}[name]

    def of_listener(self, name: str, listener: str = "l") -> int:
        """Return what a statistic of a listener stands at."""
        return self.stat(f"listener.127.0.0.1_{self.ports[listener]}.{name}")

    async def connect(self, listener: str = "l", tls: ssl.SSLContext | None = None, sni: str = "a.example") -> Streams:
        """Connect to a listener."""
        name = sni if tls else None
        return await asyncio.open_connection("127.0.0.1", self.ports[listener], ssl=tls, server_hostname=name)

    async def until(self, name: str, value: int) -> None:
        """Wait until a statistic stands at a value: it moves in this very loop, so each turn of it is looked at."""
        while self.stat(name) != value:  # noqa: ASYNC110  # shared memory tells nobody
            await asyncio.sleep(0)


def listener(filter_: NetworkFilter, name: str = "l", tls: DownstreamTls | None = None, **fields: object) -> Listener:
    """A listener with one chain; its address comes later."""
    chain = FilterChain(filter_, tls=tls)
    return Listener(name, (SocketAddress("127.0.0.1", 0),), (chain,))._replace(**fields)  # type: ignore[arg-type]


def cluster(*endpoints: Address, name: str = "c", tls: UpstreamTls | None = None, within: float = PATIENCE) -> Cluster:
    """A STATIC cluster."""
    return Cluster(name, "STATIC", endpoints, within, tls)


def door(port: int = 0, backlog: int = 1024) -> socket.socket:
    """A listening socket, as a data plane is given it."""
    made = socket.create_server(("127.0.0.1", port), backlog=backlog)
    made.setblocking(False)
    return made


@asynccontextmanager
async def standing(
    listeners: Sequence[Listener], clusters: Sequence[Cluster] = (), *, drain_time: float = 600, immediate: bool = False
) -> AsyncIterator[Stand]:
    """Serve; at the end everything is cut, and nothing may be left."""
    doors = {each.name: door() for each in listeners if each.bind_to_port}
    ports = {name: made.getsockname()[1] for name, made in doors.items()}
    bound = [each._replace(addresses=(SocketAddress("127.0.0.1", ports.get(each.name, 1)),)) for each in listeners]
    writer = Writer.private()
    traffic = DataPlane(
        Configuration(tuple(bound), tuple(clusters)), writer, drain_time=drain_time, drain_immediately=immediate
    )
    await traffic.warm()
    traffic.start({name: [made] for name, made in doors.items()})
    try:
        yield Stand(traffic, writer, ports)
    finally:
        await traffic.close()
        async with asyncio.timeout(5):
            while traffic.connections:  # noqa: ASYNC110  # a connection that is cut is lost in a turn of the loop
                await asyncio.sleep(0)
    gauges = {name: value for name, value in writer.read().gauges.items() if "active" in name and value}
    assert not gauges, f"still counted: {gauges}"


@asynccontextmanager
async def origin(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[SocketAddress]:
    """A server behind the data plane, one coroutine a connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
    try:
        host, port = server.sockets[0].getsockname()
        yield SocketAddress(host, port)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back, and the end too."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    await writer.drain()
    await reader.read()


@dataclass
class Turns:
    """How often the loop has turned, and how many events the kernel had for it."""

    turns: int = 0
    events: int = 0


@contextmanager
def counted_turns() -> Iterator[Turns]:
    """Count the turns of the running loop in the block."""
    counted = Turns()
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select

    def counting(timeout: float | None = None) -> object:
        events = select(timeout)
        counted.turns += 1
        counted.events += len(events)
        return events

    selector.select = counting
    try:
        yield counted
    finally:
        del selector.select


async def at_rest() -> None:
    """Check that this process does nothing for a moment: whoever waits is woken only for a cause."""
    with counted_turns() as counted:
        await asyncio.sleep(0.3)
    assert counted.turns < 50, "somebody spins"


async def drained(writer: asyncio.StreamWriter) -> None:
    """Wait until what was written is taken; TimeoutError once nothing at all has happened for half a second.

    All of them are in this loop, so that what is on its way is an event here, however slow the machine.
    """
    draining = asyncio.ensure_future(writer.drain())
    while not draining.done():
        with counted_turns() as counted:
            await asyncio.wait({draining}, timeout=0.5)
        if not draining.done() and not counted.events:
            draining.cancel()
            raise TimeoutError
    await draining


async def push(writer: asyncio.StreamWriter, size: int) -> None:
    """Write so many bytes; raise TimeoutError if nobody takes one any more."""
    for _ in range(size >> 20):
        writer.write(bytes(1 << 20))
        await drained(writer)


async def leave(streams: Streams) -> None:
    """Close a connection in good order."""
    streams[1].close()
    with contextlib.suppress(OSError):
        await streams[1].wait_closed()


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """Read until the end, by a reset too; return what came before."""
    got = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            got += part
    return bytes(got)


@cache
def authority() -> Authority:
    """The authority of these tests."""
    return Authority.create("sidecar tests")


def written(directory: Path, leaf: Leaf, name: str) -> Certificate:
    """Write a pair; return where it is."""
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    chain.write_bytes(leaf.chain_pem)
    key.write_bytes(leaf.key_pem)
    return Certificate(str(chain), str(key))


def written_ca(directory: Path, which: Authority, name: str = "ca") -> str:
    """Write an authority's certificate; return where it is."""
    path = directory / f"{name}.pem"
    path.write_bytes(which.pem)
    return str(path)


def visitor(certificate: Certificate | None = None) -> ssl.SSLContext:
    """A client's context that trusts the tests' authority."""
    context = ssl.create_default_context(cadata=authority().pem.decode())
    if certificate is not None:
        context.load_cert_chain(certificate.chain, certificate.key)
    return context
