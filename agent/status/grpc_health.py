"""One call of grpc.health.v1.Health/Check in HTTP/2, written by hand.

The request has only literal headers, and of the response only DATA frames matter: a message tells the status, and an
error is a response without a message. So neither HPACK nor a library of a megabyte is needed.
"""

import asyncio
import struct
from collections.abc import AsyncIterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, section 3.4
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_FRAME_LIMIT = 16384  # SETTINGS_MAX_FRAME_SIZE as it is before a SETTINGS frame changes it
_FRAMES_LIMIT = 1000
_STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_NOTHING = "it answers no health check: an error, an unknown service, or no gRPC health service"


async def check(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, service: str) -> str:
    """Ask for the health of a service on a new connection; return `SERVING`, or why it is not.

    Raises `ConnectionError` if the peer does not speak HTTP/2. The caller limits the time and closes the connection.
    """
    writer.write(_PREFACE + frame(_SETTINGS, 0, 0, b"") + _request(authority, service))
    message = bytearray()
    async for kind, flags, payload in _frames(reader, writer):
        if kind in {_GOAWAY, _RST_STREAM}:
            return _NOTHING
        if kind == _DATA:
            message += _unpadded(flags, payload)
        if (status := _status(bytes(message))) is not None:
            return status
        if kind in {_DATA, _HEADERS} and flags & _END_STREAM:
            return _NOTHING
    return _NOTHING


async def _frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[tuple[int, int, bytes]]:
    """Yield the frames of the stream, or of the whole connection's end; answer what demands an answer."""
    for number in range(_FRAMES_LIMIT):
        try:
            kind, flags, stream, payload = await _read(reader)
        except asyncio.IncompleteReadError as error:
            message = "it closed the connection without an answer" if number else "it does not speak HTTP/2"
            raise ConnectionError(message) from error
        if number == 0 and kind != _SETTINGS:
            message = "it does not speak HTTP/2"
            raise ConnectionError(message)
        if kind in {_SETTINGS, _PING} and not flags & _ACK:
            writer.write(frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif stream == 1 or kind == _GOAWAY:
            yield kind, flags, payload


async def _read(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    head = await reader.readexactly(9)
    length, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
    if length > _FRAME_LIMIT:
        message = "it does not speak HTTP/2"
        raise ConnectionError(message)
    return kind, flags, int.from_bytes(head[5:]) & 0x7FFFFFFF, await reader.readexactly(length)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _request(authority: str, service: str) -> bytes:
    name = service.encode()
    health = b"" if not name else b"\x0a" + _varint(len(name)) + name  # HealthCheckRequest.service
    message = struct.pack(">BI", 0, len(health)) + health
    headers = b"\x83\x86" + b"".join(  # :method POST, :scheme http
        literal(key, value)
        for key, value in (
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "kube-probe/agent"),
        )
    )
    data = [message[at : at + _FRAME_LIMIT] for at in range(0, len(message), _FRAME_LIMIT)]
    last = len(data) - 1
    return frame(_HEADERS, _END_HEADERS, 1, headers) + b"".join(
        frame(_DATA, _END_STREAM if number == last else 0, 1, part) for number, part in enumerate(data)
    )


def literal(name: str, value: str) -> bytes:
    """Return a header field that is not indexed, without Huffman code (RFC 7541, section 6.2.2)."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode("ascii")
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    """Return an integer with a prefix of seven bits (RFC 7541, section 5.1)."""
    return bytes((value,)) if value < 127 else b"\x7f" + _varint(value - 127)


def _varint(value: int) -> bytes:
    """Return an integer in groups of seven bits, the lowest first."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED and payload else payload


def _status(message: bytes) -> str | None:
    """Return the status in a HealthCheckResponse; None while it is incomplete."""
    if len(message) < 5 or len(message) < 5 + int.from_bytes(message[1:5]):
        return None
    body = message[5 : 5 + int.from_bytes(message[1:5])]
    if message[0] or (body and (len(body) != 2 or body[0] != 8)):  # compressed, or another message
        return "it answers with a message that is no HealthCheckResponse"
    number = body[1] if body else 0
    return _STATUSES.get(number, f"status {number}")
