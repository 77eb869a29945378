"""Names listening sockets that were taken from a process by the addresses that they are bound to."""

import os
import re
import socket
from collections import Counter
from collections.abc import Collection, Iterable

from agent.handoff.socket_store import ListenAddress
from agent.host.inherited_sockets import address_of

_TEMPORARY = re.compile(r"\.\d+\.tmp$")  # HAProxy binds a Unix path under another name, and renames it
_LONGEST_NAME = 16  # IFNAMSIZ


def addressed(sockets: Iterable[tuple[int, str]], excluded: Collection[str] = ()) -> dict[ListenAddress, int]:
    """Return sockets by address; several of one address are its workers, in the order given.

    `sockets`: descriptors, each with its network namespace. One that does not listen, or whose address is `excluded`,
    is closed.
    """
    found: dict[ListenAddress, int] = {}
    workers: Counter[tuple[str, str]] = Counter()
    for descriptor, namespace in sockets:
        address = address_of(descriptor)
        address = None if address is None else _TEMPORARY.sub("", address)
        if address is None or address in excluded:
            os.close(descriptor)
            continue
        worker = workers[address, namespace]
        workers[address, namespace] += 1
        found[ListenAddress(address, namespace, worker)] = descriptor
    return found


def listen_again(descriptor: int, backlog: int) -> None:
    """Listen on a TCP socket, unless it listens (SO_ACCEPTCONN, socket(7)): listening may have been stopped."""
    with socket.socket(fileno=os.dup(descriptor)) as seen:
        if seen.family != socket.AF_UNIX and not seen.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            seen.listen(backlog)


def interface_of(descriptor: int) -> str:
    """Return the interface that a socket is bound to (SO_BINDTODEVICE, socket(7)); empty for none."""
    with socket.socket(fileno=os.dup(descriptor)) as seen:
        if seen.family == socket.AF_UNIX:
            return ""
        name = seen.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LONGEST_NAME)
    return os.fsdecode(name.rstrip(b"\0"))
