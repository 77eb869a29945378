"""Listening sockets that the agent binds itself, and checks for other listeners.

As a rule the proxy binds, because it knows the options of its listeners. The agent binds only the low ports that an
unprivileged proxy may not, and its own two addresses: for the admin interface and for status.
"""

import errno
import os
import socket
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from agent.core.errors import AddressHeld, MachineError, UsageError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to bind: a host and a port, or a Unix path (`@name` for an abstract one)."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, address: str) -> "Endpoint":
        """Parse an address. Raises `UsageError`.

        The forms are `tcp://1.2.3.4:5`, `udp://[::]:5`, `unix:///path` and `unix://@name`.
        """
        if address.startswith("unix://"):
            return cls(path=address.removeprefix("unix://"))
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host is None or port is None:
            message = (
                f"cannot use the address {address}: it is not host:port; write it like 127.0.0.1:8080 or [::1]:8080"
            )
            raise UsageError(message)
        return cls(host=host, port=port)

    @property
    def family(self) -> socket.AddressFamily:
        """The socket's address family."""
        if self.path:
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def name(self) -> str | tuple[str, int]:
        """The address as Python's `socket.bind` expects it."""
        if self.path:
            return "\0" + self.path[1:] if self.path.startswith("@") else self.path
        return self.host, self.port

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen(endpoint: Endpoint) -> socket.socket:
    """Listen for the agent itself. Raises `AddressHeld`, naming the holder, or `MachineError`."""
    if endpoint.path and not endpoint.path.startswith("@"):
        remove_stale(Path(endpoint.path))
    bound = _bind(endpoint, lambda _: None)
    bound.listen(128)
    return bound


def bind_for_proxy(endpoint: Endpoint, *, reuse_port: bool, dual_stack: bool) -> socket.socket:
    """Bind for a proxy that may not; the proxy listens. Non-blocking: the proxy shares the flag."""

    def prepare(made: socket.socket) -> None:
        made.setblocking(False)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not dual_stack))

    return _bind(endpoint, prepare)


def check_free(endpoint: Endpoint, ours: Collection[int]) -> None:
    """Raise `AddressHeld` if a process other than `ours` (pids) listens at the endpoint.

    The endpoint is a TCP or Unix one.
    A proxy that binds with reuse_port would silently share the port with another program, so the agent tries without.
    At a Unix path Envoy removes any socket or file, even another program's.
    """
    if endpoint.path:
        _check_path_free(endpoint)
        return
    with _probe(endpoint) as probe:
        if endpoint.family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(endpoint.name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return  # a low port, an address not configured yet: the proxy may still be able to bind
            holders = find_holders(endpoint)
            strangers = [holder for holder in holders if holder.pid not in ours]
            if strangers or not holders:
                raise _held(endpoint, strangers) from None


def may_bind_for_others(port: int) -> bool:
    """Whether the agent should bind this port for a proxy: it is low and the agent is root."""
    low = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    return 0 < port < low and os.geteuid() == 0


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens at an address; `pid` is None if the kernel hides the owner."""

    pid: int | None

    def __str__(self) -> str:
        if self.pid is None:
            return "a process of another user"
        try:
            return f"{psutil.Process(self.pid).name()} (pid {self.pid})"
        except psutil.Error:
            return f"pid {self.pid}"


def find_holders(endpoint: Endpoint) -> list[Holder]:
    """Find the processes that listen at the endpoint's port, on its address or on a wildcard."""
    wildcards = {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound
    found: dict[int | None, Holder] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == endpoint.port:
            address = connection.laddr.ip
            if address == endpoint.host or address in wildcards or endpoint.host in wildcards:
                found[connection.pid] = Holder(connection.pid)
    return list(found.values())


def _check_path_free(endpoint: Endpoint) -> None:
    if not endpoint.path.startswith("@") and not _is_socket(Path(endpoint.path), missing=True):
        message = f"cannot listen on {endpoint}: it is a file and not a socket; remove it or choose another path"
        raise AddressHeld(message)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(endpoint.name)
        except BlockingIOError:
            pass  # a process listens and its queue is full
        except OSError:
            return
    raise _held(endpoint, [])


def _held(endpoint: Endpoint, holders: list[Holder]) -> AddressHeld:
    who = ", ".join(map(str, holders)) or "another process"
    return AddressHeld(f"cannot listen on {endpoint}: {who} already does; stop it or choose another address")


def _probe(endpoint: Endpoint) -> socket.socket:
    probe = socket.socket(endpoint.family, socket.SOCK_STREAM)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return probe


def _bind(endpoint: Endpoint, prepare: Callable[[socket.socket], None]) -> socket.socket:
    made = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        if not endpoint.path:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        prepare(made)
        made.bind(endpoint.name)
    except PermissionError as error:
        made.close()
        message = (
            f"cannot listen on {endpoint}: permission denied; use a port above 1023 or give the agent the capability"
        )
        raise MachineError(message) from error
    except OSError as error:
        made.close()
        if not endpoint.path and error.errno == errno.EADDRINUSE:
            raise _held(endpoint, find_holders(endpoint)) from error
        message = f"cannot listen on {endpoint}: {error.strerror}"
        raise MachineError(message) from error
    return made


def remove_stale(path: Path) -> None:
    """Remove a Unix socket without a listener; keep any other file."""
    if not _is_socket(path, missing=False):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # its queue may be full
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return


def _is_socket(path: Path, *, missing: bool) -> bool:
    """Whether there is a socket at `path`; `missing` if nothing can be seen there."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return missing
