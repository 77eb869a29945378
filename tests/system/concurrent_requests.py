"""Many concurrent requests in one thread: all are started before any is awaited."""

import selectors
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.system.wire import TIMEOUT, Failed, Target, parse, request_bytes, serial_of, sorted_errors, tls_context


@dataclass
class Flight:
    """One request in progress; afterwards `failure` is `None` or the reason of the failure. Times are monotonic."""

    target: Target
    context: ssl.SSLContext
    begun: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    failure: Failed | None = None
    serial: int | None = None
    wants: int = selectors.EVENT_WRITE
    _sock: socket.socket | None = None
    _sent: bool = False
    _data: bytes = b""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.ended > 0.0

    @property
    def sock(self) -> socket.socket:
        """The connection; only before the end."""
        assert self._sock is not None, "the flight has begun"
        return self._sock

    def launch(self) -> None:
        """Connect (loopback answers at once) and send the request."""
        try:
            with sorted_errors():
                self._sock = socket.socket(self.target.family, socket.SOCK_STREAM)
                self._sock.settimeout(TIMEOUT)
                self._sock.connect((self.target.host, self.target.port))
                self._sock.setblocking(False)
                if self.target.tls:
                    name = self.target.server_name or None
                    self._sock = self.context.wrap_socket(
                        self._sock, server_hostname=name, do_handshake_on_connect=False
                    )
        except Failed as failure:
            self._land(failure)
        else:
            self.step()

    def step(self) -> None:
        """Continue as far as possible without blocking."""
        try:
            with sorted_errors():
                self._go()
        except Failed as failure:
            self._land(failure)

    def _go(self) -> None:
        try:
            if not self._sent:
                self._send()
            self._receive()
        except (ssl.SSLWantReadError, BlockingIOError):
            self.wants = selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            self.wants = selectors.EVENT_WRITE

    def _send(self) -> None:
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.do_handshake()
            self.serial = serial_of(self.sock)
        self.sock.sendall(request_bytes(last=True))
        self._sent = True

    def _receive(self) -> None:
        while parse(self._data) is None:
            more = self.sock.recv(65536)
            if not more:
                raise Failed("eof", f"after {len(self._data)} bytes of the answer")
            self._data += more
        self._land(None)

    def abandon(self) -> None:
        """Give up: the request failed with `timeout`."""
        self._land(Failed("timeout", "no whole answer in time"))

    def _land(self, failure: Failed | None) -> None:
        self.ended, self.failure = time.monotonic(), failure
        if self._sock is not None:
            self._sock.close()


def launched(target: Target, size: int, context: ssl.SSLContext | None = None) -> list[Flight]:
    """Let `size` clients connect and send; if the proxy is stopped, none is answered before the last one is queued."""
    shared = context or tls_context()
    flights = [Flight(target, shared) for _ in range(size)]
    for flight in flights:
        flight.begun = time.monotonic()
        flight.launch()
    return flights


def land(flights: Iterable[Flight], within: float = TIMEOUT) -> None:
    """Await every response; a request without one after `within` seconds has failed with `timeout`."""
    deadline = time.monotonic() + within
    with selectors.DefaultSelector() as selector:
        for flight in flights:
            if not flight.over:
                selector.register(flight.sock, flight.wants, flight)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(deadline - time.monotonic()):
                _advance(selector, key)
        for key in list(selector.get_map().values()):
            key.data.abandon()


def _advance(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    flight: Flight = key.data
    selector.unregister(key.fileobj)
    flight.step()
    if not flight.over:
        selector.register(flight.sock, flight.wants, flight)


def burst(target: Target, size: int, context: ssl.SSLContext) -> list[Flight]:
    """Start `size` requests at once and await them all."""
    flights = launched(target, size, context)
    land(flights)
    return flights
