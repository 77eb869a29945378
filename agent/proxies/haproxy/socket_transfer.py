"""HAProxy's transfer of listening sockets (`-x` and `_getsocks`), both sides.

A stream socket. The one that wants sockets sends `_getsocks` and a line feed. The answer is a native 32-bit count, then
messages with at most 252 descriptors (SCM_RIGHTS), whose data holds one record a descriptor: its network namespace and
its interface, each a byte with the length and the bytes, and 32 bits of options, which nobody reads. After each message
but the last one, the receiver sends the number of descriptors that it has. Source: sock.c and proto_sockpair in
HAProxy 2.6; run against 2.6.12.
"""

import array
import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.core.errors import MachineError

REQUEST = b"_getsocks\n"
_COUNT = struct.Struct("=i")
_IN_ONE = 252  # MAX_SEND_FD
_RECORD = 2 * 256 + 4  # bytes at most
_MANY = 1 << 16
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Passed:
    """A listening socket with the network namespace and the interface that it is bound in, empty for the usual."""

    descriptor: int
    namespace: str = ""
    interface: str = ""

    def record(self) -> bytes:
        """Return what describes it in a message."""
        parts = (os.fsencode(self.namespace)[:255], os.fsencode(self.interface)[:255])
        return b"".join(bytes([len(part)]) + part for part in parts) + _COUNT.pack(0)


def send(connection: socket.socket, sockets: Sequence[Passed]) -> None:
    """Answer a request for sockets. Raises `MachineError`.

    It blocks for as long as the receiver takes, at most some seconds: call it in a thread.
    """
    connection.settimeout(_TIMEOUT)
    try:
        connection.sendall(_COUNT.pack(len(sockets)))
        for start in range(0, len(sockets), _IN_ONE):
            part = sockets[start : start + _IN_ONE]
            data = b"".join(each.record() for each in part)
            descriptors = array.array("i", [each.descriptor for each in part])
            connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            if start + _IN_ONE < len(sockets):
                _received(connection, _COUNT.size)
    except OSError as error:
        message = f"cannot hand {len(sockets)} sockets over: {error.strerror or error}"
        raise MachineError(message) from error


def receive(connection: socket.socket) -> list[Passed]:
    """Request all sockets of a process; the caller owns them. Raises `MachineError`. It blocks like `send`."""
    connection.settimeout(_TIMEOUT)
    taken: list[Passed] = []
    try:
        connection.sendall(REQUEST)
        (count,) = _COUNT.unpack(_received(connection, _COUNT.size))
        _require_plausible(count)
        while len(taken) < count:
            taken += _message(connection)
            if len(taken) < count:
                connection.sendall(_COUNT.pack(len(taken)))
    except (OSError, ValueError, struct.error) as error:
        for each in taken:
            os.close(each.descriptor)
        message = f"cannot take the proxy's sockets: {getattr(error, 'strerror', None) or error}"
        raise MachineError(message) from error
    return taken


def _require_plausible(count: int) -> None:
    if not 0 <= count <= _MANY:
        message = f"it announces {count} sockets"
        raise ValueError(message)


def _received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            message = "the connection ended"
            raise ConnectionError(message)
        data += part
    return data


def _message(connection: socket.socket) -> Iterator[Passed]:
    descriptors = array.array("i")
    space = socket.CMSG_SPACE(_IN_ONE * descriptors.itemsize)
    data, ancillary, *_ = connection.recvmsg(_IN_ONE * _RECORD, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if not descriptors:
        message = "a message has no socket" if data else "the connection ended"
        raise ConnectionError(message)
    try:
        records = list(_records(data, len(descriptors)))
    except (IndexError, ValueError):
        for each in descriptors:
            os.close(each)
        message = "a message does not describe its sockets"
        raise ConnectionError(message) from None
    return (Passed(number, *record) for number, record in zip(descriptors, records, strict=True))


def _records(data: bytes, count: int) -> Iterator[tuple[str, str]]:
    at = 0
    for _ in range(count):
        namespace, at = _text(data, at)
        interface, at = _text(data, at)
        at += _COUNT.size
        if at > len(data):
            message = "it is too short"
            raise ValueError(message)
        yield namespace, interface


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return os.fsdecode(data[at + 1 : end]), end


def close(sockets: Sequence[Passed]) -> None:
    """Close sockets that were received."""
    for each in sockets:
        with contextlib.suppress(OSError):
            os.close(each.descriptor)
