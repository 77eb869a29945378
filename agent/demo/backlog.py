"""Counts clients in a port's accept queues by sock_diag(7), whichever process owns them."""

import socket
import struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_DONE = 3
_TCP_LISTEN = 1 << 10
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_QUERY = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2, any socket
_PORT = slice(4, 6)  # in struct inet_diag_msg, after the header
_QUEUE = struct.Struct("=I")
_QUEUE_AT = 56  # idiag_rqueue: for a listening socket, the length of its accept queue
_CHUNK = 1 << 16


class Backlog:
    """The accept queues of one TCP port on IPv4.

    Raises `OSError` if the kernel does not report them.
    """

    def __init__(self, port: int) -> None:
        self._port = port.to_bytes(2, "big")
        query = _QUERY.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, _TCP_LISTEN)
        size = _HEADER.size + len(query)
        self._question = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0) + query
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)

    def depth(self) -> int:
        """Return how many clients are queued now."""
        self._socket.send(self._question)
        depth = 0
        while True:
            data = self._socket.recv(_CHUNK)
            while data:
                size, kind, *_ = _HEADER.unpack_from(data)
                if kind != _SOCK_DIAG_BY_FAMILY:
                    if kind != _NLMSG_DONE:
                        message = "cannot read accept queues: the kernel refuses"
                        raise OSError(message)
                    return depth
                depth += self._queue(data[_HEADER.size : size])
                data = data[size:]

    def _queue(self, message: bytes) -> int:
        return int(_QUEUE.unpack_from(message, _QUEUE_AT)[0]) if message[_PORT] == self._port else 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
