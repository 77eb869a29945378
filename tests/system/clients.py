"""TLS clients of one handshake each, with the exact result."""

import contextlib
import select
import socket
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from tests.system.certificates import Pair
from tests.system.wire import TIMEOUT, Failed, exchange, serial_of, tls_context

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@dataclass(frozen=True)
class Met:
    """A client's result: the response's body, or the reason of a failure; and the parameters of the handshake.

    `refused` is the server's alert in OpenSSL's words ("tlsv1 alert unknown ca"), `eof` or `reset` if the connection
    ended without one, and empty if a request was answered. `early`: the refusal arrived within the client's own
    handshake, which in TLS 1.3 ends before the server has verified the client's certificate.
    """

    refused: str = ""
    early: bool = False
    body: bytes = b""
    version: str | None = None
    alpn: str | None = None
    serial: int | None = None


@dataclass(frozen=True)
class Client:
    """A client's settings: its only TLS version, if any, its certificate, the server name and protocols it offers.

    One that is `judged` by its certificate, or for having none, waits for the server's result before it sends data.
    """

    version: ssl.TLSVersion | None = None
    identity: Pair | None = None
    server_name: str = ""
    alpn: Sequence[str] = ()
    ciphers: str = ""
    judged: bool = False

    def context(self) -> ssl.SSLContext:
        """Return the context: it accepts any certificate of the server."""
        context = tls_context()
        if self.version is not None:
            context.minimum_version = context.maximum_version = self.version
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.ciphers:
            context.set_ciphers(self.ciphers)
        if self.identity is not None:
            with tempfile.NamedTemporaryFile() as file:
                file.write(self.identity.chain_pem + self.identity.key_pem)
                file.flush()
                context.load_cert_chain(file.name)
        return context

    def meet(self, port: int, host: str = "127.0.0.1") -> Met:
        """Connect, shake hands and make one request."""
        with socket.create_connection((host, port), TIMEOUT) as raw:
            try:
                sock = self.context().wrap_socket(raw, server_hostname=self.server_name or None)
            except OSError as error:
                return Met(refusal(error), early=True)
            with sock:
                return self._served(sock)

    def _served(self, sock: ssl.SSLSocket) -> Met:
        try:
            if self.judged and sock.version() == "TLSv1.3":
                _await_word(sock)
            body = exchange(sock, last=True).body
        except (OSError, Failed) as error:
            return Met(refusal(error))
        return Met("", False, body, sock.version(), sock.selected_alpn_protocol(), serial_of(sock))


def _await_word(sock: ssl.SSLSocket) -> None:
    """Wait for the server's result for our certificate: an alert, or its tickets, which are not data."""
    select.select([sock], [], [], TIMEOUT)
    sock.settimeout(0)
    with contextlib.suppress(ssl.SSLWantReadError):
        if not sock.recv(1):
            raise Failed("eof")
    sock.settimeout(TIMEOUT)


def refusal(error: Exception) -> str:
    """Return how a server refused: its alert in OpenSSL's words, else the reason of `tests.system.wire`."""
    cause = error.__cause__ if isinstance(error, Failed) and error.__cause__ is not None else error
    if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
        return (cause.reason or "").lower().replace("_", " ")
    if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "eof"
    if isinstance(cause, Failed):
        return cause.reason
    return "reset" if isinstance(cause, ConnectionError) else str(cause)
