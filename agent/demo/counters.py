"""The clients' counters and their report, in the format described in `agent.demo.load`."""

import json
import ssl
import threading
import time
from dataclasses import asdict, dataclass, field

_REPORTED_FAILURES = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed request: when its connection was begun, when it failed, and the reason in a word."""

    opened: float
    ended: float
    reason: str


@dataclass(slots=True)
class Counters:
    """Counters of all clients, guarded by `lock`."""

    served: int = 0
    connections: int = 0
    longest: float = 0.0
    deepest: int | None = None
    serials: dict[str, list[float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, begun: float) -> None:
        """Count a request answered now; `begun` is when it began."""
        with self.lock:
            self.served += 1
            self.longest = max(self.longest, time.monotonic() - begun)

    def failed(self, opened: float, reason: str) -> None:
        """Count a request that failed now."""
        with self.lock:
            self.failures.append(Failure(opened, time.monotonic(), reason))

    def shown(self, serial: str) -> None:
        """Count a handshake that showed this serial."""
        now = time.monotonic()
        with self.lock:
            self.connections += 1
            self.serials.setdefault(serial, [now, now])[1] = now

    def queued(self, depth: int) -> None:
        """Record the depth of the accept queue."""
        with self.lock:
            self.deepest = max(self.deepest or 0, depth)

    def report(self) -> str:
        """Return a report as one line; serials and failures are reported once."""
        with self.lock:
            failures, self.failures = self.failures[:_REPORTED_FAILURES], self.failures[_REPORTED_FAILURES:]
            serials, self.serials = self.serials, {}
        return json.dumps(
            {
                "served": self.served,
                "connections": self.connections,
                "longest": self.longest,
                "deepest": self.deepest,
                "serials": serials,
                "failures": [asdict(each) for each in failures],
            }
        )


class UnexpectedAnswer(OSError):
    """The response was not the expected one."""


def reason_of(error: OSError) -> str:
    """Return a socket error in a word."""
    kinds: list[tuple[tuple[type[OSError], ...], str]] = [
        ((UnexpectedAnswer,), "answered wrongly"),
        ((ConnectionRefusedError,), "refused"),
        ((ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError), "reset"),
        ((TimeoutError,), "timed out"),
        ((ssl.SSLError,), "not trusted"),
    ]
    return next((word for kind, word in kinds if isinstance(error, kind)), "broken")
