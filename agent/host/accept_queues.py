"""Lists the connections that wait in accept queues (sock_diag(7)).

A queue's length does not distinguish a stuck queue from one that fills as fast as it empties. A connection that is not
accepted yet has no inode, and is established or already closed by its client; one that a process has closed has none
either, but is in other states. /proc/net/tcp holds the same data, but is ten times slower with thousands of
connections.
"""

import os
import socket
import struct
from collections.abc import Collection, Iterator

LIMIT = 8
"""Maximum number of ports examined: each costs the kernel a scan of all its connections."""

_SOCK_DIAG, _BY_FAMILY = 4, 20  # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_WAITING = 1 << 1 | 1 << 8  # TCP_ESTABLISHED, TCP_CLOSE_WAIT (include/net/tcp_states.h)
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, pid
_QUESTION = struct.Struct("=BBBBI2s2s44x")  # struct inet_diag_req_v2: family, protocol, …, states, both ports, any
_ANSWER = struct.Struct("=44xQ16xI")  # struct inet_diag_msg: …, cookie, …, inode
_REQUEST = 0x1  # NLM_F_REQUEST
_UNIX_QUESTION = struct.Struct("=BBxxIIIQ")  # struct unix_diag_req: family, protocol, states, inode, show, cookie
_ALL, _ANY, _SHOW_PEER = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x4  # every state, any cookie, UDIAG_SHOW_PEER
_UNIX_ANSWER, _PEER = 16, 2  # the size of struct unix_diag_msg; UNIX_DIAG_PEER
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
            found = (one for family, port in each for one in _ask(asked, family, port))
            return frozenset(number for number, inode in found if inode == 0)
    except OSError:
        return frozenset()


def is_accepted(port: int, client: int) -> bool:
    """Return whether a process has accepted a connection to a local TCP port from the port `client`.

    It is false as well if both ends have closed it. Raises `OSError` if sock_diag fails.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as asked:
        asked.settimeout(_TIMEOUT)
        families = (socket.AF_INET, socket.AF_INET6)
        return any(inode for family in families for _, inode in _ask(asked, family, port, client))


def is_accepted_unix(client: socket.socket) -> bool:
    """Return whether a process has accepted this connection to a Unix socket. Raises `OSError` if sock_diag fails.

    The other end of a connection that waits has no inode.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as asked:
        asked.settimeout(_TIMEOUT)
        question = _UNIX_QUESTION.pack(socket.AF_UNIX, 0, _ALL, os.fstat(client.fileno()).st_ino, _SHOW_PEER, _ANY)
        asked.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST, 0, 0) + question)
        return any(peer for _, body in _messages(asked.recv(_CHUNK)) for peer in _peers(body))


def _peers(body: bytes) -> Iterator[int]:
    """Yield the inode in the attribute UNIX_DIAG_PEER, sock_diag(7)."""
    at = _UNIX_ANSWER
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if kind == _PEER:
            yield struct.unpack_from("=I", body, at + 4)[0]
        at += max((length + 3) & ~3, 4)


def _ask(asked: socket.socket, family: int, port: int, client: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the cookie and the inode of each connection; `client`: 0 for any."""
    ports = port.to_bytes(2, "big"), client.to_bytes(2, "big")
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, _WAITING, *ports)
    asked.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _DUMP, 0, 0) + question)
    while True:
        for kind, body in _messages(asked.recv(_CHUNK)):
            if kind != _BY_FAMILY:  # the end, or an error: no message follows
                return
            yield _ANSWER.unpack_from(body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split a netlink(7) datagram into the types and bodies of its messages."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]
