"""The clients, in a process of their own: `python -m agent.demo.load PORT CA_FILE`.

They verify every certificate, never retry, and count every request once. Three kinds: some open a connection for each
request, one after the other; some keep their connection until the server says that it closes it; and again and again a
crowd connects at once, so that there are clients in the accept queue whenever anything happens to the proxy.

Each REPORT_INTERVAL, and at the end, a line of JSON goes to standard output: `served`, `connections` (numbers since the
beginning), `longest` (the longest wait of a request, seconds), `deepest` (the deepest accept queue seen, null if the
kernel does not tell), `serials` (of each certificate shown since the last line when it was first and last seen) and
`failures` (each with `opened`, when its connection was begun, `ended` and `reason`). Times are monotonic seconds. They
end when standard input does.
"""

import contextlib
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator

from cryptography import x509

from agent.demo.authority import NAME
from agent.demo.backlog import Backlog
from agent.demo.counters import Counters, UnexpectedAnswer, reason_of

REPORT_INTERVAL = 0.1
ANSWER_TIMEOUT = 10.0
SINGLE, KEPT, CROWD = 2, 4, 32
CLIENTS = SINGLE + KEPT + CROWD
_THOUGHT = 0.002  # seconds between two requests of a client that keeps its connection
_CROWD_PAUSE = 0.05
_NICENESS = 5  # full speed, but on two cores a proxy that starts goes first
_FAILURE_PAUSE = 0.05  # so that a port that refuses is not hammered
_LAST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
_NEXT = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
_END = b"\r\n\r\n"


class Clients:
    """All of them, and what they share."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.tally = Counters()
        self.over = threading.Event()
        self._port = port
        self._context = context
        self._known: dict[bytes, str] = {}
        loops: list[Callable[[], None]] = [self._single] * SINGLE + [self._kept] * KEPT + [self._crowd]
        self._threads = [threading.Thread(target=loop) for loop in loops]

    def start(self) -> None:
        """Begin at full speed."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Let what is under way come to its end."""
        self.over.set()
        for thread in self._threads:
            thread.join()

    # The kinds

    def _single(self) -> None:
        while not self.over.is_set():
            with self._counting() as opened:
                self._whole(self._connect(), opened)

    def _kept(self) -> None:
        while not self.over.is_set():
            with self._counting() as opened:
                self._keep(self._connect(), opened)

    def _crowd(self) -> None:
        """Connect all, then serve one after the other: those behind wait in the accept queue or in the proxy."""
        with contextlib.ExitStack() as stack:
            backlog: Backlog | None = None
            with contextlib.suppress(OSError):
                backlog = stack.enter_context(contextlib.closing(Backlog(self._port)))
            while not self.over.wait(_CROWD_PAUSE):
                self._burst(backlog)

    def _burst(self, backlog: Backlog | None) -> None:
        crowd: list[tuple[socket.socket, float]] = []
        for _ in range(CROWD):
            with self._counting() as opened:
                crowd.append((self._connect(), opened))
        if backlog is not None:
            with contextlib.suppress(OSError):
                self.tally.queued(backlog.depth())
        for plain, since in crowd:
            with self._counting(since) as opened:
                self._whole(plain, opened)

    @contextlib.contextmanager
    def _counting(self, since: float | None = None) -> Iterator[float]:
        """Give the moment at which a connection is begun; what goes wrong with it is a failed request."""
        opened = time.monotonic() if since is None else since
        try:
            yield opened
        except OSError as error:
            self.tally.failed(opened, reason_of(error))
            self.over.wait(_FAILURE_PAUSE)

    # A request

    def _connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_TIMEOUT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain

    def _secure(self, plain: socket.socket) -> ssl.SSLSocket:
        with contextlib.ExitStack() as stack:
            stack.callback(plain.close)
            secured = self._context.wrap_socket(plain, server_hostname=NAME)
            stack.pop_all()
        self.tally.shown(self._serial(secured.getpeercert(binary_form=True) or b""))
        return secured

    def _serial(self, certificate: bytes) -> str:
        serial = self._known.get(certificate)
        if serial is None:
            serial = f"{x509.load_der_x509_certificate(certificate).serial_number:x}"
            self._known[certificate] = serial
        return serial

    def _whole(self, plain: socket.socket, opened: float) -> None:
        with self._secure(plain) as secured:
            _exchange(secured, _LAST)
        self.tally.answered(opened)

    def _keep(self, plain: socket.socket, begun: float) -> None:
        """Make requests until the server announces or does its close; found closed before a request, none is lost."""
        with self._secure(plain) as secured:
            closes = False
            while not closes and not _is_closed(secured):
                last = self.over.is_set()
                closes = _exchange(secured, _LAST if last else _NEXT) or last
                self.tally.answered(begun)
                self.over.wait(_THOUGHT)
                begun = time.monotonic()


def _exchange(secured: ssl.SSLSocket, request: bytes) -> bool:
    """Make one request; return whether the server closes the connection now. Raises `OSError`."""
    secured.sendall(request)
    data = b""
    while (length := _length(data)) is None or len(data) < length:
        more = secured.recv(4096)
        if not more:
            message = "the answer was cut short"
            raise ConnectionResetError(message)
        data += more
    if not data.startswith(b"HTTP/1.1 200"):
        message = "not the answer that was expected"
        raise UnexpectedAnswer(message)
    return b"connection: close" in data.lower()


def _length(data: bytes) -> int | None:
    """How long the whole answer is, once its head is there."""
    head, found, _ = data.lower().partition(_END)
    if not found:
        return None
    _, _, size = head.partition(b"content-length: ")
    return len(head) + len(_END) + int(size.partition(b"\r\n")[0] or 0)


def _is_closed(secured: ssl.SSLSocket) -> bool:
    """Whether the server has closed this connection, on which nothing is asked for."""
    secured.settimeout(0)
    try:
        return secured.recv(1) == b""
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    except OSError:
        return True
    finally:
        secured.settimeout(ANSWER_TIMEOUT)


def main(port: int, trusted: str) -> None:
    """Run until standard input ends, reporting."""
    clients = Clients(port, ssl.create_default_context(cafile=trusted))
    over = threading.Event()

    def wait_for_end() -> None:
        os.read(sys.stdin.fileno(), 1)
        over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    os.nice(_NICENESS)
    clients.start()
    try:
        while not over.wait(REPORT_INTERVAL):
            print(clients.tally.report(), flush=True)  # noqa: T201  # its output is what it is for
    finally:
        clients.finish()
    while True:
        print(clients.tally.report(), flush=True)  # noqa: T201
        if not clients.tally.failures:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
