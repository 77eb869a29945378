"""One end of a connection: a non-blocking socket, plain or under TLS, that says what it can do now and never waits.

Under TLS, the ssl module works on the socket itself: measured, an idle connection then costs 15 KB, where asyncio's
transport keeps a buffer of 256 KB.
"""

import contextlib
import os
import socket
import ssl

from agent.sidecar.counters import TlsCounters

_RECORD = 16 << 10  # of plain text, at most, in one TLS record (RFC 8446, 5.1)


class Wire:
    """A plain connection. Every method may raise OSError: the connection is broken then."""

    __slots__ = ("fd", "socket")

    is_secure = False

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.fd = connected.fileno()

    def receive(self, room: memoryview) -> int:
        """Fill `room` from the front; 0 at the end of the stream, -1 if there is nothing now."""
        try:
            return self.socket.recv_into(room)
        except BlockingIOError:
            return -1

    def send(self, data: memoryview | bytes) -> int:
        """Send what fits now, perhaps nothing. What was not sent must come first the next time."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    @property
    def holds_more(self) -> bool:
        """Whether there is something to receive that the kernel does not know of."""
        return False

    def end(self) -> bool:
        """Say that nothing more comes from here, the other direction stays open; False: again when there is room."""
        self.socket.shutdown(socket.SHUT_WR)
        return True

    def close(self) -> None:
        """Close it; what the kernel has taken still goes out."""
        self.socket.close()


class SecureWire(Wire):
    """A connection under TLS after its handshake."""

    __slots__ = ("_counters", "_end", "_last", "secure")

    is_secure = True

    def __init__(self, connected: ssl.SSLSocket, counters: TlsCounters) -> None:
        super().__init__(connected)
        self.secure = connected
        self._counters = counters
        self._end: bytes | None = None  # what is still to be sent of it, once it is said
        self._last: OSError | None = None  # what came behind the last bytes that were received

    def receive(self, room: memoryview) -> int:
        """As for a plain one: several records, so that they go on together.

        A peer that wants an answer within TLS and does not read it is cut off, for nobody would notice when to go on.
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
        """As for a plain one. OpenSSL wants the very same record again if it could not send it."""
        view, sent = memoryview(data), 0
        try:
            while sent < len(view):
                sent += self.secure.send(view[sent : sent + _RECORD])
        except ssl.SSLWantWriteError:
            return sent
        return sent

    @property
    def holds_more(self) -> bool:
        """Whether a part of a record waits within OpenSSL, or an end is to be told."""
        return self._last is not None or self.secure.pending() > 0

    def end(self) -> bool:
        """Send TLS's own end (close_notify), and leave TCP open in both directions, as Envoy does."""
        if self._end is None:
            self._end = self._own_end()
        try:
            while self._end:
                self._end = self._end[os.write(self.fd, self._end) :]
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close it in good order."""
        with contextlib.suppress(OSError, ValueError):
            if self._end is None:
                self.secure.unwrap()
        self.socket.close()

    def _own_end(self) -> bytes:
        """Return TLS's end as bytes for the socket.

        The ssl module can only say it and listen for the other side's at once, and what the other side still has to
        say would be lost then. So it says it to a socket that is put in our own's place for the moment.
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
                pass  # it would have listened
            finally:
                os.dup2(kept, self.fd, inheritable=False)
                os.close(kept)
            return here.recv(1 << 10)
