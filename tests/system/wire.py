"""One HTTP request over TCP or TLS, with its exact result. Standard library only: the load program uses it.

A request is *ok* if a complete response with status 200 arrived. Otherwise it is `Failed` with one of these reasons:
`refused`, `reset`, `eof` (closed before the response was complete), `timeout`, `tls` (an invalid answer to the
handshake), `status` (another status than 200), `malformed`, or `client` (it could not be sent; it counts as failed).
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.system.eventually import PATIENCE

TIMEOUT = PATIENCE


class Failed(Exception):
    """A failed request; `reason` is one word of the module's docstring. `partial`: the answer had begun."""

    partial = False

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Target:
    """The destination of requests; `tls` with or without a server name."""

    host: str
    port: int
    tls: bool = False
    server_name: str = ""

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of `host`, which is a literal address."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


@dataclass(frozen=True)
class Answer:
    """A complete response: its body, and whether the server announced that it closes the connection."""

    body: bytes
    closes: bool


def reason_of(error: OSError) -> str:
    """Map an error of a socket to a reason of the module's docstring."""
    kinds: list[tuple[type[OSError] | tuple[type[OSError], ...], str]] = [
        (ConnectionRefusedError, "refused"),
        ((ConnectionResetError, BrokenPipeError, ConnectionAbortedError), "reset"),
        ((ssl.SSLEOFError, ssl.SSLZeroReturnError), "eof"),
        (TimeoutError, "timeout"),
        (ssl.SSLError, "tls"),
    ]
    return next((reason for kind, reason in kinds if isinstance(error, kind)), "client")


@contextmanager
def sorted_errors() -> Iterator[None]:
    """Convert every error of a socket to `Failed`."""
    try:
        yield
    except OSError as error:
        raise Failed(reason_of(error), str(error)) from error


def tls_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate: the tests check the serial themselves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(target: Target, context: ssl.SSLContext, timeout: float = TIMEOUT) -> socket.socket:
    """Connect once, and shake hands if the target uses TLS; `Failed` otherwise."""
    with sorted_errors():
        sock = socket.socket(target.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((target.host, target.port))
            return context.wrap_socket(sock, server_hostname=target.server_name or None) if target.tls else sock
        except BaseException:
            sock.close()
            raise


def request_bytes(*, last: bool) -> bytes:
    """Return the request; the `last` one on a connection announces that."""
    return b"GET / HTTP/1.1\r\nHost: test\r\n" + (b"Connection: close\r\n" if last else b"") + b"\r\n"


def exchange(sock: socket.socket, *, last: bool) -> Answer:
    """Send one request and read its complete response; `Failed` otherwise."""
    data = b""
    try:
        with sorted_errors():
            sock.sendall(request_bytes(last=last))
            while (answer := parse(data)) is None:
                data += _received(sock, data)
            return answer
    except Failed as error:
        error.partial = bool(data)
        raise


def _received(sock: socket.socket, data: bytes) -> bytes:
    more = sock.recv(65536)
    if not more:
        raise Failed("eof", f"after {len(data)} bytes of the answer")
    return more


def parse(data: bytes) -> Answer | None:
    """Parse the response in `data`, `None` while it is incomplete; `Failed` if it is not a 200 of a known length."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return None
    status, *lines = head.lower().split(b"\r\n")
    if b" 200 " not in status + b" ":
        raise Failed("status", status.decode("latin-1"))
    fields = dict(line.split(b": ", 1) for line in lines if b": " in line)
    if not fields.get(b"content-length", b"").isdigit():
        raise Failed("malformed", head.decode("latin-1"))
    length = int(fields[b"content-length"])
    return Answer(body, closes=fields.get(b"connection") == b"close") if len(body) >= length else None


def closed_by_peer(sock: socket.socket) -> bool:
    """Return, without waiting, whether the peer has closed this idle connection; `Failed` if it sent data."""
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        early = sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(timeout)
    if early:
        raise Failed("malformed", "an answer to no request")
    return True


def serial_of(sock: socket.socket) -> int | None:
    """Return the serial number of the peer's certificate, `None` without TLS."""
    der = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    return serial_in(der) if der else None


def serial_in(der: bytes) -> int:
    """Return the serial number of a certificate (RFC 5280 §4.1: the first INTEGER of tbsCertificate)."""
    at = _inside(der, _inside(der, 0))
    if der[at] == 0xA0:  # the version, explicitly tagged
        at = _inside(der, at) + der[at + 1]
    start = _inside(der, at)
    return int.from_bytes(der[start : start + der[at + 1]], "big", signed=True)


def _inside(der: bytes, at: int) -> int:
    """Return the position of the contents of the DER element at `at`."""
    return at + 2 + (der[at + 1] & 0x7F if der[at + 1] & 0x80 else 0)
