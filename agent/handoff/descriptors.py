"""Checks descriptors sent by an epoch against the kernel, and closes them without blocking.

A descriptor may be anything: a file on a file system served by the epoch itself (close(2) waits for its reply), or a
connection that lingers (SO_LINGER, socket(7)) with bytes that its peer never reads.
"""

import contextlib
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterable
from urllib.parse import urlsplit

_NO_LINGER = struct.pack("ii", 0, 0)
_KINDS = {"tcp": socket.SOCK_STREAM, "unix": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def discard(descriptors: Iterable[int]) -> None:
    """Close unwanted descriptors without blocking."""
    for descriptor in descriptors:
        try:
            given = socket.socket(fileno=descriptor)
        except OSError:  # not a socket: closed in a daemon thread, where waiting blocks neither the loop nor the exit
            threading.Thread(target=_close, args=(descriptor,), daemon=True, name="close").start()
        else:
            with contextlib.suppress(OSError), given:
                given.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def is_socket_of(descriptor: int, address: str) -> bool:
    """Return whether this is a socket of the right kind at this address, see `ListenAddress`."""
    try:
        given = socket.socket(fileno=descriptor)
    except OSError:
        return False
    try:
        scheme = address.partition("://")[0]
        return given.type == _KINDS.get(scheme) and _is_at(given, address)
    except (OSError, ValueError):
        return False
    finally:
        given.detach()


def _is_at(given: socket.socket, address: str) -> bool:
    name = given.getsockname()
    if given.family == socket.AF_UNIX:
        path = address.removeprefix("unix://")
        wanted = b"\0" + os.fsencode(path[1:]) if path.startswith("@") else os.fsencode(path)
        return wanted == os.fsencode(name)
    if given.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    parts = urlsplit(address)
    if ipaddress.ip_address(name[0].partition("%")[0]) != ipaddress.ip_address(
        (parts.hostname or "").partition("%")[0]
    ):
        return False
    return parts.port in {0, name[1]}


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)
