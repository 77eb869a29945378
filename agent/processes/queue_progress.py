"""Examines the stored accept queues: whether clients wait, and whether any were accepted."""

import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host import accept_queues


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """The lengths of non-empty accept queues, and the waiting clients' cookies in the kernel.

    A length is 1 if the kernel does not report it. `clients` holds only the connections that the kernel lists.
    """

    lengths: Mapping[ListenAddress, int]
    clients: frozenset[int]

    def moved_since(self, before: "QueueProgress") -> bool:
        """Return whether a client was accepted since `before`.

        A growing queue is no evidence: a hung proxy gets new clients, too. Nor is a cookie that disappeared because the
        client reset its connection: the connection stays in the queue without a cookie.
        """
        if any(self.lengths.get(place, 0) < length for place, length in before.lengths.items()):
            return True
        return len(before.clients - self.clients) > max(0, self.nameless - before.nameless)

    @property
    def nameless(self) -> int:
        """The number of waiting clients that the kernel does not list."""
        return sum(self.lengths.values()) - len(self.clients)


@contextmanager
def opened(store: SocketStore) -> Iterator[tuple[select.epoll, dict[int, ListenAddress]]]:
    """Yield an epoll set of the stored listening sockets, and their addresses by descriptor.

    It is created anew each time: a socket that the store closes while a proxy holds it would stay in an older set.
    """
    places = {}
    with select.epoll() as queues:
        for place in store.places():
            descriptor = store.get(place)
            if descriptor is not None and _accepts(descriptor):
                queues.register(descriptor, select.EPOLLIN)
                places[descriptor] = place
        yield queues, places


def _accepts(descriptor: int) -> bool:
    """Return whether a socket listens; one that does not is always readable."""
    held = socket.socket(fileno=descriptor)
    try:
        return held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    finally:
        held.detach()


def is_anybody_waiting(store: SocketStore) -> bool:
    """Return whether any accept queue is not empty."""
    with opened(store) as (queues, _):
        return bool(queues.poll(0, 1))


def look_at(store: SocketStore, *, by_name: bool) -> QueueProgress:
    """Examine all queues; `by_name` lists clients, and the kernel scans all connections for it."""
    with opened(store) as (queues, places):
        ready = [places[descriptor] for descriptor, _ in queues.poll(0, max(1, len(places)))]
    ports = {int(place.address.rpartition(":")[2]) for place in ready if place.address.startswith("tcp://")}
    lengths = {place: max(1, store.queued(place)) for place in ready}
    return QueueProgress(lengths, accept_queues.clients(ports) if by_name and ports else frozenset())
