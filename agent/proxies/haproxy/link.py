"""One epoch of HAProxy: the agent answers at `-x` as the old process, and asks at its console as the next one.

The candidate connects to `-x` when all files are loaded and nothing is bound yet, so that is the gate; the sockets are
the answer that opens it. What it is not given, it binds, and the agent then takes duplicates of everything that it
listens on. It waits a second for each message and then exits.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Collection
from pathlib import Path

from agent.core.errors import MachineError
from agent.handoff import binding
from agent.handoff.socket_store import ListenAddress
from agent.host.log import log_event
from agent.host.memfds import Memfds
from agent.host.tasks import Tasks
from agent.http.server import peer_of
from agent.proxies.haproxy import socket_transfer
from agent.proxies.haproxy.configuration import Configuration
from agent.proxies.haproxy.console import Console, own_addresses
from agent.proxies.haproxy.socket_transfer import REQUEST, Passed
from agent.proxies.interface import Delivery
from agent.proxies.link import EpochContext, EpochLink, Launch, LinkEvents, Send
from agent.proxies.listening_sockets import addressed, interface_of

_FRAGMENT = """\
global
    stats socket fd@{console} level admin expose-fd listeners
.if feature(PROMEX)
defaults proxy_agent_metrics
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend proxy_agent_metrics from proxy_agent_metrics
    bind fd@{metrics}
    http-request use-service prometheus-exporter
.endif
"""
_READY = b"Name:"
_INTERVAL = 0.02  # polling, because only its console shows that an adopted epoch serves


class HAProxyLink:
    """The link to one epoch. `arguments` are the operator's own."""

    def __init__(self, context: EpochContext, events: LinkEvents, arguments: Collection[str]) -> None:
        assert isinstance(context.configuration, Configuration), "this kind has parsed it"
        self._context = context
        self._events = events
        self._arguments = arguments
        self._consoles = own_addresses(context.configuration.consoles)
        self.admin = Console(context.home / "console", context.home / "metrics", context.configuration)
        self.asked: set[ListenAddress] = set(context.places or ())
        self.bound_itself: set[ListenAddress] = set(self.asked)
        self.orphan_signal: signal.Signals | None = None
        self._memory = Memfds()
        self._tasks = Tasks()
        self._opened = asyncio.Event()
        self._listener: socket.socket | None = None
        self._inherited: list[socket.socket] = []
        self._ready: socket.socket | None = None
        self._pid: int | None = None
        self._send: Send | None = None
        self._was_reached = context.is_adopted
        self._is_cleared = False

    @property
    def is_open(self) -> bool:
        """Whether the sockets were or may be handed over."""
        return self._opened.is_set()

    async def open(self, started_at: int, delivery: Delivery | None, *, serves: bool) -> None:
        """Bind what the process inherits, connect to its console before it runs, and listen at `-x`."""
        del started_at, delivery, serves
        if self._context.is_adopted:
            return
        owner, home = self._context.owner, self._context.home
        self._inherited = [
            binding.bind(socket.SOCK_STREAM, each, owner) for each in (self.admin.path, self.admin.metrics)
        ]
        self._ready = _connected(self.admin.path, b"show info\n")
        self._listener = binding.bind(socket.SOCK_STREAM, home / "x", owner)
        self._tasks.spawn(self._answer(self._listener), f"gate of {self._context.number}")

    def launch(self, copy: int, extra: str | None, overlap: int = 0) -> Launch:
        """Return the command line with the operator's copy and the agent's own part of the configuration."""
        del extra, overlap
        console, metrics = (each.fileno() for each in self._inherited)
        fragment = self._memory.hold("agent's part", _FRAGMENT.format(console=console, metrics=metrics).encode())
        gate = self._context.home / "x"
        arguments = [
            "-f",
            f"/dev/fd/{copy}",
            "-f",
            f"/dev/fd/{fragment}",
            "-db",
            "-q",
            "-x",
            str(gate),
            *self._arguments,
        ]
        return Launch(arguments, {}, frozenset({console, metrics, *self._memory.descriptors}))

    def attend(self, pid: int, send: Send) -> None:
        """Accept messages from this process only; report when a new one serves."""
        self._pid = self.admin.pid = pid
        self._send = send
        for each in self._inherited:
            each.close()
        self._memory.close()
        if not self._context.is_adopted:
            self._tasks.spawn(self._report_service(), f"service of {self._context.number}")

    # The gate

    async def _answer(self, listener: socket.socket) -> None:
        """Answer the candidate's request for sockets, once the gate is open."""
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            with connection:
                peer = peer_of(connection)
                if peer is None or peer.pid != self._pid or await loop.sock_recv(connection, len(REQUEST)) != REQUEST:
                    continue
                if not self._was_reached:
                    self._was_reached = True
                    self.asked = set(self._events.sockets())  # what it is given; later, what it listens on
                    self._events.reached_gate()
                await self._opened.wait()
                await self._hand_over(connection)

    async def _hand_over(self, connection: socket.socket) -> None:
        held = self._events.sockets()
        sockets = [_described(place, number) for place, number in held.items() if place.address not in self._consoles]
        try:
            await asyncio.to_thread(socket_transfer.send, connection, sockets)
        except MachineError as error:  # it exited; its pidfd reports that
            number = self._context.number
            log_event(logging.DEBUG, "handoff.unanswered", f"epoch {number} took no sockets: {error}", epoch=number)

    def open_gate(self) -> None:
        """Hand the sockets over."""
        self._opened.set()

    async def _report_service(self) -> None:
        """Report that it serves when its console answers, after taking duplicates of its sockets."""
        assert self._ready is not None
        loop, answer = asyncio.get_running_loop(), b""
        with contextlib.closing(self._ready):
            while not answer.startswith(_READY):
                try:
                    part = await loop.sock_recv(self._ready, 1 << 12)
                except OSError:
                    part = b""
                if not part:
                    return  # it exited; its pidfd reports that
                answer += part
        try:
            await self._take_sockets()
        except MachineError as error:
            text = f"{error}; a crash of epoch {self._context.number} may refuse clients"
            log_event(logging.WARNING, "vault.incomplete", text)
        self._events.serves()

    async def _take_sockets(self) -> None:
        """Take duplicates of what it listens on; those that the agent does not hold yet are new to it."""
        passed = await asyncio.to_thread(self.admin.take_sockets)
        found = addressed(((each.descriptor, each.namespace) for each in passed), self._consoles)
        held = self._events.sockets()
        self.asked = self.bound_itself = set(found)
        self.admin.found = frozenset(found)
        for place, descriptor in found.items():
            if place in held and os.path.sameopenfile(held[place], descriptor):
                os.close(descriptor)
            else:
                self._events.bound(place, descriptor)

    async def resume(self) -> bool:
        """Wait until the console of an adopted epoch answers.

        One that waited for its sockets has exited: it waits a second.
        """
        self._opened.set()
        while not self._is_cleared:
            with contextlib.suppress(MachineError):
                await self.admin.command("show info\n")
                await self._take_sockets()
                self._events.serves()
                return True
            await asyncio.sleep(_INTERVAL)
        return True

    # While it runs

    async def duplicate(self, place: ListenAddress) -> int | None:
        """Return a duplicate of one of its sockets, requested at its console."""
        passed = await asyncio.to_thread(self.admin.take_sockets)
        found = addressed(((each.descriptor, each.namespace) for each in passed), self._consoles)
        self.admin.found = frozenset(found)
        wanted = found.pop(place, None)
        for each in found.values():
            os.close(each)
        return wanted

    def stop_accepting(self) -> None:
        """Send SIGUSR1: it closes its listeners, ends idle connections and exits after the last one."""
        if self._send is not None:
            self._send(signal.SIGUSR1)

    def reopen_logs(self) -> None:
        """Do nothing: it logs to syslog or to standard output, and SIGUSR1 would drain it."""

    def forward_datagrams(self, successor: EpochLink) -> None:
        """Do nothing: it receives no datagrams from the agent."""

    def workers(self) -> Collection[int]:
        """Return none: its workers are threads."""
        return ()

    def clear(self) -> None:
        """Close everything that the agent holds for it."""
        self._is_cleared = True
        self._memory.close()
        for each in self._inherited:
            each.close()
        for watched in (self._listener, self._ready):
            if watched is not None:
                _close_watched(watched)

    async def close(self) -> None:
        """End the tasks."""
        await self._tasks.close()


def _close_watched(sock: socket.socket) -> None:
    """Close a socket that a task may wait for: the event loop would take the next one of its number for it."""
    if sock.fileno() >= 0:
        asyncio.get_running_loop().remove_reader(sock)
    sock.close()


def _described(place: ListenAddress, descriptor: int) -> Passed:
    return Passed(descriptor, place.namespace, interface_of(descriptor))


def _connected(path: Path, request: bytes) -> socket.socket:
    """Return a connection on which a request waits in the queue of a process that does not run yet."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(str(path))
        made.sendall(request)
        made.setblocking(False)
    except OSError as error:
        made.close()
        message = f"cannot reach {path}: {error.strerror}"
        raise MachineError(message) from error
    return made
