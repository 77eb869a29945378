"""Small fakes for the parts around an epoch: its admin interface, its process, the kernel that starts it."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from agent.certificates.contents import Contents
from agent.certificates.selection import LastGood, select_files
from agent.core.errors import AddressHeld, MachineError, ProtocolError
from agent.handoff.segment import HotRestartVersion
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.host.binaries import open_binary
from agent.host.processes import Command
from agent.http.client import UnixPlace, stream
from agent.http.message import Request, Response
from agent.inputs.revisions import LoadedRevision, Program, RevisionStore, Source
from agent.processes.epoch_process import ListenerAccess
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from agent.proxies.envoy.push_contexts import PushMode
from agent.proxies.interface import (
    ConnectFailures,
    Delivered,
    Inbound,
    LoadedCertificate,
    Subscription,
    Subscriptions,
    TlsListener,
    Upstream,
)
from tests.handoff.handmade import DRAIN_LISTENERS, datagrams, number, pass_listen_socket, reply

VERSION = HotRestartVersion(11, 104)
NO_INBOUND = Inbound(frozenset(), frozenset())


class FakeAdmin:
    """An admin interface that gives `answers`: an exception is raised, a function is called for each answer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pid: int | None = None
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {
            "state": "LIVE",
            "is_live": True,
            "waits_at_gate": False,
            "waits_only_for_gate": True,
            "waits_for": [],
            "subscriptions": {},
            "deliveries": {},
            "unseen": [],
            "rejections": [],
            "upstreams": {},
            "certificates": [],
            "connect_failures": ConnectFailures(),
            "listeners": set(),
            "listener_changes": "1",
            "tls_listeners": [],
            "connections": 0,
            "inbound": NO_INBOUND,
            "close_inbound": None,
        }

    @property
    def place(self) -> UnixPlace:
        """Where it listens."""
        return self.path

    async def _answer(self, question: str) -> Any:  # noqa: ANN401  # as the test wrote it
        self.asked.append(question)
        await asyncio.sleep(0)
        told = self.answers[question]
        if isinstance(told, Exception):
            raise told
        return told() if callable(told) else told

    async def responds(self) -> bool:
        return bool(await self._answer("responds"))

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        return stream(self.path, request)

    async def state(self) -> str:
        return str(await self._answer("state"))

    async def is_live(self) -> bool:
        return bool(await self._answer("is_live"))

    async def waits_at_gate(self) -> bool:
        return bool(await self._answer("waits_at_gate"))

    async def waits_only_for_gate(self) -> bool:
        return bool(await self._answer("waits_only_for_gate"))

    async def waits_for(self) -> list[str]:
        return list(await self._answer("waits_for"))

    async def subscriptions(self) -> Subscriptions:
        return dict(await self._answer("subscriptions"))

    async def deliveries(self, scopes: Collection[str]) -> Mapping[str, Delivered]:
        found = dict(await self._answer("deliveries"))
        return {scope: each for scope, each in found.items() if scope in scopes}

    async def unseen(self) -> list[Subscription]:
        return list(await self._answer("unseen"))

    async def rejections(self) -> list[str]:
        return list(await self._answer("rejections"))

    async def upstreams(self) -> dict[str, list[Upstream]]:
        return dict(await self._answer("upstreams"))

    async def connect_failures(self, cluster: str) -> ConnectFailures:  # noqa: ARG002  # as the protocol has it
        told = await self._answer("connect_failures")
        assert isinstance(told, ConnectFailures)
        return told

    async def certificates(self) -> list[LoadedCertificate]:
        return list(await self._answer("certificates"))

    async def listeners(self) -> set[ListenAddress]:
        return set(await self._answer("listeners"))

    async def listener_changes(self) -> str:
        return str(await self._answer("listener_changes"))

    async def tls_listeners(self) -> list[TlsListener]:
        return list(await self._answer("tls_listeners"))

    async def connections(self, inbound: Inbound | None = None) -> int | None:
        told = await self._answer("connections")
        count = told.get(inbound) if isinstance(told, dict) else told
        assert count is None or isinstance(count, int)
        return count

    async def inbound(self) -> Inbound:
        told = await self._answer("inbound")
        assert isinstance(told, Inbound)
        return told

    async def close_inbound(self) -> None:
        await self._answer("close_inbound")


class FakeKind(Envoy):
    """Envoy with an admin interface that answers as the test says."""

    def admin(self, path: Path) -> FakeAdmin:
        """Return a fake one."""
        return FakeAdmin(path)


KIND = FakeKind(Flags(), 1.0)
PUSHING = FakeKind(Flags(), 1.0, push=PushMode(drains=True))
"""The same, with pushes of certificates."""


class Revisions(RevisionStore):
    """A revision store that makes revisions from text; `close` gives everything back."""

    def __init__(self, kind: FakeKind = KIND) -> None:
        super().__init__()
        self._binary = open_binary(Path("/bin/true"))
        self._kind = kind
        self.program = Program(self._binary, kind, "1.40.0", VERSION)

    def load(
        self, text: str = "{}", contents: Contents | None = None, resources: Mapping[str, bytes] | None = None
    ) -> LoadedRevision:
        """Make a revision of this configuration and these files."""
        resources = dict(resources or {})
        configuration = self._kind.configuration(text, "/etc/envoy.yaml", None, resources)
        references = [each for each in configuration.references if each.path in (contents or {})]
        selection = select_files(references, contents or {}, LastGood(), clock.calendar())
        return self.make(Source(configuration, text.encode(), resources), selection, self.program, b"")

    def close(self) -> None:
        """Release all revisions and the program."""
        self.keep_only([])
        self._binary.close()


class FakeProcess:
    """A process that is only a pid, this one's, and a list of the signals that it got."""

    def __init__(self, on_exit: Callable[[int | None], None] = lambda _: None, pid: int | None = None) -> None:
        self.pid = os.getpid() if pid is None else pid
        self.exit = on_exit
        self.signals: list[signal.Signals] = []

    def signal(self, number: signal.Signals) -> None:
        """Note a signal."""
        self.signals.append(number)


class Kernel:
    """Starts no process: notes each command. `results` are those of the commands that run to their end."""

    def __init__(self) -> None:
        self.started: list[Command] = []
        self.adopted: list[tuple[int, int]] = []
        self.processes: list[FakeProcess] = []
        self.ran: list[tuple[Command, float]] = []
        self.results: list[tuple[int, str] | Exception] = []
        self.refusal: Exception | None = None
        self.before_start: Callable[[], None] = lambda: None

    def start(self, command: Command, on_exit: Callable[[int | None], None]) -> FakeProcess:
        """Start a process, in place of `Process.start`."""
        self.before_start()
        self.started.append(command)
        return self._made(on_exit)

    def adopt(self, pid: int, created: int, on_exit: Callable[[int | None], None]) -> FakeProcess:
        """Adopt a process, in place of `Process.adopt`."""
        self.adopted.append((pid, created))
        return self._made(on_exit)

    def _made(self, on_exit: Callable[[int | None], None]) -> FakeProcess:
        if self.refusal is not None:
            raise self.refusal
        self.processes.append(FakeProcess(on_exit))
        return self.processes[-1]

    async def run(self, command: Command, timeout: float) -> tuple[int, str]:
        """Run a command to its end, in place of `processes.run`."""
        self.ran.append((command, timeout))
        await asyncio.sleep(0)
        result = self.results.pop(0) if self.results else (0, "")
        if isinstance(result, Exception):
            raise result
        return result


class Calls:
    """Notes what an epoch process reports."""

    def __init__(self, get_socket: Callable[[int, ListenAddress], int | None] = lambda _, __: None) -> None:
        self.gates: list[int] = []
        self.serving: list[int] = []
        self.exits: list[tuple[int, int | None]] = []
        self.held: list[tuple[int, AddressHeld]] = []
        self.broken: list[tuple[int, ProtocolError]] = []
        self.bound: list[tuple[ListenAddress, int]] = []
        self.access = ListenerAccess(
            reached_gate=self.gates.append,
            serves=self.serving.append,
            exited=lambda number, code: self.exits.append((number, code)),
            held=lambda number, error: self.held.append((number, error)),
            broken=lambda number, error: self.broken.append((number, error)),
            get_socket=get_socket,
            sockets=dict,
            bound=lambda _, place, descriptor: self.bound.append((place, descriptor)),
            is_serving=lambda: False,
        )


class Peer:
    """The proxy's side of an epoch's channels, in this process: sends requests, answers them from `sockets`."""

    def __init__(self, names: SocketPaths) -> None:
        self._names = names
        self._parent, self._child = (_bound(path) for path in (names.epoch_as_parent, names.epoch_as_child))
        self.sockets: dict[tuple[str, int], socket.socket] = {}
        self.drains = 0  # how often it was told to close its listeners
        self.asked: list[tuple[str, int]] = []
        self.replies: list[tuple[bytes, list[int]]] = []
        loop = asyncio.get_running_loop()
        loop.add_reader(self._parent, self._hear)
        loop.add_reader(self._child, self._hear_reply)

    def close(self) -> None:
        """Close its sockets; safe to repeat."""
        loop = asyncio.get_running_loop()
        for each in (self._parent, self._child):
            if each.fileno() != -1:
                loop.remove_reader(each)
                each.close()

    def request(self, body: bytes) -> None:
        """Send a request to its parent, the agent."""
        for datagram in datagrams(body):
            self._child.sendto(datagram, str(self._names.agent_as_parent))

    def ask(self, address: str, worker: int = 0) -> None:
        """Ask for a listening socket."""
        self.request(pass_listen_socket(address, worker))

    def _hear(self) -> None:
        data = self._parent.recv(1 << 16)[8:]
        if data == DRAIN_LISTENERS:
            self.drains += 1
            return
        key = next((each for each in self.sockets if pass_listen_socket(*each) == data), None)
        if key is not None:
            self.asked.append(key)
        held = None if key is None else self.sockets[key].fileno()
        [answer] = datagrams(reply(1, number(1, -1 if held is None else held)))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(self._names.agent_as_child))
            socket.send_fds(sender, [answer], [] if held is None else [held])

    def _hear_reply(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._child, 1 << 16, 4)
        inodes = [os.fstat(descriptor).st_ino for descriptor in descriptors]
        for descriptor in descriptors:
            os.close(descriptor)
        self.replies.append((data[8:], inodes))


def _bound(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.bind(str(path))
    return made


def listening(count: int = 1) -> Sequence[socket.socket]:
    """Return sockets that listen on ports of loopback."""
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def silent(text: str = "it does not answer") -> MachineError:
    """Return what an admin interface that does not answer raises."""
    return MachineError(text)
