"""One epoch of a server: it gets sockets of its own, and is tested as a client does before a client reaches it."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import psutil

from agent.core.errors import MachineError
from agent.handoff import binding
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.host.log import log_event
from agent.host.processes import connections_at
from agent.host.sockets import Endpoint
from agent.host.tasks import Tasks
from agent.http.message import Request, Response
from agent.proxies.interface import Delivery, Inbound, TlsListener
from agent.proxies.link import EpochContext, EpochLink, Launch, LinkEvents, Send
from agent.proxies.server.check import Check, NotReadyError, accepts, attempt
from agent.proxies.server.configuration import Configuration
from agent.proxies.server.listeners import Listener
from agent.proxies.server.sockets import EpochSockets, Groups
from agent.proxies.standalone import StandaloneAdmin

_INTERVAL = 0.05  # between tests that fail: only the answer tells whether it is ready
_QUEUE_INTERVAL, _QUEUE_LIMIT = 0.01, 5.0  # seconds in which nobody of a superseded server's queue is accepted
_MOMENT = 1.0  # seconds in which no connection of a superseded server ends, before it is told to end
_SETTLE_INTERVAL, _SETTLE_LIMIT = 0.05, 10.0
_READY = b"READY=1"
_UNTOLD = "it has not said READY=1"


class ServerAdmin(StandaloneAdmin):
    """What the agent itself knows of a server: what it waits for, and whether clients may still be waiting for it."""

    def __init__(self, path: Path, configuration: Configuration, names: Collection[str | None]) -> None:
        super().__init__(path, configuration)
        self.is_quiet = True
        self.awaited = ""
        self._names = names

    async def responds(self) -> bool:
        """Return True when it accepts a connection or refuses one. There is no timeout."""
        place = self._configuration.listeners[0].place
        with contextlib.suppress(OSError):
            await accepts(Endpoint.parse(place.address))
        return True

    async def state(self) -> str:
        """Return UNTESTED until it has answered as it should."""
        return "UNTESTED" if self.awaited else "LIVE"

    async def waits_for(self) -> list[str]:
        """Return how it answered last."""
        return [self.awaited] if self.awaited else []

    async def tls_listeners(self) -> list[TlsListener]:
        """Return each TLS listener for each name that one of its certificates has."""
        listeners = self._configuration.tls_listeners
        return [TlsListener(each.place, name) for each in listeners for name in dict.fromkeys(self._names)]

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Return no metrics: the agent knows of none."""
        del request
        return contextlib.nullcontext(Response(200, _nothing(), (("content-type", "text/plain; version=0.0.4"),)))

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
        self._listeners = context.configuration.given
        self._events = events
        self._check = check
        self._notifies = notifies
        self._drain_signal = drain_signal
        self.admin = ServerAdmin(context.home / "admin", context.configuration, context.leaves.values())
        self.asked: set[ListenAddress] = set(context.places or ())
        self.bound_itself: set[ListenAddress] = set(self.asked)
        self.is_open = context.is_adopted
        self.orphan_signal: signal.Signals | None = signal.SIGKILL  # it may hold the port and the agent's pipes
        self._sockets = EpochSockets(context.number, self._listeners, groups, events)
        self._notified = asyncio.Event()
        self._notifications: socket.socket | None = None
        self._tasks = Tasks()
        self._regained: asyncio.Task[None] | None = None
        self._pid: int | None = None
        self._send: Send | None = None

    async def open(self, started_at: int, delivery: Delivery | None, *, serves: bool) -> None:
        """Listen at each address, and for notifications. Raises `MachineError`."""
        del started_at, delivery, serves
        if self._context.is_adopted:
            return
        await self._sockets.open()
        self.asked = {each.place for each in self._listeners}
        if self._notifies:
            path = self._context.home / "notify"
            self._notifications = binding.bind(socket.SOCK_DGRAM, path, self._context.owner)
            asyncio.get_running_loop().add_reader(self._notifications, self._hear)

    def launch(self, copy: int, extra: str | None, overlap: int = 0) -> Launch:
        """Return the command line; descriptors are passed as systemd passes them, sd_listen_fds(3)."""
        del copy, overlap
        assert extra is not None, "its copies make one"
        environment = {}
        if self._notifications is not None:
            environment["NOTIFY_SOCKET"] = str(self._context.home / "notify")
        return Launch(json.loads(extra), environment, listening=self._sockets.passed)

    def attend(self, pid: int, send: Send) -> None:
        """Test a new process until it answers."""
        self._pid = self.admin.pid = pid
        self._send = send
        if self._context.is_adopted:
            self._regained = self._tasks.spawn(self._regain(), f"sockets of {self._context.number}")
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
            self.admin.awaited = _UNTOLD
            await self._notified.wait()
        for listener in self._listeners:
            await self._test_at(listener)
        self.admin.awaited = ""
        self._events.reached_gate()

    async def _test_at(self, listener: Listener) -> None:
        check = self._check if self._check is not None and self._check.listener in {"", listener.name} else None
        leaves = {} if listener.is_plain else self._context.leaves
        if check is None and not leaves and self._notifies:
            return
        place = listener.place
        while True:
            try:
                await attempt(self._sockets.endpoint(place), check, leaves, partial(self._sockets.steer, place))
            except NotReadyError as error:
                self._unready(str(error))
            else:
                return
            await asyncio.sleep(_INTERVAL)

    def _unready(self, why: str) -> None:
        if why != self.admin.awaited:
            self.admin.awaited = why
            log_event(logging.DEBUG, "epoch.unready", f"epoch {self._context.number}: {why}")

    def open_gate(self) -> None:
        """Steer all clients to it."""
        self.is_open = True
        if not self._context.is_adopted:
            self._commit()
            self._events.serves()

    def _commit(self) -> None:
        try:
            self._sockets.commit()
        except OSError as error:
            text = f"cannot lead all clients to epoch {self._context.number}: {error.strerror}"
            log_event(logging.ERROR, "handoff.steering", text)

    async def resume(self) -> bool:
        """Return True: an adopted epoch with an open gate serves, also if the earlier agent ended before it steered."""
        await self._await_regained()
        self._commit()
        self._events.serves()
        return True

    # Adoption

    async def _regain(self) -> None:
        assert self._pid is not None
        try:
            await self._sockets.regain(self._pid)
        except MachineError as error:
            text = f"{error}; the next epoch may lose clients of epoch {self._context.number}"
            log_event(logging.WARNING, "vault.incomplete", text)

    async def _await_regained(self) -> None:
        if self._regained is not None:
            await asyncio.wait([self._regained])

    # While it runs

    async def duplicate(self, place: ListenAddress) -> int | None:
        """Return a duplicate of one of its sockets."""
        await self._await_regained()
        return self._sockets.duplicate(place)

    def stop_accepting(self) -> None:
        """Tell it to end when its own queues are empty: nothing new reaches it any more."""
        self.admin.is_quiet = False
        self._tasks.spawn(self._end_when_empty(), f"end of {self._context.number}")

    async def _end_when_empty(self) -> None:
        await self._await_regained()
        is_stuck = await self._queues_stay()
        await self._clients_settle()
        if self._send is not None:
            self._send(self._drain_signal)
        self.admin.is_quiet = True
        if not any(each.place in self._events.sockets() for each in self._listeners):
            self._sockets.release()  # the agent stops: clients are refused from now on
        elif is_stuck:
            self._sockets.leave()
        else:
            self._sockets.ended()

    async def _queues_stay(self) -> bool:
        """Return False once its queues are empty, True once they do not shrink any more."""
        fewest, since = self._sockets.queued(), clock.monotonic()
        while fewest and clock.monotonic() - since < _QUEUE_LIMIT:
            await asyncio.sleep(_QUEUE_INTERVAL)
            if (now := self._sockets.queued()) < fewest:
                fewest, since = now, clock.monotonic()
        return fewest > 0

    async def _clients_settle(self) -> None:
        """Return once no connection has ended for a moment: new ones have had their answer, the others are idle.

        Many servers close a connection without a request on it as soon as they are told to end.
        """
        began = since = clock.monotonic()
        fewest = await self._connected()
        while clock.monotonic() - since < _MOMENT and clock.monotonic() - began < _SETTLE_LIMIT:
            await asyncio.sleep(_SETTLE_INTERVAL)
            now = await self._connected()
            if now < fewest or (self._sockets.queued() and now):
                since = clock.monotonic()
            fewest = min(fewest, now)

    async def _connected(self) -> int:
        """Return the number of its TCP connections with clients; 0 if the kernel denies that information."""
        if self._pid is None:
            return 0
        ports = self._sockets.ports
        counts = [await asyncio.to_thread(connections_at, pid, ports) for pid in (self._pid, *self.workers())]
        return sum(filter(None, counts))

    def reopen_logs(self) -> None:
        """Do nothing: the agent does not know which signal does."""

    def forward_datagrams(self, successor: EpochLink) -> None:
        """Do nothing: it receives no datagrams from the agent."""

    def workers(self) -> Collection[int]:
        """Return the pids of its children, and of theirs."""
        if self._pid is None:
            return ()
        try:
            return [each.pid for each in psutil.Process(self._pid).children(recursive=True)]
        except psutil.Error:
            return ()

    def clear(self) -> None:
        """Close everything that the agent holds for it."""
        self._sockets.clear()
        if self._notifications is not None:
            asyncio.get_running_loop().remove_reader(self._notifications)
            self._notifications.close()

    async def close(self) -> None:
        """End the tasks."""
        await self._tasks.close()


async def _nothing() -> AsyncIterator[bytes]:
    yield b""
