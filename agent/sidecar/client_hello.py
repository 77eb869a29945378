"""Parses a ClientHello for the choice of a filter chain (RFC 8446, 4.1.2 and 5.1)."""

from collections.abc import Iterator
from typing import NamedTuple

LONGEST = 16 << 10  # bytes of the records of one ClientHello, more than any client sends
_HANDSHAKE, _CLIENT_HELLO = 0x16, 0x01
_SERVER_NAME, _ALPN = 0, 16


class Hello(NamedTuple):
    """The server name and protocols of a ClientHello; `is_tls` is false if there is none."""

    is_tls: bool = False
    server_name: str = ""  # lower case
    protocols: tuple[str, ...] = ()


RAW = Hello()


def hello_of(data: bytes) -> Hello | None:
    """Parse the first bytes of a connection; return None if more are needed.

    Bytes that begin like TLS but are not TLS count as not TLS, as in Envoy.
    """
    message = _message(data)
    if message is None:
        return None
    if not message:
        return RAW
    try:
        return _read(message)
    except (IndexError, UnicodeDecodeError):
        return RAW


def _message(data: bytes) -> bytes | None:
    """Join the first handshake message from its records; empty: not TLS, None: incomplete."""
    body = bytearray()
    at = 0
    while True:
        if not _may_be_record(data[at : at + 3]):
            return b""
        if len(data) < at + 5:
            return None
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        body += data[at + 5 : at + 5 + length]
        if body and body[0] != _CLIENT_HELLO:
            return b""
        size = 4 + int.from_bytes(body[1:4], "big")
        if len(body) >= 4 and len(body) >= size:
            return bytes(body[:size])
        if not length or size > LONGEST:
            return b""
        if len(data) < at + 5 + length:
            return None
        at += 5 + length


def _may_be_record(start: bytes) -> bool:
    return start[:1] in {b"", b"\x16"} and start[1:2] in {b"", b"\x03"}


def _read(message: bytes) -> Hello:
    at = 4 + 2 + 32  # header, version, random
    at += 1 + message[at]  # session id
    at += 2 + int.from_bytes(message[at : at + 2], "big")  # cipher suites
    at += 1 + message[at]  # compression methods
    name = ""
    protocols: tuple[str, ...] = ()
    for kind, value in _extensions(message[at:]):
        if kind == _SERVER_NAME and len(value) >= 5:
            name = value[5 : 5 + int.from_bytes(value[3:5], "big")].decode("ascii").lower()
        elif kind == _ALPN:
            protocols = tuple(_protocols(value[2:]))
    return Hello(is_tls=True, server_name=name, protocols=protocols)


def _extensions(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 2, 2 + int.from_bytes(data[:2], "big")
    while at + 4 <= end:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 + length > len(data):
            raise IndexError
        yield int.from_bytes(data[at : at + 2], "big"), data[at + 4 : at + 4 + length]
        at += 4 + length


def _protocols(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data):
        yield data[at + 1 : at + 1 + data[at]].decode("latin-1")
        at += 1 + data[at]
