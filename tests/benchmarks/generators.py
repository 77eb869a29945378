"""The load generators as processes: `python -m tests.benchmarks.generators KIND PORT tls|plain SECONDS`.

`bulk` reads zeros and prints bytes and seconds; `paced` sends requests at a fixed rate over kept connections, measures
each from the time it was due, and prints the median and the 99th percentile in seconds. For connections and requests
at full speed, wrk is used.
"""

import json
import re
import selectors
import shutil
import socket
import ssl
import sys
import time
from dataclasses import dataclass, field

from tests.system.wire import Target, connect, parse, request_bytes, tls_context

RATE = 500
CONNECTIONS = 16


def wrk_binary() -> str | None:
    """Return the path of wrk."""
    return shutil.which("wrk")


def wrk_command(port: int, seconds: float, *, tls: bool, closing: bool, connections: int = 32) -> list[str]:
    """Return the command line; wrk accepts whole seconds only."""
    scheme = "https" if tls else "http"
    last = ["-H", "Connection: close"] if closing else []
    binary = wrk_binary() or "wrk"
    duration = f"{max(1, round(seconds))}s"
    return [binary, "-t1", f"-c{connections}", f"-d{duration}", *last, f"{scheme}://127.0.0.1:{port}/"]


@dataclass(frozen=True)
class Counted:
    """The results of wrk: complete responses, failures, and the duration in seconds."""

    answers: int
    failures: int
    seconds: float


def counted(text: str) -> Counted:
    """Parse the output of wrk."""
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", text)
    assert total, f"wrk says {text!r}"
    seconds = float(total[2]) * {"ms": 0.001, "s": 1, "m": 60}[total[3]]
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failures = sum(map(int, errors.groups())) if errors else 0
    return Counted(int(total[1]), failures + (int(statuses[1]) if statuses else 0), seconds)


def bulk(target: Target, seconds: float) -> dict[str, float]:
    """Read as fast as possible for this many seconds."""
    buffer, taken = memoryview(bytearray(1 << 20)), 0
    with connect(target, tls_context()) as sock:
        taken -= sock.recv_into(buffer)
        taken = 0
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            taken += sock.recv_into(buffer)
        return {"bytes": taken, "seconds": time.monotonic() - began}


@dataclass
class Pacer:
    """Sends requests at a fixed rate; a request uses an idle connection, or waits for one."""

    target: Target
    due: list[float]
    free: list[socket.socket] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def run(self) -> dict[str, float]:
        """Send all requests and return the percentiles."""
        selector, context = selectors.DefaultSelector(), tls_context()
        self.free = [connect(self.target, context) for _ in range(CONNECTIONS)]
        for sock in self.free:
            sock.setblocking(False)
        began = time.monotonic()
        queue = [began + moment for moment in reversed(self.due)]
        while queue or len(self.free) < CONNECTIONS:
            while queue and self.free and queue[-1] <= time.monotonic():
                self._ask(selector, queue.pop())
            for key, _ in selector.select(max(0.0, queue[-1] - time.monotonic()) if queue and self.free else 1):
                self._answered(selector, key)
        waits = sorted(self.waits)
        return {"p50": waits[len(waits) // 2], "p99": waits[len(waits) * 99 // 100]}

    def _ask(self, selector: selectors.BaseSelector, due: float) -> None:
        sock = self.free.pop()
        sock.send(request_bytes(last=False))
        selector.register(sock, selectors.EVENT_READ, (due, bytearray()))

    def _answered(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        sock, (due, data) = key.fileobj, key.data
        assert isinstance(sock, socket.socket)
        try:
            part = sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        assert part, "closed in the middle"
        data += part
        if parse(bytes(data)) is not None:
            self.waits.append(time.monotonic() - due)
            selector.unregister(sock)
            self.free.append(sock)


def main(kind: str, port: str, tls: str, seconds: str) -> None:
    """Run one load and print its figures."""
    target = Target("127.0.0.1", int(port), tls=tls == "tls")
    if kind == "bulk":
        figures = bulk(target, float(seconds))
    else:
        figures = Pacer(target, [number / RATE for number in range(int(float(seconds) * RATE))]).run()
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
