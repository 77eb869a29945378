"""Sockets inherited from an earlier agent across exec, or from systemd.

An agent that executes its successor keeps listening sockets open and names them in one environment variable. systemd
passes those of a socket unit and of its file descriptor store from descriptor 3 upward (sd_listen_fds(3)); the kernel
returns the address of each.
"""

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

OWN = "AGENT_INHERITANCE"
STORED = re.compile(r"\d{4}\.")
"""The prefix of names under which an agent stores sockets: the number of its worker."""

_FIRST = 3  # SD_LISTEN_FDS_START


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """An inherited listening socket. `name`: the agent's name for it; empty from systemd."""

    descriptor: int
    name: str = ""


def pass_on_exec(descriptors: Mapping[str, int]) -> None:
    """Pass these descriptors, by name, to the program that this process will execute."""
    for descriptor in descriptors.values():
        os.set_inheritable(descriptor, True)
    os.environ[OWN] = json.dumps(dict(descriptors))


def take_inherited() -> list[InheritedSocket]:
    """Return the inherited sockets, once, and make them not inheritable."""
    return [*_claim_own(), *_claim_from_systemd()]


def reuse(descriptor: int | None, port: int) -> socket.socket | None:
    """Return the inherited internet listener if it has this port, else close it."""
    if descriptor is None:
        return None
    found = socket.socket(fileno=descriptor)
    if found.getsockname()[1] == port:
        return found
    found.close()
    return None


def address_of(descriptor: int) -> str | None:
    """Return a listening stream socket's address, like `tcp://1.2.3.4:5` or `unix:///path`.

    Returns None if it is no such socket.
    """
    try:
        with _duplicate(descriptor) as seen:
            if seen.type != socket.SOCK_STREAM or not seen.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            name = seen.getsockname()
            if seen.family == socket.AF_UNIX:
                return f"unix://{'@' + name[1:].decode() if isinstance(name, bytes) else name}"
            host = f"[{name[0]}]" if seen.family == socket.AF_INET6 else name[0]
            return f"tcp://{host}:{name[1]}"
    except (OSError, UnicodeDecodeError):
        return None


def _duplicate(descriptor: int) -> socket.socket:
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:  # not a socket
        os.close(duplicate)
        raise


def _claim_own() -> list[InheritedSocket]:
    try:
        named = json.loads(os.environ.pop(OWN, "{}"))
        return [InheritedSocket(_own(int(number)), str(name)) for name, number in named.items()]
    except (ValueError, TypeError, OverflowError, AttributeError, OSError):
        return []


def _claim_from_systemd() -> list[InheritedSocket]:
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    numbers = range(_FIRST, _FIRST + int(count))
    named = zip(numbers, [*names, *[""] * len(numbers)], strict=False)
    seen: set[int] = set()
    return [inherited for number, _ in sorted(named, key=_rank) if (inherited := _take_over(number, seen)) is not None]


def _rank(named: tuple[int, str]) -> str:
    """Return the sort key: sockets of a socket unit first, in order, then stored ones by name.

    systemd's store lists the newest first.
    """
    stored = STORED.match(named[1])
    return stored[0] if stored else ""


def _take_over(number: int, seen: set[int]) -> InheritedSocket | None:
    """Own a descriptor; return None if it is not open, or a duplicate of an earlier one.

    A socket can come from a socket unit and from the store as well.
    """
    try:
        inode = os.fstat(number).st_ino
        if inode in seen:
            os.close(number)
            return None
        seen.add(inode)
        os.set_blocking(number, False)  # the flag is shared with all processes that accept on it
        return InheritedSocket(_own(number))
    except OSError:
        return None


def _own(descriptor: int) -> int:
    """Make a descriptor not inheritable and return it."""
    os.set_inheritable(descriptor, False)
    return descriptor
