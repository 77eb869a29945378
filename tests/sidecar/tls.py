"""TLS between two sockets of one process, step by step and without a loop."""

import contextlib
import socket
import ssl
import tempfile
from functools import cache
from pathlib import Path

from agent.sidecar.counters import TlsCounters
from agent.sidecar.wire import SecureWire
from agent.stats.writer import Writer
from tests.sidecar.stand import authority, written
from tests.sidecar.wires import connected


@cache
def server_context() -> ssl.SSLContext:
    """Return a context that shows a certificate for a.example, and asks for none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        pair = written(Path(directory), authority().issue(["a.example"]), "server")
        context.load_cert_chain(pair.chain, pair.key)
    return context


@cache
def client_context() -> ssl.SSLContext:
    """Return a context that trusts `server_context`."""
    return ssl.create_default_context(cadata=authority().pem.decode())


class Peer:
    """The far end of a TLS connection: OpenSSL on memory, and a socket that a test reads and writes."""

    def __init__(self, far: socket.socket, context: ssl.SSLContext, server_name: str | None = "a.example") -> None:
        self.far = far
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if context is server_context() else server_name
        self.tls = context.wrap_bio(self._in, self._out, server_side=name is None, server_hostname=name)

    def step(self) -> bool:
        """Continue the handshake; return whether it is complete."""
        self._receive()
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()
        return True

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        self.tls.write(data)
        self.flush()

    def encrypt(self, data: bytes) -> bytes:
        """Return the record of some bytes without sending it."""
        self.tls.write(data)
        return self._out.read()

    def read(self) -> bytes:
        """Return the plain bytes that have come; empty if none, or at the end."""
        self._receive()
        got = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while part := self.tls.read(1 << 16):
                got += part
        return bytes(got)

    def ends(self) -> bool:
        """Return whether close_notify has come, after `read`."""
        self._receive()
        try:
            return self.tls.read(1) == b""
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLWantReadError:
            return False

    def end(self) -> None:
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()

    def flush(self) -> None:
        """Send what is encrypted."""
        if data := self._out.read():
            self.far.send(data)

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := self.far.recv(1 << 20):
                self._in.write(data)


def secure_pair(counters: TlsCounters | None = None) -> tuple[SecureWire, Peer]:
    """Return the sidecar's wire of a TLS connection as a server, and the client at its far end."""
    near, far = connected()
    secure = server_context().wrap_socket(
        near, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )
    peer = Peer(far, client_context())
    peer.step()
    is_done = False
    while not is_done:
        try:
            secure.do_handshake()
            is_done = True
        except ssl.SSLWantReadError:
            pass
        peer.step()
    peer.read()  # the session tickets
    return SecureWire(secure, counters or TlsCounters(Writer.private(), "l.")), peer


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))
