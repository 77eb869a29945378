"""The vault: duplicates of every listening socket, so that an accept queue outlives the proxy that fills it.

A duplicate shares everything with the proxy's own descriptor: the queue, the options and O_NONBLOCK. So nothing here
ever changes a flag of a socket that is in use, and `shutdown` is called only when nothing serves at all: it refuses
clients on every duplicate until somebody listens again. A duplicate that nobody accepts on is a black hole, so what
the serving epoch has given up is let go at once.
"""

import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

_TCP_INFO_BACKLOG = slice(24, 28)  # tcpi_unacked: for a listening socket, the length of its accept queue (tcp_diag.c)


@dataclass(frozen=True, slots=True, order=True)
class ListenAddress:
    """Where an epoch listens: `tcp://1.2.3.4:5`, `unix:///path` …, its network namespace, and which worker."""

    address: str
    namespace: str = ""
    worker: int = 0

    @classmethod
    def at(cls, scheme: str, host: str, port: str, namespace: str) -> "ListenAddress":
        """An internet address in the protocol's spelling, which puts one of version 6 into brackets."""
        return cls(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}", namespace)

    def __str__(self) -> str:
        return f"{self.address} (worker {self.worker})"

    @property
    def any_port(self) -> bool:
        """Whether the kernel chooses the port: such an address cannot be handed from epoch to epoch."""
        return self.address.endswith(":0") and not self.address.startswith("unix://")

    @property
    def listener(self) -> "ListenAddress":
        """The same for all its workers."""
        return replace(self, worker=0)


class SocketStore:
    """Owns its descriptors. A place it has none for simply is not here."""

    def __init__(self) -> None:
        self._sockets: dict[ListenAddress, socket.socket] = {}

    def __contains__(self, place: ListenAddress) -> bool:
        return place in self._sockets

    def places(self) -> list[ListenAddress]:
        """Every place, in order."""
        return sorted(self._sockets)

    def listeners(self) -> set[ListenAddress]:
        """Every listener, whatever the number of its workers."""
        return {place.listener for place in self._sockets}

    def workers(self, listener: ListenAddress) -> list[int]:
        """The workers of a listener that have a socket here."""
        return sorted(place.worker for place in self._sockets if place.listener == listener)

    def get(self, place: ListenAddress) -> int | None:
        """The descriptor to send for a place; the vault keeps it."""
        held = self._sockets.get(place)
        return None if held is None else held.fileno()

    def put(self, place: ListenAddress, descriptor: int) -> None:
        """Take ownership of a duplicate, in place of the one that was there."""
        self.close(place)
        self._sockets[place] = socket.socket(fileno=descriptor)

    def take_all(self, other: "SocketStore") -> None:
        """Take everything that another vault holds, which is empty then."""
        for place, held in other._sockets.items():  # noqa: SLF001  # one of our own kind
            self.put(place, held.detach())
        other._sockets.clear()  # noqa: SLF001

    def same(self, place: ListenAddress, descriptor: int) -> bool:
        """Tell whether a descriptor is the very socket that is here."""
        held = self._sockets.get(place)
        return held is not None and os.path.sameopenfile(held.fileno(), descriptor)

    def close(self, place: ListenAddress) -> None:
        """Close what is here, if anything is. Clients still queued in it are lost if nobody else holds it."""
        held = self._sockets.pop(place, None)
        if held is not None:
            held.close()

    def close_all(self) -> None:
        """Close everything."""
        for place in self.places():
            self.close(place)

    def refuse(self) -> None:
        """Refuse clients and reset those that wait.

        A proxy that listens on the same TCP socket again ends this. A Unix socket never recovers from it, so it is
        let go: its path refuses clients until a proxy binds it anew.
        """
        for place in self.places():
            held = self._sockets[place]
            if held.family == socket.AF_UNIX:
                self.close(place)
            elif held.type == socket.SOCK_STREAM:
                with contextlib.suppress(OSError):  # it never listened, or refuses already
                    held.shutdown(socket.SHUT_RD)

    def narrow(self) -> None:
        """Have the kernel take hardly any client more: those who wait already keep their places.

        Whoever comes later tries again, and finds the listener closed; it would have been reset with the queue.
        """
        for held in self._sockets.values():
            if held.type == socket.SOCK_STREAM:
                with contextlib.suppress(OSError):  # it never listened
                    held.listen(0)

    def waiting(self) -> int:
        """How many clients wait in all the accept queues whose length can be told."""
        return sum(map(self.queued, self._sockets))

    def queued(self, place: ListenAddress) -> int:
        """How many clients wait in the accept queue of a TCP place; 0 where that cannot be told."""
        held = self._sockets.get(place)
        if held is None or held.family not in {socket.AF_INET, socket.AF_INET6} or held.type != socket.SOCK_STREAM:
            return 0
        info = held.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        return int.from_bytes(info[_TCP_INFO_BACKLOG], "little")

    def inodes(self) -> set[int]:
        """The inodes of what accepts connections, which tell in /proc whether another process still does."""
        streams = (held for held in self._sockets.values() if held.type == socket.SOCK_STREAM)
        return {os.fstat(held.fileno()).st_ino for held in streams}

    def groups(self, asked: Iterable[ListenAddress]) -> dict[ListenAddress, tuple[int, int]]:
        """Of each TCP listener with several workers: how many sockets are here, and how many of them were asked for."""
        wanted = set(asked)
        counts: dict[ListenAddress, list[int]] = defaultdict(lambda: [0, 0])
        for place in self._sockets:
            if place.address.startswith("tcp://"):
                counts[place.listener][0] += 1
                counts[place.listener][1] += place in wanted
        return {listener: (here, used) for listener, (here, used) in counts.items() if here > 1 and used}

    def member(self, listener: ListenAddress) -> socket.socket:
        """One socket of a listener, to set an option that holds for its whole reuse_port group."""
        return self._sockets[replace(listener, worker=self.workers(listener)[0])]
