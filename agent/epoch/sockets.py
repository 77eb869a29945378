"""Binds the listening sockets of an epoch that has none to inherit."""

import errno
import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.errors import AddressHeld, MachineError, UsageError
from agent.epoch.predecessor import listens
from agent.handoff.socket_store import ListenAddress, spelled

BACKLOG = 4096
"""Length of the accept queue; the kernel caps it at net.core.somaxconn."""

_UNIX = "unix://"


def tcp(host: str, port: int) -> ListenAddress:
    """Return the address of a literal host.

    Raises `UsageError` for a name, which may resolve to another address in the next epoch.
    """
    try:
        return ListenAddress.at("tcp", spelled(host), str(port), "")
    except ValueError:
        raise UsageError(f"cannot listen on {host}: it is not a literal address like 127.0.0.1 or ::1") from None


def unix(path: str) -> ListenAddress:
    """Return the address of a Unix socket, abstract with a leading `@`."""
    return ListenAddress(f"{_UNIX}{path}")


@dataclass(frozen=True)
class Bound:
    """The sockets of one address, each with its own queue."""

    place: ListenAddress
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def actual(self) -> ListenAddress:
        """The listening address with the port that the kernel chose."""
        if not self.place.any_port or not self.sockets or self.sockets[0].fileno() == -1:
            return self.place
        host, port = self.sockets[0].getsockname()[:2]
        return tcp(host, port)

    @property
    def is_given_up(self) -> bool:
        """Whether this process has stopped listening here."""
        return not any(each.fileno() != -1 for each in self.sockets)

    def get(self, place: ListenAddress) -> int | None:
        """Return the descriptor for a successor's worker; without reuse_port, workers share one."""
        if self.is_given_up or place.address not in {self.place.address, self.actual.address}:
            return None
        if place.worker < len(self.sockets):
            return self.sockets[place.worker].fileno()
        only = self.sockets[0]
        shared = only.family == socket.AF_UNIX or not only.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        return only.fileno() if shared else None

    def listen(self, backlog: int = BACKLOG) -> None:
        """Listen on sockets that do not listen yet; others keep their queue length."""
        for each in self.sockets:
            if not listens(each):
                each.listen(backlog)

    def close(self) -> None:
        """Close the sockets: a successor with duplicates accepts from the same queues."""
        for each in self.sockets:
            each.close()

    def clients(self) -> int:
        """Return how many connections of this process came in here, from its own descriptors."""
        return sum(_is_client_of(descriptor, self.actual) for descriptor in _descriptors())


def bind(
    place: ListenAddress, mode: int | None = None, *, reuse_port: bool = True, dual_stack: bool = False
) -> socket.socket:
    """Bind a non-blocking socket without listening. `mode` is the file mode of a Unix socket.

    A TCP port gets SO_REUSEPORT, so that a successor with several workers may add queues, but only after a bind without
    it has shown that no other process listens there. With `dual_stack` the address `::` also accepts IPv4 clients.
    Raises `AddressHeld` or `MachineError`.
    """
    if place.address.startswith(_UNIX):
        return _bind_unix(place.address.removeprefix(_UNIX), mode)
    host, _, port = place.address.removeprefix("tcp://").rpartition(":")
    name = (host.strip("[]"), int(port))
    if name[1]:
        _new_tcp(place, name, reuse_port=False, dual_stack=dual_stack).close()
    return _new_tcp(place, name, reuse_port=reuse_port, dual_stack=dual_stack)


def _new_tcp(place: ListenAddress, name: tuple[str, int], *, reuse_port: bool, dual_stack: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in name[0] else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not dual_stack))
        made.bind(name)
    except OSError as error:
        made.close()
        raise _refused(place, error) from error
    return made


def _bind_unix(path: str, mode: int | None) -> socket.socket:
    abstract = path.startswith("@")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if not abstract:
            remove_stale(path)
        made.bind(f"\0{path[1:]}" if abstract else path)
        if mode is not None and not abstract:
            Path(path).chmod(mode)
    except OSError as error:
        made.close()
        raise _refused(unix(path), error) from error
    return made


def remove_stale(path: str) -> None:
    """Remove a Unix socket that no process listens on; leave other files for bind(2) to reject."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            return


def _refused(place: ListenAddress, error: OSError) -> MachineError:
    if error.errno == errno.EADDRINUSE:
        return AddressHeld(f"cannot listen on {place.address}: another process does; stop it or use another address")
    return MachineError(f"cannot listen on {place.address}: {error.strerror or error}")


def _descriptors() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]


def _is_client_of(descriptor: int, place: ListenAddress) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as seen:
            if seen.type != socket.SOCK_STREAM or listens(seen):
                return False
            seen.getpeername()
            return _came_in_at(seen, place)
    except OSError:
        return False  # no peer, or closed since it was listed


def _came_in_at(seen: socket.socket, place: ListenAddress) -> bool:
    """Return whether a socket's own address is the listener's; for TCP, the port decides."""
    name = seen.getsockname()
    if seen.family == socket.AF_UNIX:
        text = f"@{name[1:].decode()}" if isinstance(name, bytes) else name
        return place.address == f"{_UNIX}{text}"
    return not place.address.startswith(_UNIX) and place.address.endswith(f":{name[1]}")
