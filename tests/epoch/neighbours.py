"""A neighbour in a chain that is neither the library nor the agent: sockets bound as by Envoy, messages as bytes."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.epoch.arguments import Arguments
from agent.epoch.hot_restart import HotRestart, ServerHooks
from agent.handoff.socket_store import ListenAddress
from tests.handoff.handmade import datagrams, framed
from tests.system.eventually import PATIENCE


def to_kernel(name: str) -> str | bytes:
    """Return a name in the form of bind(2): an abstract one is padded with zeros to 108 bytes."""
    return b"\0" + name[1:].encode().ljust(107, b"\0") if name.startswith("@") else name


class Neighbour:
    """Epoch `number` of a chain, with its two sockets."""

    def __init__(self, prefix: str, base_id: int, number: int) -> None:
        self._prefix = prefix
        self._first = base_id * 10
        self._sockets = {role: self._bound(self.name(role, number)) for role in ("parent", "child")}

    def name(self, role: str, number: int) -> str:
        """Return the name of a role of an epoch of the chain."""
        return f"{self._prefix}_{role}_{self._first + number % 3}"

    @staticmethod
    def _bound(name: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if not name.startswith("@"):
            Path(name).unlink(missing_ok=True)
        made.bind(to_kernel(name))
        return made

    def send(self, role: str, number: int, *bodies: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send whole messages to a role of an epoch."""
        self.send_raw(role, number, *[part for body in bodies for part in datagrams(body)], descriptors=descriptors)

    def send_raw(self, role: str, number: int, *parts: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send datagrams unchanged."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(to_kernel(self.name(role, number)))
            for part in parts:
                socket.send_fds(sender, [part], descriptors) if descriptors else sender.send(part)

    async def read(self, role: str) -> tuple[bytes, list[int]]:
        """Receive one datagram and its descriptors."""
        sock = self._sockets[role]
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(sock, readable.set)
        try:
            async with asyncio.timeout(PATIENCE):
                await readable.wait()
        finally:
            loop.remove_reader(sock)
        data, descriptors, _, _ = socket.recv_fds(sock, 1 << 16, 4)
        return data, descriptors

    async def expect(self, role: str, body: bytes) -> None:
        """Receive exactly this message, with no descriptor."""
        assert await self.read(role) == (framed(body), [])

    def is_quiet(self, role: str) -> bool:
        """Return whether nothing has arrived."""
        try:
            self._sockets[role].recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        """Close the sockets; as with Envoy, their files remain."""
        for each in self._sockets.values():
            each.close()


@contextmanager
def neighbour(prefix: str, base_id: int, number: int) -> Iterator[Neighbour]:
    """Act as epoch `number` during the block."""
    made = Neighbour(prefix, base_id, number)
    try:
        yield made
    finally:
        made.close()


class Stranger:
    """Another process, which sends datagrams on request."""

    CODE = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
for line in sys.stdin:
    name, data = map(bytes.fromhex, line.split())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(name)
        sender.send(data)
    print(flush=True)
"""

    def __init__(self, user: int | None) -> None:
        command = [sys.executable, "-I", "-S", "-c", self.CODE, str(os.getuid() if user is None else user)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def send(self, name: str, data: bytes) -> None:
        """Let it send one datagram; return afterwards."""
        address = to_kernel(name)
        raw = address if isinstance(address, bytes) else address.encode()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{raw.hex()} {data.hex()}\n")
        assert self._process.stdout.readline() == "\n"

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def a_stranger(user: int | None = None) -> Iterator[Stranger]:
    """Start another process, optionally of another user."""
    made = Stranger(user)
    try:
        yield made
    finally:
        made.close()


@dataclass
class Server:
    """A server's part in a hot restart: the values that it provides, and the calls it received."""

    shares: dict[ListenAddress, int] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)

    def part(self) -> ServerHooks:
        """Return its hooks."""
        return ServerHooks(
            share=self.shares.get,
            drain=lambda: self.heard.append("drain"),
            shutdown_admin=lambda: self.heard.append("shutdown_admin"),
            terminate=lambda: self.heard.append("terminate"),
            stats=lambda: (self.counters, self.gauges),
        )


@asynccontextmanager
async def joined(arguments: Arguments, server: Server) -> AsyncIterator[HotRestart]:
    """Yield a hot restart that has joined; it exits at the end, and its files are removed if it has served."""
    made = HotRestart(arguments, server.part())
    await made.join()
    try:
        yield made
    finally:
        made.close()


def arguments(prefix: str, base_id: int, epoch: int, parent_shutdown_time: float = 0) -> Arguments:
    """Return the command line of an epoch of the chain."""
    return Arguments(
        socket_path=prefix, base_id=base_id, restart_epoch=epoch, parent_shutdown_time=parent_shutdown_time
    )


@contextmanager
def listening(*, reuse_port: bool = False, listens: bool = True) -> Iterator[socket.socket]:
    """Listen on a port of loopback."""
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
        made.bind(("127.0.0.1", 0))
        if listens:
            made.listen()
        yield made


def close_all(descriptors: list[int]) -> None:
    """Close received descriptors."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
