"""One epoch of a server: it is given a socket of its own for each listener, and tested before a client reaches it.

A TCP listener is a group of sockets that the agent steers (`agent.handoff.steering`). A Unix listener of a candidate
has another path until its commit, when it is renamed over the one that serves. So the same holds for both: clients
reach the serving epoch only, and the agent has seen the candidate answer at the real address.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import psutil

from agent.core.errors import AddressHeld, MachineError
from agent.handoff import binding
from agent.handoff.socket_store import ListenAddress
from agent.handoff.steering import SteeredGroup
from agent.host.foreign_descriptors import sockets_of
from agent.host.log import log_event
from agent.host.sockets import Endpoint, bind_for_proxy
from agent.host.tasks import Tasks
from agent.proxies.interface import Delivery, Inbound, TlsListener
from agent.proxies.link import EpochContext, EpochLink, Launch, LinkEvents, Send
from agent.proxies.listening_sockets import addressed
from agent.proxies.server.check import Check, NotReadyError, attempt
from agent.proxies.server.configuration import Configuration
from agent.proxies.standalone import StandaloneAdmin

Groups = dict[str, SteeredGroup]
"""The groups of all epochs, by address."""

_BACKLOG = 4096
_INTERVAL = 0.05  # between tests that fail: only the answer tells whether it is ready
_QUEUE_INTERVAL, _QUEUE_LIMIT = 0.01, 5.0  # seconds in which a superseded server accepts who waits in its own queue
_MOMENT = 0.4  # seconds that accepted connections have before the server is told to end
_TCP_INFO_BACKLOG = slice(24, 28)
_READY = b"READY=1"


class ServerAdmin(StandaloneAdmin):
    """What the agent itself knows of a server: whether clients may still be waiting for it."""

    def __init__(self, path: Path, configuration: Configuration, names: Collection[str | None]) -> None:
        super().__init__(path, configuration)
        self.is_quiet = True
        self._names = names

    async def tls_listeners(self) -> list[TlsListener]:
        """Return each TCP listener for each name that one of its certificates has."""
        listeners = self._configuration.tls_listeners
        return [TlsListener(each.place, name) for each in listeners for name in dict.fromkeys(self._names)]

    async def connections(self, inbound: Inbound | None = None) -> int | None:
        """Return 1 as long as clients wait in its queues; None: the kernel counts the others."""
        del inbound
        return None if self.is_quiet else 1


class ServerLink:
    """The link to one epoch. `notifies`: it says READY=1 (sd_notify(3)); `drain_signal` ends it."""

    def __init__(
        self,
        context: EpochContext,
        events: LinkEvents,
        groups: Groups,
        check: Check | None,
        *,
        notifies: bool,
        drain_signal: signal.Signals,
    ) -> None:
        assert isinstance(context.configuration, Configuration), "this kind has parsed it"
        self._context = context
        self._configuration = context.configuration
        self._events = events
        self._groups = groups
        self._check = check
        self._notifies = notifies
        self._drain_signal = drain_signal
        self.admin = ServerAdmin(context.home / "admin", self._configuration, context.leaves.values())
        self.asked: set[ListenAddress] = set(context.places or ())
        self.bound_itself: set[ListenAddress] = set(self.asked)
        self.is_open = context.is_adopted
        self.orphan_signal: signal.Signals | None = signal.SIGKILL  # it may hold the port and the agent's pipes
        self._sockets: dict[str, socket.socket] = {}  # by the listener's name
        self._renamed: dict[Path, Path] = {}  # Unix paths of a candidate: where it listens, and where it will
        self._notified = asyncio.Event()
        self._notifications: socket.socket | None = None
        self._tasks = Tasks()
        self._pid: int | None = None
        self._send: Send | None = None
        self._is_cleared = False

    # Sockets

    async def open(self, started_at: int, delivery: Delivery | None, *, serves: bool) -> None:
        """Bind a socket for each listener: the one that the agent holds if no epoch serves there, or another one."""
        del started_at, delivery
        if self._context.is_adopted:
            return
        held = self._events.sockets()
        try:
            for name, place in self._configuration.places.items():
                self._sockets[name] = self._socket(place, held)
                if place not in held or not os.path.sameopenfile(held[place], self._sockets[name].fileno()):
                    self._events.bound(place, os.dup(self._sockets[name].fileno()))
        except (OSError, AddressHeld) as error:
            self._close_sockets()
            if isinstance(error, AddressHeld):
                self._events.held(error)
            message = f"cannot listen for epoch {self._context.number}: {error}"
            raise MachineError(message) from error
        self.asked = set(self._configuration.places.values())
        if self._notifies:
            path = self._context.home / "notify"
            self._notifications = binding.bind(socket.SOCK_DGRAM, path, self._context.owner)
            asyncio.get_running_loop().add_reader(self._notifications, self._hear)
        del serves

    def _socket(self, place: ListenAddress, held: Mapping[ListenAddress, int]) -> socket.socket:
        endpoint = Endpoint.parse(place.address)
        number = held.get(place)
        if number is not None and not self._events.is_serving():
            made = socket.socket(fileno=os.dup(number))
            self._group(place).add(self._context.number, os.dup(number))
            return made
        if endpoint.path and number is not None:
            path = Path(f"{endpoint.path}.{self._context.number}")
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            self._renamed[path] = Path(endpoint.path)
            endpoint = Endpoint(path=str(path))
        made = bind_for_proxy(endpoint, reuse_port=not endpoint.path, dual_stack=endpoint.host == "::")
        if not endpoint.path:
            self._group(place).add(self._context.number, os.dup(made.fileno()))
            self._group(place).test(
                self._context.number, 0, self._held(place)
            )  # before it listens: no client is its own
        made.listen(_BACKLOG)
        return made

    def _group(self, place: ListenAddress) -> SteeredGroup:
        return self._groups.setdefault(place.address, SteeredGroup())

    def _held(self, place: ListenAddress) -> int | None:
        """Return the inode of the socket that the agent holds for an address."""
        number = self._events.sockets().get(place)
        return None if number is None else os.fstat(number).st_ino

    def _close_sockets(self) -> None:
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()

    def launch(self, copy: int, extra: str | None, overlap: int = 0) -> Launch:
        """Return the command line; descriptors are passed as systemd passes them, sd_listen_fds(3)."""
        del copy, overlap
        assert extra is not None, "its copies make one"
        environment = {}
        if self._notifications is not None:
            environment["NOTIFY_SOCKET"] = str(self._context.home / "notify")
        listening = tuple((name, each.fileno()) for name, each in self._sockets.items())
        return Launch(json.loads(extra), environment, listening=listening)

    def attend(self, pid: int, send: Send) -> None:
        """Test a new process until it answers."""
        self._pid = self.admin.pid = pid
        self._send = send
        if self._context.is_adopted:
            self._tasks.spawn(self._regain(), f"sockets of {self._context.number}")
        else:
            self._tasks.spawn(self._test(), f"test of {self._context.number}")

    # The gate

    def _hear(self) -> None:
        assert self._notifications is not None
        with contextlib.suppress(OSError):
            if _READY in self._notifications.recv(1 << 12).split(b"\n"):
                self._notified.set()

    async def _test(self) -> None:
        """Report that it reached the gate when it answers as it should, at each of its listeners."""
        if self._notifies:
            await self._notified.wait()
        for name, place in self._configuration.places.items():
            await self._test_one(name, place)
        self._events.reached_gate()

    async def _test_one(self, name: str, place: ListenAddress) -> None:
        check = self._check if self._check is not None and self._check.listener in {"", name} else None
        if check is None and not self._leaves:
            if not self._notifies:
                await self._accepted(name)
            return
        endpoint = Endpoint.parse(place.address)
        if endpoint.path and (moved := self._path_now(endpoint.path)) is not None:
            endpoint = Endpoint(path=str(moved))
        said = ""
        while not self._is_cleared:
            try:
                await attempt(endpoint, check, self._leaves, self._steering(place))
            except NotReadyError as error:
                if str(error) != said:
                    said = str(error)
                    log_event(logging.DEBUG, "epoch.unready", f"epoch {self._context.number}: {said}")
            else:
                return
            await asyncio.sleep(_INTERVAL)

    def _path_now(self, path: str) -> Path | None:
        return next((before for before, after in self._renamed.items() if str(after) == path), None)

    @property
    def _leaves(self) -> Mapping[str, str | None]:
        return self._context.leaves if self._configuration.tls_listeners else {}

    def _steering(self, place: ListenAddress) -> Callable[[int], None]:
        def steer(port: int) -> None:
            self._group(place).test(self._context.number, port, self._held(place))

        return steer

    async def _accepted(self, name: str) -> None:
        """Wait until it accepts a connection: without a request there is nothing else that it could answer."""
        own = self._sockets[name]
        if own.family == socket.AF_UNIX:
            return
        place = self._configuration.places[name]
        with contextlib.suppress(NotReadyError):
            await attempt(Endpoint.parse(place.address), None, {}, self._steering(place))
        while _queued(own) and not self._is_cleared:  # noqa: ASYNC110
            await asyncio.sleep(_QUEUE_INTERVAL)

    def open_gate(self) -> None:
        """Steer all clients to it."""
        self.is_open = True
        if self._context.is_adopted:
            return
        for place in self._configuration.places.values():
            if place.address.startswith("tcp://"):
                self._group(place).commit(self._context.number, self._held(place))
        for before, after in self._renamed.items():
            with contextlib.suppress(OSError):
                before.rename(after)
        self._events.serves()

    async def resume(self) -> bool:
        """Return True: an adopted epoch with an open gate serves."""
        self._events.serves()
        return True

    async def _regain(self) -> None:
        """Take duplicates of an adopted epoch's sockets into the groups."""
        with contextlib.suppress(MachineError):
            for place, descriptor in (await self._found()).items():
                self._group(place).add(self._context.number, descriptor)

    async def _found(self) -> dict[ListenAddress, int]:
        assert self._pid is not None
        taken = await asyncio.to_thread(sockets_of, self._pid)
        return addressed((each, "") for each in taken)

    # While it runs

    async def duplicate(self, place: ListenAddress) -> int | None:
        """Return a duplicate of one of its sockets."""
        for name, own in self._configuration.places.items():
            if own == place and name in self._sockets:
                return os.dup(self._sockets[name].fileno())
        found = await self._found()
        wanted = found.pop(place, None)
        for each in found.values():
            os.close(each)
        return wanted

    def stop_accepting(self) -> None:
        """Tell it to end when its own queues are empty: nothing new reaches it any more."""
        self.admin.is_quiet = False
        self._tasks.spawn(self._end_when_empty(), f"end of {self._context.number}")

    async def _end_when_empty(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_QUEUE_LIMIT):
                while any(map(_queued, self._sockets.values())):  # noqa: ASYNC110
                    await asyncio.sleep(_QUEUE_INTERVAL)
        await asyncio.sleep(_MOMENT)
        if self._send is not None:
            self._send(self._drain_signal)
        self.admin.is_quiet = True

    def reopen_logs(self) -> None:
        """Do nothing: the agent does not know which signal does."""

    def forward_datagrams(self, successor: EpochLink) -> None:
        """Do nothing: it receives no datagrams from the agent."""

    def workers(self) -> Collection[int]:
        """Return the pids of its children, and of theirs."""
        try:
            return (
                () if self._pid is None else [each.pid for each in psutil.Process(self._pid).children(recursive=True)]
            )
        except psutil.Error:
            return ()

    def clear(self) -> None:
        """Close everything that the agent holds for it."""
        self._is_cleared = True
        self._close_sockets()
        for place in self._configuration.places.values():
            self._group(place).remove(self._context.number, self._held(place))
        for path in self._renamed:
            with contextlib.suppress(OSError):
                path.unlink()
        if self._notifications is not None:
            asyncio.get_running_loop().remove_reader(self._notifications)
            self._notifications.close()

    async def close(self) -> None:
        """End the tasks."""
        await self._tasks.close()


def _queued(listener: socket.socket) -> int:
    """Return the number of clients in a TCP accept queue; 0 where it is not available."""
    if listener.family == socket.AF_UNIX or listener.fileno() < 0:
        return 0
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    return int.from_bytes(info[_TCP_INFO_BACKLOG], "little")
