"""The accept queues in the vault: whether anybody waits in them, and whether anybody was taken out."""

import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host import accept_queues


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """Where clients wait, and how many: at least one, where the kernel does not tell. `clients` are those it names."""

    lengths: Mapping[ListenAddress, int]
    clients: frozenset[int]

    def moved_since(self, before: "QueueProgress") -> bool:
        """Whether somebody was accepted meanwhile.

        A queue that grows says nothing: new clients come to one that hangs, too. Nor does one whose name is gone
        because the client has reset what it waited on: it keeps its place without a name.
        """
        if any(self.lengths.get(place, 0) < length for place, length in before.lengths.items()):
            return True
        return len(before.clients - self.clients) > max(0, self.nameless - before.nameless)

    @property
    def nameless(self) -> int:
        """How many of those who wait the kernel does not name."""
        return sum(self.lengths.values()) - len(self.clients)


@contextmanager
def opened(store: SocketStore) -> Iterator[tuple[select.epoll, dict[int, ListenAddress]]]:
    """Everything in the vault that accepts, readable as one: made anew each time.

    A socket that the vault has closed while a proxy still has it would stay in an older one for ever.
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
    """Whether it listens: one that does not is always readable."""
    held = socket.socket(fileno=descriptor)
    try:
        return held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    finally:
        held.detach()


def is_anybody_waiting(store: SocketStore) -> bool:
    """Ask for no more than that."""
    with opened(store) as (queues, _):
        return bool(queues.poll(0, 1))


def look_at(store: SocketStore, *, by_name: bool) -> QueueProgress:
    """Look at all of them; names cost the kernel a walk through all its connections."""
    with opened(store) as (queues, places):
        ready = [places[descriptor] for descriptor, _ in queues.poll(0, max(1, len(places)))]
    ports = {int(place.address.rpartition(":")[2]) for place in ready if place.address.startswith("tcp://")}
    lengths = {place: max(1, store.queued(place)) for place in ready}
    return QueueProgress(lengths, accept_queues.clients(ports) if by_name and ports else frozenset())
