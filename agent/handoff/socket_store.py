"""Holds duplicates of every listening socket, so that accept queues outlive the proxy.

A duplicate shares the queue, the options and O_NONBLOCK with the proxy's own descriptor. So no flag of a socket in use
is ever changed here, and `shutdown` is called only when nothing serves: it refuses clients on every duplicate until a
process listens again. Clients queued in a socket that no process accepts on are never served, so sockets that the
serving epoch has closed are closed here at once.
"""

import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address

_BACKLOG = 4096  # the kernel limits it, see net.core.somaxconn
_TCP_INFO_BACKLOG = slice(24, 28)  # tcpi_unacked: the length of a listening socket's accept queue (tcp_diag.c)


@dataclass(frozen=True, slots=True, order=True)
class ListenAddress:
    """An epoch's listening address (`tcp://1.2.3.4:5`, `unix:///path` …), namespace and worker."""

    address: str
    namespace: str = ""
    worker: int = 0

    @classmethod
    def at(cls, scheme: str, host: str, port: str, namespace: str) -> "ListenAddress":
        """Return an internet address in the protocol's spelling, with IPv6 addresses in brackets."""
        return cls(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}", namespace)

    def __str__(self) -> str:
        return f"{self.address} (worker {self.worker})"

    @property
    def any_port(self) -> bool:
        """Whether the kernel chooses the port: such an address cannot be passed from epoch to epoch."""
        return self.address.endswith(":0") and not self.address.startswith("unix://")

    @property
    def listener(self) -> "ListenAddress":
        """The address without the worker."""
        return replace(self, worker=0) if self.worker else self


def spelled(host: str) -> str:
    """Return an IP address in the protocol's spelling, that of inet_ntop(3): `::0` is `::`.

    Raises ValueError if it is none. Python spells an IPv4-mapped address differently from version to version.
    """
    number = ip_address(host)
    if isinstance(number, IPv6Address) and number.ipv4_mapped is not None:
        return f"::ffff:{number.ipv4_mapped}"
    return number.compressed


class SocketStore:
    """Owns one duplicated descriptor per listening address."""

    def __init__(self) -> None:
        self._sockets: dict[ListenAddress, socket.socket] = {}

    def __contains__(self, place: ListenAddress) -> bool:
        return place in self._sockets

    def places(self) -> list[ListenAddress]:
        """Return every address, in order."""
        return sorted(self._sockets)

    def listeners(self) -> set[ListenAddress]:
        """Return every listener, without its workers."""
        return {place.listener for place in self._sockets}

    def workers(self, listener: ListenAddress) -> list[int]:
        """Return the workers of a listener that have a socket here."""
        return sorted(place.worker for place in self._sockets if place.listener == listener)

    def get(self, place: ListenAddress) -> int | None:
        """Return the descriptor for an address, or None; the store keeps owning it."""
        held = self._sockets.get(place)
        return None if held is None else held.fileno()

    def lent(self) -> dict[ListenAddress, int]:
        """Return all descriptors by address, in order; the store keeps owning them."""
        return {place: self._sockets[place].fileno() for place in self.places()}

    def put(self, place: ListenAddress, descriptor: int) -> None:
        """Own a duplicate, replacing and closing the previous one.

        It does not block: of two processes in accept(2) on a blocking socket, one waits there without its other events.
        """
        self.close(place)
        os.set_blocking(descriptor, False)
        self._sockets[place] = socket.socket(fileno=descriptor)

    def take_all(self, other: "SocketStore") -> None:
        """Move all sockets of another store here; it is empty afterwards."""
        for place, held in other._sockets.items():  # noqa: SLF001  # another `SocketStore`
            self.put(place, held.detach())
        other._sockets.clear()  # noqa: SLF001

    def accepts(self, place: ListenAddress) -> bool:
        """Return whether the socket of this address listens (SO_ACCEPTCONN, socket(7))."""
        held = self._sockets.get(place)
        return held is not None and held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0

    def listen(self, place: ListenAddress) -> None:
        """Listen on the socket of this address again, after a process has stopped that for every duplicate."""
        with contextlib.suppress(OSError):
            self._sockets[place].listen(_BACKLOG)

    def same(self, place: ListenAddress, descriptor: int) -> bool:
        """Return whether a descriptor is the very socket stored for this address."""
        held = self._sockets.get(place)
        return held is not None and os.path.sameopenfile(held.fileno(), descriptor)

    def close(self, place: ListenAddress) -> None:
        """Close the socket of this address, if any; clients queued only there are lost."""
        held = self._sockets.pop(place, None)
        if held is not None:
            held.close()

    def close_all(self) -> None:
        """Close every socket."""
        for place in self.places():
            self.close(place)

    def refuse(self) -> None:
        """Refuse new clients and reset queued ones.

        A proxy that listens on the same TCP socket again undoes this. A Unix socket never recovers from it, so it is
        closed instead: its path refuses clients until a proxy binds it anew.
        """
        for place in self.places():
            held = self._sockets[place]
            if held.family == socket.AF_UNIX:
                self.close(place)
            elif held.type == socket.SOCK_STREAM:
                with contextlib.suppress(OSError):  # it never listened, or refuses already
                    held.shutdown(socket.SHUT_RD)

    def narrow(self) -> None:
        """Shrink the accept queues to refuse almost all new clients; queued clients stay queued.

        Later clients retry and find the listener closed; queued here, they would be reset with the queue.
        """
        for held in self._sockets.values():
            if held.type == socket.SOCK_STREAM:
                with contextlib.suppress(OSError):  # it never listened
                    held.listen(0)

    def waiting(self) -> int:
        """Return the number of clients in all accept queues whose length is available."""
        return sum(map(self.queued, self._sockets))

    def queued(self, place: ListenAddress) -> int:
        """Return the number of clients in a TCP accept queue; 0 where it is not available."""
        held = self._sockets.get(place)
        if held is None or held.family not in {socket.AF_INET, socket.AF_INET6} or held.type != socket.SOCK_STREAM:
            return 0
        info = held.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        return int.from_bytes(info[_TCP_INFO_BACKLOG], "little")

    def inodes(self) -> set[int]:
        """Return the inodes of stream sockets, to find in /proc whether another process holds them."""
        streams = (held for held in self._sockets.values() if held.type == socket.SOCK_STREAM)
        return {os.fstat(held.fileno()).st_ino for held in streams}

    def groups(self, asked: Iterable[ListenAddress]) -> dict[ListenAddress, tuple[int, int]]:
        """Of each TCP listener with several workers: its sockets here, and how many were requested.

        Listeners of which none was requested are omitted.
        """
        wanted = set(asked)
        counts: dict[ListenAddress, list[int]] = defaultdict(lambda: [0, 0])
        for place in self._sockets:
            if place.address.startswith("tcp://"):
                counts[place.listener][0] += 1
                counts[place.listener][1] += place in wanted
        return {listener: (here, used) for listener, (here, used) in counts.items() if here > 1 and used}

    def member(self, listener: ListenAddress) -> socket.socket:
        """Return one socket of a listener, to set an option for its whole reuse_port group."""
        first = self._sockets.get(listener)  # a search of all for each listener took seconds with 300 of them
        return first or self._sockets[replace(listener, worker=self.workers(listener)[0])]
