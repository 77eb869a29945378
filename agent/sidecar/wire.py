"""One end of a connection: a non-blocking socket, plain or with TLS, whose calls never wait.

With TLS, the ssl module works on the socket itself: measured, an idle connection then costs 15 KB, where asyncio's
transport keeps a buffer of 256 KB.
"""

import functools
import os
import socket
import ssl

from agent.sidecar.counters import TlsCounters

_RECORD = 16 << 10  # bytes of plain text in one TLS record, at most (RFC 8446, 5.1)


def forget(error: Exception) -> None:
    """Remove what a failed TLS call has left in OpenSSL's error queue, which all connections of a thread share.

    For a failed system call, the ssl module raises a plain OSError and leaves the queue as it is (CPython 3.13 with
    OpenSSL 3.5). The next call on another connection would then report that error as its own: a client that closes
    abruptly cuts another one. The ssl module empties the queue when it creates a connection.
    """
    if not isinstance(error, ssl.SSLError):
        _any_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)


@functools.cache
def _any_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Wire:
    """A plain connection. Any method may raise OSError: the connection is then broken."""

    __slots__ = ("fd", "socket")

    is_secure = False

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.fd = connected.fileno()

    def receive(self, room: memoryview) -> int:
        """Receive into `room`; return the byte count, 0 at the end of the stream, -1 if none yet."""
        try:
            return self.socket.recv_into(room)
        except BlockingIOError:
            return -1

    def send(self, data: memoryview | bytes) -> int:
        """Send what fits now, and return the byte count. The rest must be sent first next time."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    @property
    def holds_more(self) -> bool:
        """Whether there are bytes to receive for which the kernel does not wake the loop."""
        return False

    def end(self) -> bool:
        """Send the end of the stream, and keep receiving; False: repeat when writable."""
        self.socket.shutdown(socket.SHUT_WR)
        return True

    def close(self) -> None:
        """Close the socket; the kernel still sends the bytes that it has accepted."""
        self.socket.close()


class SecureWire(Wire):
    """A TLS connection after its handshake."""

    __slots__ = ("_counters", "_end", "_last", "secure")

    is_secure = True

    def __init__(self, connected: ssl.SSLSocket, counters: TlsCounters) -> None:
        super().__init__(connected)
        self.secure = connected
        self._counters = counters
        self._end: bytes | None = None  # the unsent part of close_notify, after the first `end`
        self._last: OSError | None = None  # the error or end that followed the last bytes received

    def receive(self, room: memoryview) -> int:
        """Receive as `Wire` does, several records at a time, so that they are relayed together.

        A peer that demands a response within TLS but does not read it is disconnected, since no event would wake the
        loop when that response can be sent.
        """
        if self._last is not None:
            return self._tell(self._last)
        size, got = len(room), 0
        try:
            while got < size:
                got += self._receive(room[got:])
        except ssl.SSLWantReadError:
            return got or -1
        except OSError as error:
            forget(error)
            self._last = error
            return got or self._tell(error)
        return got

    def _receive(self, room: memoryview) -> int:
        count = self.secure.recv_into(room)
        if not count:
            raise ssl.SSLZeroReturnError
        return count

    def _tell(self, error: OSError) -> int:
        if isinstance(error, ssl.SSLZeroReturnError):
            return 0
        self._counters.failed(error)
        raise error

    def send(self, data: memoryview | bytes) -> int:
        """Send as `Wire` does. OpenSSL requires the same record again if it could not send it."""
        view, sent = memoryview(data), 0
        try:
            while sent < len(view):
                sent += self.secure.send(view[sent : sent + _RECORD])
        except ssl.SSLWantWriteError:
            return sent
        except OSError as error:
            forget(error)
            raise
        return sent

    @property
    def holds_more(self) -> bool:
        """Whether OpenSSL holds a part of a record, or an end or error is to be reported."""
        return self._last is not None or self.secure.pending() > 0

    def end(self) -> bool:
        """Send TLS's end (close_notify), and keep TCP open in both directions, as Envoy does."""
        if self._end is None:
            self._end = self._own_end()
        try:
            while self._end:
                self._end = self._end[os.write(self.fd, self._end) :]
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Send close_notify if `end` has not, and close the socket."""
        try:
            if self._end is None:
                self.secure.unwrap()
        except (OSError, ValueError) as error:
            forget(error)
        self.socket.close()

    def _own_end(self) -> bytes:
        """Return close_notify as bytes for the socket.

        The ssl module can only send it and read the peer's in one call, which would lose bytes that the peer still
        sends. So it writes to a socket pair that replaces the connection's socket during the call.
        """
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.setblocking(False)
            kept = os.dup(self.fd)
            try:
                os.dup2(there.fileno(), self.fd, inheritable=False)
                self.secure.unwrap()
            except ssl.SSLWantReadError:
                pass  # it would have read the peer's close_notify
            except OSError as error:
                forget(error)
                raise
            finally:
                os.dup2(kept, self.fd, inheritable=False)
                os.close(kept)
            return here.recv(1 << 10)
