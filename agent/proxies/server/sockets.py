"""The listening sockets of one epoch of a server: one of its own for each listener.

A TCP listener is a group of sockets that the agent steers (`agent.handoff.steering`). A Unix listener of a candidate
has another path until its commit, when it is renamed over the one that serves. So the same holds for both: clients
reach the serving epoch only, and the agent has seen the candidate answer at the real address.
"""

import asyncio
import contextlib
import os
import re
import select
import socket
from collections.abc import Sequence
from pathlib import Path

from agent.core.errors import MachineError
from agent.handoff.socket_store import ListenAddress
from agent.handoff.steering import Source, SteeredGroup
from agent.host.foreign_descriptors import sockets_of
from agent.host.sockets import Endpoint, bind_for_proxy
from agent.proxies.link import LinkEvents
from agent.proxies.listening_sockets import addressed
from agent.proxies.server.listeners import Listener

Groups = dict[ListenAddress, SteeredGroup]
"""The groups of all epochs, by address."""

_BACKLOG = 4096
_INTERVAL = 0.01
_END_LIMIT = 15.0  # seconds until a superseded epoch's socket is closed for the next candidate's sake
_TCP_INFO_BACKLOG = slice(24, 28)  # tcpi_unacked: the length of the accept queue (tcp_diag.c)
_NUMBERED = re.compile(r"\.\d+$")


class EpochSockets:
    """The sockets of epoch `number`, in the order of its listeners."""

    def __init__(self, number: int, listeners: Sequence[Listener], groups: Groups, events: LinkEvents) -> None:
        self._number = number
        self._listeners = listeners
        self._groups = groups
        self._events = events
        self._own: dict[ListenAddress, socket.socket] = {}
        self._renamed: dict[Path, Path] = {}  # Unix paths of a candidate: where it listens, and where it will

    @property
    def passed(self) -> tuple[tuple[str, int], ...]:
        """Names and descriptors, as the process gets them."""
        return tuple((each.name, self._own[each.place].fileno()) for each in self._listeners)

    @property
    def ports(self) -> set[int]:
        """The ports of its TCP listeners."""
        return {Endpoint.parse(each.place.address).port for each in self._tcp}

    # Opening

    async def open(self) -> None:
        """Listen at each address. Raises `MachineError`."""
        await self._others_end()
        try:
            for each in self._listeners:
                self._own[each.place] = self._opened(each)
        except OSError as error:
            message = f"cannot listen for epoch {self._number}: {error.strerror}"
            raise MachineError(message) from error

    def _opened(self, listener: Listener) -> socket.socket:
        """Return the socket that the agent holds if no epoch serves there, else a new one."""
        place, held = listener.place, self._held(listener.place)
        if held is not None and not self._events.is_serving():
            made = socket.socket(fileno=os.dup(held))
        else:
            made = self._bound(Endpoint.parse(place.address), place, held)
            self._events.bound(place, os.dup(made.fileno()))
        if listener.is_tcp:
            self._group(place).listen(self._number, os.dup(made.fileno()), _BACKLOG, held)
        else:
            made.listen(_BACKLOG)
        return made

    def _bound(self, endpoint: Endpoint, place: ListenAddress, held: int | None) -> socket.socket:
        # Binds a low port for a proxy of another user; of any other, it only makes sure that no stranger listens there.
        lent = self._events.get_socket(place) if held is None else None
        if lent is not None:
            return socket.socket(fileno=os.dup(lent))
        if endpoint.path:
            if held is not None:
                moved = Path(f"{endpoint.path}.{self._number}")
                self._renamed[moved] = Path(endpoint.path)
                endpoint = Endpoint(path=str(moved))
            Path(endpoint.path).unlink(missing_ok=True)  # nobody listens there
        return bind_for_proxy(endpoint, reuse_port=not endpoint.path, dual_stack=endpoint.host == "::")

    async def _others_end(self) -> None:
        """Remove the sockets of epochs before the serving one: a group has two members at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_LIMIT):
                while any(self._group(each.place).unfinished(self._held(each.place)) for each in self._tcp):  # noqa: ASYNC110
                    await asyncio.sleep(_INTERVAL)
        for each in self._tcp:
            for number in self._group(each.place).superseded(self._held(each.place)):
                self._group(each.place).remove(number, self._held(each.place))

    @property
    def _tcp(self) -> list[Listener]:
        return [each for each in self._listeners if each.is_tcp]

    def _group(self, place: ListenAddress) -> SteeredGroup:
        return self._groups.setdefault(place, SteeredGroup())

    def _held(self, place: ListenAddress) -> int | None:
        """Return the socket that the agent holds; one that systemd kept has the name at which it was bound."""
        held = self._events.sockets()
        numbered = (number for each, number in held.items() if _without_number(each) == place)
        return held.get(place) or (next(numbered, None) if place.address.startswith("unix://") else None)

    # Steering

    def endpoint(self, place: ListenAddress) -> Endpoint:
        """Return where the epoch listens now."""
        endpoint = Endpoint.parse(place.address)
        moved = next((before for before, after in self._renamed.items() if str(after) == endpoint.path), None)
        return endpoint if moved is None else Endpoint(path=str(moved))

    def steer(self, place: ListenAddress, source: Source | None) -> None:
        """Let connections from this source reach the epoch, and no others from the agent. Raises `OSError`."""
        self._group(place).test(self._number, source, self._held(place))

    def commit(self) -> None:
        """Let all clients reach the epoch. Raises `OSError`."""
        for each in self._tcp:
            self._group(each.place).commit(self._number, self._held(each.place))
        for before, after in self._renamed.items():
            before.rename(after)
        self._renamed.clear()

    # Ending

    def queued(self) -> int:
        """Return the number of clients in the epoch's queues; 1 for any number in that of a Unix socket."""
        return sum(_queued(each) for each in self._own.values() if each.fileno() >= 0)

    def ended(self) -> None:
        """Note that the epoch was told to end."""
        for each in self._tcp:
            self._group(each.place).ended(self._number)

    def leave(self) -> None:
        """Close the epoch's sockets that are superseded, although a process still has them."""
        for each in self._tcp:
            self._group(each.place).remove(self._number, self._held(each.place))

    def release(self) -> None:
        """Close the agent's duplicates: clients are refused once the epoch closes its own."""
        for each in self._tcp:
            self._group(each.place).release(self._number)
        self._close_own()

    def clear(self) -> None:
        """Close all sockets, and remove the paths at which nobody listens any more."""
        self._close_own()
        self.leave()
        left = [*self._renamed]
        left += [Path(Endpoint.parse(each.place.address).path) for each in self._listeners if self._is_gone(each)]
        for path in left:
            with contextlib.suppress(OSError):
                path.unlink()

    def _is_gone(self, listener: Listener) -> bool:
        return not listener.is_tcp and self._held(listener.place) is None

    def _close_own(self) -> None:
        for each in self._own.values():
            each.close()

    # Adoption

    async def regain(self, pid: int) -> None:
        """Take duplicates of an adopted epoch's sockets. Raises `MachineError`."""
        found = addressed((each, "") for each in await asyncio.to_thread(sockets_of, pid))
        for place, descriptor in found.items():
            self._regain(place, descriptor)

    def _regain(self, place: ListenAddress, descriptor: int) -> None:
        listener = next((each for each in self._listeners if each.place in {place, _without_number(place)}), None)
        if listener is None or listener.place in self._own:
            os.close(descriptor)
            return
        self._own[listener.place] = socket.socket(fileno=descriptor)
        if listener.is_tcp:
            self._group(listener.place).regain(self._number, os.dup(descriptor), self._held(listener.place))
        elif place != listener.place and os.path.lexists(place.address.removeprefix("unix://")):
            path = place.address.removeprefix("unix://")  # an earlier agent ended just before it renamed it
            self._renamed[Path(path)] = Path(_NUMBERED.sub("", path))

    def duplicate(self, place: ListenAddress) -> int | None:
        """Return a duplicate of the socket at an address, or None; the caller owns it."""
        own = self._own.get(place)
        return None if own is None or own.fileno() < 0 else os.dup(own.fileno())


def _without_number(place: ListenAddress) -> ListenAddress:
    """Return the address of the listener at which a candidate's socket was bound."""
    return ListenAddress(_NUMBERED.sub("", place.address))


def _queued(listener: socket.socket) -> int:
    if listener.family == socket.AF_UNIX:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        return len(poll.poll(0))
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    return int.from_bytes(info[_TCP_INFO_BACKLOG], "little")
