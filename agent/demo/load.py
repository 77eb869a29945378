"""The clients, in a separate process: `python -m agent.demo.load PORT CA_FILE`.

They verify every certificate, never retry, and count every request once. There are three kinds: some open a connection
for each request, one after the other; some keep their connection until the server announces its close; and a crowd
connects at once, again and again, so that clients are in the accept queue whatever happens to the proxy.

Each REPORT_INTERVAL, and at the end, they write a line of JSON to standard output: `served`, `connections` (totals),
`longest` (the longest wait of a request, seconds), `deepest` (the deepest accept queue seen, null if the kernel does
not report it), `serials` (when each certificate shown since the last line was first and last seen) and `failures` (each
with `opened`, when its connection was begun, `ended` and `reason`). Times are monotonic seconds. They end when standard
input does.
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
_THOUGHT = 0.002  # seconds between two requests on a kept connection
_CROWD_PAUSE = 0.05
_NICENESS = 5  # full speed, but on two cores a starting proxy has priority
_FAILURE_PAUSE = 0.05  # to limit attempts on a port that refuses
_LAST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
_NEXT = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
_END = b"\r\n\r\n"


class Clients:
    """All clients and their shared state."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.tally = Counters()
        self.over = threading.Event()
        self._port = port
        self._context = context
        self._known: dict[bytes, str] = {}
        loops: list[Callable[[], None]] = [self._single] * SINGLE + [self._kept] * KEPT + [self._crowd]
        self._threads = [threading.Thread(target=loop) for loop in loops]

    def start(self) -> None:
        """Start all clients at full speed."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Finish the current requests, then stop."""
        self.over.set()
        for thread in self._threads:
            thread.join()

    # Kinds of clients

    def _single(self) -> None:
        while not self.over.is_set():
            with self._counting() as opened:
                self._whole(self._connect(), opened)

    def _kept(self) -> None:
        while not self.over.is_set():
            with self._counting() as opened:
                self._keep(self._connect(), opened)

    def _crowd(self) -> None:
        """Connect all, then serve them one by one: the others wait in the accept queue or the proxy."""
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
        """Yield the time when a connection began; count an `OSError` as a failed request."""
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
        """Send requests until the server announces or does its close; one not yet sent is not lost."""
        with self._secure(plain) as secured:
            closes = False
            while not closes and not _is_closed(secured):
                last = self.over.is_set()
                closes = _exchange(secured, _LAST if last else _NEXT) or last
                self.tally.answered(begun)
                self.over.wait(_THOUGHT)
                begun = time.monotonic()


def _exchange(secured: ssl.SSLSocket, request: bytes) -> bool:
    """Send one request; return whether the server then closes the connection. Raises `OSError`."""
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
    """Return the length of the whole response; None until its head is complete."""
    head, found, _ = data.lower().partition(_END)
    if not found:
        return None
    _, _, size = head.partition(b"content-length: ")
    return len(head) + len(_END) + int(size.partition(b"\r\n")[0] or 0)


def _is_closed(secured: ssl.SSLSocket) -> bool:
    """Return whether the server has closed this idle connection."""
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
    """Run and report until standard input ends."""
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
            print(clients.tally.report(), flush=True)  # noqa: T201  # its reports
    finally:
        clients.finish()
    while True:
        print(clients.tally.report(), flush=True)  # noqa: T201
        if not clients.tally.failures:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
