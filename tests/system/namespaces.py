"""Network namespaces of our own, by the system calls themselves (Python 3.11 has no `os.unshare`)."""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def may_have_networks() -> bool:
    """Return whether this process may create network namespaces (CAP_SYS_ADMIN)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) & (1 << 21))


def network_of(pid: int | str) -> str | None:
    """Return the name of the network namespace of `pid`, `None` if the process has exited or is not accessible."""
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None


@contextmanager
def own_network() -> Iterator[None]:
    """Move the calling thread, and its later children, into a new network namespace with loopback up.

    The namespace has no name: it ends with its last process and socket. The kernel never assigns ports 1024 to 19999
    to clients, so tests can use them.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(CLONE_NEWNET), "unshare")
        try:
            _raise_loopback()
            Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("20000 65000", encoding="ascii")
            yield
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), "setns")
    finally:
        os.close(home)
