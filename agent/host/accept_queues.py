"""Lists the connections that wait in accept queues (sock_diag(7)).

A queue's length does not distinguish a stuck queue from one that fills as fast as it empties. A connection that is not
accepted yet has no inode, and is established or already closed by its client; one that a process has closed has none
either, but is in other states. /proc/net/tcp holds the same data, but is ten times slower with thousands of
connections.
"""

import socket
import struct
from collections.abc import Collection, Iterator

LIMIT = 8
"""Maximum number of ports examined: each costs the kernel a scan of all its connections."""

_SOCK_DIAG, _BY_FAMILY = 4, 20  # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_WAITING = 1 << 1 | 1 << 8  # TCP_ESTABLISHED, TCP_CLOSE_WAIT (include/net/tcp_states.h)
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, pid
_QUESTION = struct.Struct("=BBBBI2s46x")  # struct inet_diag_req_v2: family, protocol, …, states, source port, any
_ANSWER = struct.Struct("=44xQ16xI")  # struct inet_diag_msg: …, cookie, …, inode
_CHUNK = 64 << 10
_TIMEOUT = 1.0  # the kernel answers at once if at all


def clients(ports: Collection[int]) -> frozenset[int]:
    """Return the kernel's cookies of the connections that wait at these local TCP ports.

    A connection that was reset stays in the queue but is not listed. The result is empty if sock_diag fails.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as asked:
            asked.settimeout(_TIMEOUT)
            families = (socket.AF_INET, socket.AF_INET6)
            each = ((family, port) for port in sorted(ports)[:LIMIT] for family in families)
            return frozenset(number for family, port in each for number in _ask(asked, family, port))
    except OSError:
        return frozenset()


def _ask(asked: socket.socket, family: int, port: int) -> Iterator[int]:
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, _WAITING, port.to_bytes(2, "big"))
    asked.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _DUMP, 0, 0) + question)
    while True:
        for kind, body in _messages(asked.recv(_CHUNK)):
            if kind != _BY_FAMILY:  # the end, or an error: no message follows
                return
            number, inode = _ANSWER.unpack_from(body)
            if inode == 0:
                yield number


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split a netlink(7) datagram into the types and bodies of its messages."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]
