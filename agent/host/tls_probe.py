"""A TLS client that asks a listener for its certificates and trusts every server.

It sends no certificate and leaves as little trace as a connection can. Under TLS 1.3 the certificate is known before
the client has answered the handshake, and the connection is reset at that point. Measured on Envoy 1.40 and sidecar:
`downstream_cx_total` and `downstream_cx_destroy` of the listener and of its network filter count it (of an HTTP filter
`downstream_cx_ssl_total` and `…_destroy_remote`, too); no `ssl.*` counter moves, and a listener that requires client
certificates counts no failure. Envoy's `tcp_proxy` connects to its upstream as soon as a client connects, so the
upstream sees a connection that ends at once; the sidecar connects after the handshake. Before TLS 1.3 the handshake has
to be finished, and is counted (`ssl.handshake`, `ssl.no_certificate` …).
"""

import asyncio
import socket
import ssl
import sys
from collections.abc import Iterator

from agent.host.sockets import Endpoint

_CHUNK = 64 << 10
_RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s
_HANDSHAKE, _CERTIFICATE = 22, 11  # content type (RFC 8446, 5.1) and message type (RFC 5246, 7.4)


class ProbeError(Exception):
    """No certificate came: `error` tells why, `received` is what the listener sent. `connected`: it accepted."""

    def __init__(self, error: OSError | ValueError, received: bytes, *, connected: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.received = received
        self.connected = connected


def trusting_context() -> ssl.SSLContext:
    """Return the context of a client that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def probe(
    endpoint: Endpoint, server_name: str | None, context: ssl.SSLContext, timeout: float
) -> tuple[bytes, ...]:
    """Connect, and return the chain that the listener presents, as DER, leaf first. Raises `ProbeError`.

    A wildcard address means loopback. `timeout` is in seconds.
    """
    conversation = _Conversation()
    try:
        async with asyncio.timeout(timeout):
            return await conversation.run(endpoint, server_name, context)
    except (OSError, ValueError) as error:
        early = chain_in(conversation.received)  # a TLS 1.2 server sends its certificate before it requests ours
        if early:
            return early
        raise ProbeError(error, conversation.received, connected=conversation.connected) from error


class _Conversation:
    """One handshake. It runs on bytes in memory, so that a failed one can be examined."""

    def __init__(self) -> None:
        self.connected = False
        self.received = b""

    async def run(self, endpoint: Endpoint, server_name: str | None, context: ssl.SSLContext) -> tuple[bytes, ...]:
        with socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
            await asyncio.get_running_loop().sock_connect(connection, endpoint.name)
            self.connected = True
            try:
                return await self._shake_hands(connection, server_name, context)
            finally:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def _shake_hands(
        self, connection: socket.socket, server_name: str | None, context: ssl.SSLContext
    ) -> tuple[bytes, ...]:
        loop = asyncio.get_running_loop()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if server_name and "\0" in server_name:
            message = "a server name contains a NUL byte"  # Python would raise a TypeError
            raise ValueError(message)
        name = server_name.encode("ascii") if server_name else None  # to encode text, Python would import more
        tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(connection, outgoing.read())
                data = await loop.sock_recv(connection, _CHUNK)
                if not data:
                    message = "it closes the connection without a certificate"
                    raise ConnectionError(message) from None
                self.received += data
                incoming.write(data)
            else:
                return _presented(tls)


def _presented(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the peer's chain, leaf first; before Python 3.13 only a private method has it."""
    if sys.version_info >= (3, 13):
        return tuple(tls.get_unverified_chain())
    der = 2  # _ssl.ENCODING_DER
    chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001
    return tuple(each.public_bytes(der) for each in chain)


def chain_in(received: bytes) -> tuple[bytes, ...]:
    """Return the certificates in a TLS 1.2 server's plaintext records, leaf first, if any."""
    return next((tuple(_entries(body[3:])) for kind, body in _messages(received) if kind == _CERTIFICATE), ())


def _entries(body: bytes) -> Iterator[bytes]:
    """Yield the entries of a list, each preceded by its length in three octets."""
    while body:
        end = 3 + _number(body[:3])
        yield body[3:end]
        body = body[end:]


def _messages(received: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each handshake message in unencrypted records."""
    flight = b""
    while len(received) > 5 and received[0] == _HANDSHAKE:
        end = 5 + _number(received[3:5])
        flight, received = flight + received[5:end], received[end:]
    while len(flight) >= 4 and len(flight) >= 4 + _number(flight[1:4]):
        end = 4 + _number(flight[1:4])
        yield flight[0], flight[4:end]
        flight = flight[end:]


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "big")
