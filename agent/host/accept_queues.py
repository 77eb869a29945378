"""Who waits in the accept queues, one by one (sock_diag(7)).

A length alone does not tell a queue that stands still from one in which as many come as go. A connection that no
process holds yet has no inode, and is established or already ended by its client; what a process has given up and the
kernel still closes has none either, but is in other states. /proc/net/tcp tells the same, and takes the kernel ten
times as long where there are thousands of connections.
"""

import socket
import struct
from collections.abc import Collection, Iterator

LIMIT = 8
"""How many ports are looked at, at most: each costs the kernel a walk through all of its connections."""

_SOCK_DIAG, _BY_FAMILY = 4, 20  # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_WAITING = 1 << 1 | 1 << 8  # TCP_ESTABLISHED, TCP_CLOSE_WAIT (include/net/tcp_states.h)
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, pid
_QUESTION = struct.Struct("=BBBBI2s46x")  # struct inet_diag_req_v2: family, protocol, …, states, source port, any
_ANSWER = struct.Struct("=44xQ16xI")  # struct inet_diag_msg: …, cookie, …, inode
_CHUNK = 64 << 10
_TIMEOUT = 1.0  # it answers at once, where it answers


def clients(ports: Collection[int]) -> frozenset[int]:
    """The clients that wait at these TCP ports of our network namespace, by the kernel's number of each connection.

    One that was reset while it waits stays in the queue, and is not told of. Nobody is where the kernel does not tell.
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
            if kind != _BY_FAMILY:  # the end, or an error: nothing comes after either
                return
            number, inode = _ANSWER.unpack_from(body)
            if inode == 0:
                yield number


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a datagram of netlink(7) into the kinds and bodies of its messages."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]
