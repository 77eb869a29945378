"""The hot-restart protocol encoded by hand, after the sources of Envoy: the expected bytes."""

import struct


def varint(value: int) -> bytes:
    """Encode an unsigned number; a negative int32 has ten bytes in protobuf."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """Encode a numeric field."""
    return varint(field << 3) + varint(value)


def block(field: int, content: bytes | str = b"") -> bytes:
    """Encode a field of bytes: a string or a message."""
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def request(kind: int, content: bytes = b"") -> bytes:
    """Encode a HotRestartMessage with this request of the oneof."""
    return block(1, block(kind, content))


def reply(kind: int, content: bytes = b"") -> bytes:
    """Encode a HotRestartMessage with this reply of the oneof."""
    return block(2, block(kind, content))


def pass_listen_socket(address: str, worker: int = 0, namespace: str = "") -> bytes:
    """Encode the request for a socket."""
    fields = block(1, address) if address else b""
    fields += number(2, worker) if worker else b""
    return request(1, fields + (block(3, namespace) if namespace else b""))


SHUTDOWN_ADMIN = request(2)
STATS = request(3)
DRAIN_LISTENERS = request(4)
TERMINATE = request(5)
TEST_CONNECTION = request(7)
UNKNOWN_REQUEST = request(15)
NOT_UNDERSTOOD = number(3, 1)
SOCKET_REPLY = reply(1, number(1, 5))
NO_SOCKET_REPLY = reply(1, number(1, -1))


def framed(body: bytes) -> bytes:
    """Prefix the length, as in the first datagram."""
    return struct.pack(">Q", len(body)) + body


def datagrams(body: bytes) -> list[bytes]:
    """Split a framed message into datagrams of 4096 bytes."""
    whole = framed(body)
    return [whole[start : start + 4096] for start in range(0, len(whole), 4096)]
