"""One epoch of NGINX: sockets are given at the start, two FIFOs are its gate, its own server tells that it serves.

The last lines of the configuration include two FIFOs. open(2) of a FIFO waits for the other end (fifo(7)): NGINX opens
the first one when all certificates are loaded and nothing runs yet, and waits at the second one. It binds what it is
not given, and the agent then takes duplicates of everything that the master listens on. Unix sockets are given always:
a master unlinks the path of one that it bound itself, or that it has when its parent has exited, as soon as it drains
(ngx_close_listening_sockets() in ngx_connection.c).
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

from agent.core.errors import MachineError
from agent.handoff.socket_store import ListenAddress
from agent.host.foreign_descriptors import sockets_of
from agent.host.memfds import Memfds
from agent.host.sessions import members_exited, signal_members
from agent.host.sockets import Endpoint, listen, remove_stale
from agent.host.tasks import Tasks
from agent.proxies.interface import Delivery
from agent.proxies.link import EpochContext, EpochLink, Launch, LinkEvents, Send
from agent.proxies.listening_sockets import addressed, listen_again
from agent.proxies.nginx.configuration import READY, Configuration
from agent.proxies.nginx.directives import quoted
from agent.proxies.nginx.status import Status

_INTERVAL = 0.02  # polling, because only its server shows that an adopted epoch serves
_BACKLOG = 511  # NGX_LISTEN_BACKLOG
_REQUEST = b"GET / HTTP/1.0\r\n\r\n"


class NginxLink:
    """The link to one epoch. `arguments` are the operator's own."""

    def __init__(self, context: EpochContext, events: LinkEvents, arguments: Collection[str]) -> None:
        assert isinstance(context.configuration, Configuration), "this kind has parsed it"
        self._context = context
        self._events = events
        self._arguments = arguments
        self.admin = Status(context.home / READY, context.configuration)
        self.asked: set[ListenAddress] = set(context.places or ())
        self.bound_itself: set[ListenAddress] = set(self.asked)
        self.is_open = False
        self.orphan_signal = signal.SIGQUIT  # workers serve on without their master
        self._own = f"unix://{self.admin.path}"
        self._memory = Memfds()
        self._tasks = Tasks()
        self._ready: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._reached = context.home / "reached"
        self._pass = context.home / "pass"
        self._pid: int | None = None
        self._send: Send | None = None
        self._given: dict[ListenAddress, int] = {}
        self._is_cleared = False

    async def open(self, started_at: int, delivery: Delivery | None, *, serves: bool) -> None:
        """Make the FIFOs and the socket of its own server, and send a request there before it runs."""
        del started_at, delivery
        self.is_open = serves
        if self._context.is_adopted:
            return
        owner = self._context.owner
        try:
            self._context.home.chmod(0o711)  # workers are of another user
            for path in (self._reached, self._pass):
                os.mkfifo(path, 0o600)
                if owner is not None:
                    os.chown(path, *owner, follow_symlinks=False)
            self._listener, self._ready = _listening(self.admin.path, owner)
        except OSError as error:
            message = f"cannot make the gate of an epoch in {self._context.home}: {error.strerror}"
            raise MachineError(message) from error
        self._tasks.spawn(self._wait_at_gate(), f"gate of {self._context.number}")

    def launch(self, copy: int, extra: str | None, overlap: int = 0) -> Launch:
        """Return the command line with all sockets that the agent holds."""
        del extra, overlap
        assert self._listener is not None, "it is open"
        self._given = {**self._events.sockets()}
        self._given.update(self._new_sockets())
        self.asked = set(self._given)
        main = f"include /dev/fd/{copy};\ninclude {_literal(self._reached)};\ninclude {_literal(self._pass)};\n"
        number = self._memory.hold("configuration with the gate", main.encode())
        directives = f"daemon off; pid {quoted(str(self._context.home / 'pid'))};"
        given = [self._listener.fileno(), *self._given.values()]
        arguments = ["-c", f"/dev/fd/{number}", "-e", "stderr", "-g", directives, *self._arguments]
        environment = {"NGINX": "".join(f"{each};" for each in given)}
        return Launch(arguments, environment, frozenset({number, *given}))

    def _new_sockets(self) -> Iterator[tuple[ListenAddress, int]]:
        """Yield sockets for configured addresses that the agent has no socket of and NGINX should not bind.

        Raises `AddressHeld` if another process listens at one of them.
        """
        taken = {_port(place) for place in self._given}
        for listener in self._context.configuration.listeners:
            place = listener.place
            if _port(place) not in taken:
                bound = self._events.get_socket(place)
                if bound is None and place.address.startswith("unix://"):
                    bound = self._bind_path(place)
                if bound is not None:
                    yield place, bound

    def _bind_path(self, place: ListenAddress) -> int:
        """Bind a Unix socket as NGINX does; the agent's listeners own it."""
        path = place.address.removeprefix("unix://")
        with listen(Endpoint(path=path)) as bound:
            bound.listen(_BACKLOG)
            bound.setblocking(False)
            Path(path).chmod(0o666)  # NGINX leaves access to the directory
            if self._context.owner is not None:
                os.chown(path, *self._context.owner, follow_symlinks=False)
            descriptor = bound.detach()
        self._events.bound(place, descriptor)
        return descriptor

    def attend(self, pid: int, send: Send) -> None:
        """Accept messages from this process only; report when a new one serves."""
        self._pid = self.admin.pid = pid
        self._send = send
        self._memory.close()
        if self._listener is not None:
            self._listener.close()
            self._tasks.spawn(self._report_service(), f"service of {self._context.number}")

    # The gate

    async def _wait_at_gate(self) -> None:
        """Report when NGINX opens the first FIFO."""
        descriptor = await asyncio.to_thread(os.open, self._reached, os.O_WRONLY | os.O_CLOEXEC)
        os.close(descriptor)
        if not self._is_cleared:
            self._events.reached_gate()

    def open_gate(self) -> None:
        """Open the second FIFO, where NGINX waits, or will be in a moment.

        NGINX expects that an inherited socket listens.
        """
        self.is_open = True
        for descriptor in self._given.values():
            listen_again(descriptor, _BACKLOG)
        if not self._context.is_adopted:
            self._tasks.spawn(self._let_pass(), f"way of {self._context.number}")

    async def _let_pass(self) -> None:
        descriptor = await asyncio.to_thread(os.open, self._pass, os.O_WRONLY | os.O_CLOEXEC)
        os.close(descriptor)

    async def _report_service(self) -> None:
        """Report that it serves when a worker answers, after taking duplicates of its sockets."""
        assert self._ready is not None
        with contextlib.closing(self._ready):
            try:
                answer = await asyncio.get_running_loop().sock_recv(self._ready, 1 << 12)
            except OSError:
                answer = b""
        if answer:  # else it exited; its pidfd reports that
            with contextlib.suppress(MachineError):
                await self._take_sockets()
            self._events.serves()

    async def _take_sockets(self) -> None:
        """Take duplicates of what it listens on; those that the agent does not hold yet are new to it."""
        found = await self._sockets()
        held = self._events.sockets()
        self.asked = self.bound_itself = set(found)
        for place, descriptor in found.items():
            if place in held and os.path.sameopenfile(held[place], descriptor):
                os.close(descriptor)
            else:
                self._events.bound(place, descriptor)

    async def _sockets(self) -> dict[ListenAddress, int]:
        assert self._pid is not None
        taken = await asyncio.to_thread(sockets_of, self._pid)
        held = [os.fstat(each).st_ino for each in self._events.sockets().values()]
        # Of one address, the agent's own come first, in their order, which is that of their SO_REUSEPORT group.
        order = {inode: number for number, inode in enumerate(held)}
        taken.sort(key=lambda each: order.get(os.fstat(each).st_ino, len(order)))
        found = addressed(((each, "") for each in taken), (self._own,))
        self.admin.found = frozenset(found)
        return found

    async def resume(self) -> bool:
        """Wait until an adopted epoch answers, and return True.

        Its agent may have exited before it opened the second FIFO: it is let through.
        """
        while not self._is_cleared:
            self._let_pass_if_waiting()
            if await self.admin.is_live():
                with contextlib.suppress(MachineError):
                    await self._take_sockets()
                self._events.serves()
                return True
            await asyncio.sleep(_INTERVAL)
        return True

    def _let_pass_if_waiting(self) -> None:
        with contextlib.suppress(OSError):  # it does not wait there, or not yet
            os.close(os.open(self._pass, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    # While it runs

    async def duplicate(self, place: ListenAddress) -> int | None:
        """Return a duplicate of one of the master's sockets."""
        found = await self._sockets()
        wanted = found.pop(place, None)
        for each in found.values():
            os.close(each)
        return wanted

    def stop_accepting(self) -> None:
        """Let workers close their listeners and idle connections and exit after the last one."""
        if self._send is None:
            return
        if self._unlinks_paths():
            self._tasks.spawn(self._drain_workers(self._send), f"workers of {self._context.number}")
        else:
            self._send(signal.SIGQUIT)

    def _unlinks_paths(self) -> bool:
        """Return whether the master would unlink Unix sockets: its parent, an earlier agent, has exited."""
        if not self._context.is_adopted or not any(place.address.startswith("unix:///") for place in self.asked):
            return False
        try:
            return psutil.Process(self._pid).ppid() != os.getpid()
        except psutil.Error:
            return False

    async def _drain_workers(self, send: Send) -> None:
        """Let the workers exit while the master is stopped, and kill it after them."""
        assert self._pid is not None
        send(signal.SIGSTOP)
        while signal_members(self._pid, signal.SIGQUIT):  # again: it may have started one just before it stopped
            await members_exited(self._pid)
        send(signal.SIGKILL)

    def reopen_logs(self) -> None:
        """Send SIGUSR1."""
        if self._send is not None:
            self._send(signal.SIGUSR1)

    def forward_datagrams(self, successor: EpochLink) -> None:
        """Do nothing: it receives no datagrams from the agent."""

    def workers(self) -> Collection[int]:
        """Return the pids of the master's children."""
        try:
            return () if self._pid is None else [each.pid for each in psutil.Process(self._pid).children()]
        except psutil.Error:
            return ()

    def clear(self) -> None:
        """Close everything that the agent holds for it, and wake the threads that wait at its FIFOs."""
        self._is_cleared = True
        self._memory.close()
        self._remove_paths()
        for path in (self._reached, self._pass):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        for each in (self._listener, self._ready):
            if each is not None:
                each.close()

    def _remove_paths(self) -> None:
        """Remove Unix sockets at which nothing listens any more, as NGINX does."""
        for place in self.asked - self._events.sockets().keys():
            if place.address.startswith("unix:///"):
                with contextlib.suppress(OSError):
                    remove_stale(Path(place.address.removeprefix("unix://")))

    async def close(self) -> None:
        """End the tasks."""
        await self._tasks.close()


def _listening(path: Path, owner: tuple[int, int] | None) -> tuple[socket.socket, socket.socket]:
    """Return a listening socket at a path, and a connection whose request waits in its queue.

    It is bound under its final name, since NGINX compares names. bind(2) follows no link there.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)
        bound.listen(128)
        connection.connect(str(path))
        connection.sendall(_REQUEST)
        connection.setblocking(False)
    except OSError:
        bound.close()
        connection.close()
        raise
    return bound, connection


def _port(place: ListenAddress) -> str:
    """Return the port of an internet address, or the path."""
    return place.address.rpartition(":")[2]


def _literal(path: Path) -> str:
    """Return the word of an `include` that names this file: with one of `*?[` it is a wildcard (glob(3))."""
    text = str(path)
    return quoted(re.sub(r"[\\*?[]", r"\\\g<0>", text) if set("*?[") & set(text) else text)
