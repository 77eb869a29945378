"""Wires with an end that a test holds."""

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from agent.sidecar.client import Client
from agent.sidecar.model import Pipe
from agent.sidecar.wire import Wire
from agent.stats.writer import Writer

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_numbers = itertools.count()


class Pair(NamedTuple):
    """A wire of the sidecar's, and the socket at its far end; neither blocks."""

    wire: Wire
    far: socket.socket

    def close(self) -> None:
        """Close both ends."""
        self.wire.socket.close()
        self.far.close()


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection between Unix sockets; neither blocks."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def pair(kind: type[Wire] = Wire) -> Pair:
    """Return a wire over a pair of Unix sockets."""
    near, far = connected()
    return Pair(kind(near), far)


def tcp_connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection; neither blocks."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        far = socket.create_connection(door.getsockname())
        near, _ = door.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def reset(far: socket.socket) -> None:
    """Close a TCP socket so that its peer gets a reset."""
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()


def fill(sender: socket.socket) -> int:
    """Send zeros until the peer's buffers are full; return how many."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += sender.send(bytes(1 << 16))
    return size


def drain(receiver: socket.socket) -> bytes:
    """Receive all that is there; nothing more after the end."""
    got = bytearray()
    with contextlib.suppress(BlockingIOError):
        while part := receiver.recv(1 << 16):
            got += part
    return bytes(got)


class PretendSecure(Wire):
    """A plain wire that says that it is under TLS."""

    is_secure = True


async def turns(count: int = 10) -> None:
    """Let the loop turn a few times, without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


def client(wire: Wire, left: list[Client] | None = None) -> Client:
    """Return a client at a wire; `left` gets it when it leaves."""
    made = Client(lambda gone: None if left is None else left.append(gone))
    made.wire = wire
    return made


def stat(stats: Writer, name: str) -> int:
    """Return what a counter or gauge stands at, which must be there."""
    snapshot = stats.read()
    return {**snapshot.counters, **snapshot.gauges}[name]


def counted(stats: Writer, scope: str = "") -> dict[str, int]:
    """Return every statistic below a scope that is not zero."""
    snapshot = stats.read()
    both = {**snapshot.counters, **snapshot.gauges}
    return {name.removeprefix(scope): value for name, value in both.items() if value and name.startswith(scope)}


def abstract() -> Pipe:
    """Return the address of a Unix socket that nobody has."""
    return Pipe(f"@sidecar-{os.getpid()}-{next(_numbers)}")


@asynccontextmanager
async def unix_origin(serve: Serve) -> AsyncIterator[Pipe]:
    """Run a server at an abstract Unix socket, one coroutine a connection; at the end all are cancelled."""
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.transport.abort()

    place = abstract()
    server = await asyncio.start_unix_server(accepted, f"\0{place.path[1:]}", limit=1 << 20)
    try:
        yield place
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns()
