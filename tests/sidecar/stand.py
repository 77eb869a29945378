"""A data plane in this process, on sockets with ports chosen by the kernel, and servers behind it."""

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
    """A serving data plane."""

    traffic: DataPlane
    writer: Writer
    ports: dict[str, int]

    def stat(self, name: str) -> int:
        """Return the value of a counter or gauge, which must exist."""
        snapshot = self.writer.read()
        return {**snapshot.counters, **snapshot.gauges}[name]

    def of_listener(self, name: str, listener: str = "l") -> int:
        """Return the value of a statistic of a listener."""
        return self.stat(f"listener.127.0.0.1_{self.ports[listener]}.{name}")

    async def connect(self, listener: str = "l", tls: ssl.SSLContext | None = None, sni: str = "a.example") -> Streams:
        """Connect to a listener."""
        name = sni if tls else None
        return await asyncio.open_connection("127.0.0.1", self.ports[listener], ssl=tls, server_hostname=name)

    async def until(self, name: str, value: int) -> None:
        """Wait until a statistic has a value; it changes in this loop, so it is checked in each iteration."""
        while self.stat(name) != value:  # noqa: ASYNC110  # shared memory sends no event
            await asyncio.sleep(0)


def listener(filter_: NetworkFilter, name: str = "l", tls: DownstreamTls | None = None, **fields: object) -> Listener:
    """A listener with one chain; its address comes later."""
    chain = FilterChain(filter_, tls=tls)
    return Listener(name, (SocketAddress("127.0.0.1", 0),), (chain,))._replace(**fields)  # type: ignore[arg-type]


def cluster(*endpoints: Address, name: str = "c", tls: UpstreamTls | None = None, within: float = PATIENCE) -> Cluster:
    """A STATIC cluster."""
    return Cluster(name, "STATIC", endpoints, within, tls)


def door(port: int = 0, backlog: int = 1024) -> socket.socket:
    """Return a listening socket, as a data plane receives it."""
    made = socket.create_server(("127.0.0.1", port), backlog=backlog)
    made.setblocking(False)
    return made


@asynccontextmanager
async def standing(
    listeners: Sequence[Listener], clusters: Sequence[Cluster] = (), *, drain_time: float = 600, immediate: bool = False
) -> AsyncIterator[Stand]:
    """Serve; at the end all connections are cut, and none may be left."""
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
            while traffic.connections:  # noqa: ASYNC110  # a cut connection ends in an iteration of the loop
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
    """Send back all data, and the end of the stream."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    await writer.drain()
    await reader.read()


@dataclass
class Turns:
    """The number of loop iterations, and of events in them."""

    turns: int = 0
    events: int = 0


@contextmanager
def counted_turns() -> Iterator[Turns]:
    """Count the iterations of the running loop in the block."""
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
    """Check that this process is idle for a moment: no busy waiting."""
    with counted_turns() as counted:
        await asyncio.sleep(0.3)
    assert counted.turns < 50, "somebody spins"


async def drained(writer: asyncio.StreamWriter) -> None:
    """Wait until written data is read; TimeoutError if half a second passes without any event.

    Both ends are in this loop, so data in transit is an event here, however slow the machine is.
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
    """Write this many bytes; raise TimeoutError if the peer reads no more."""
    for _ in range(size >> 20):
        writer.write(bytes(1 << 20))
        await drained(writer)


async def leave(streams: Streams) -> None:
    """Close a connection in order."""
    streams[1].close()
    with contextlib.suppress(OSError):
        await streams[1].wait_closed()


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """Read until the end or a reset; return the data."""
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
    """Write a pair; return its paths."""
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    chain.write_bytes(leaf.chain_pem)
    key.write_bytes(leaf.key_pem)
    return Certificate(str(chain), str(key))


def written_ca(directory: Path, which: Authority, name: str = "ca") -> str:
    """Write an authority's certificate; return its path."""
    path = directory / f"{name}.pem"
    path.write_bytes(which.pem)
    return str(path)


def visitor(certificate: Certificate | None = None) -> ssl.SSLContext:
    """A client's context that trusts the tests' authority."""
    context = ssl.create_default_context(cadata=authority().pem.decode())
    if certificate is not None:
        context.load_cert_chain(certificate.chain, certificate.key)
    return context
