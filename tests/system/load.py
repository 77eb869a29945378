"""The load program: clients that count every request exactly once. `python -m tests.system.load SPEC.json`.

It runs until its standard input ends, lets the requests in flight finish, and writes its report. A connection attempt
is never retried: a failure is counted and the next request is another one. The kinds:

`closed`     each client opens a connection, sends one request with `Connection: close`, and repeats that at once
`keepalive`  each client keeps its connection and respects an announced close; a connection closed *before* a request
             was sent is counted as `idle_closed`, not as a failure, since no request was lost
`retrying`   like `keepalive`, for servers that close idle connections without an announcement: a connection that has
             served and ends before a byte of the next answer is counted as `idle_closed` too, and the request is sent
             once more on a new connection, as HTTP clients do (RFC 9112, section 9.3.1)
`open`       a request on a new connection at a fixed rate, independent of earlier ones; its wait counts from
             the moment it was due
`bursts`     all clients connect and send at once, then all responses are awaited, then the next burst: this keeps the
             accept queues deep
"""

from __future__ import annotations

import itertools
import json
import os
import select
import ssl
import struct
import sys
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.concurrent_requests import burst
from tests.system.wire import Failed, Target, closed_by_peer, connect, exchange, serial_of, tls_context

KEPT_FAILURES = 200
PAUSE = 0.005
LIVE = struct.Struct("QQQ")  # how often the numbers of answered and failed requests are written


@dataclass
class Tally:
    """The results of one client. Times are monotonic seconds."""

    begun: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    failures: list[dict[str, Any]] = field(default_factory=list)
    serials: dict[int, list[float]] = field(default_factory=dict)
    failed: int = 0
    announced: int = 0
    idle_closed: int = 0

    def served(self, begun: float) -> None:
        """Count a request that began then and was answered now."""
        self.begun.append(begun)
        self.ended.append(time.monotonic())

    def lost(self, begun: float, error: Failed) -> None:
        """Count a request that began then and failed now."""
        self.failed += 1
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append(
                {"begun": begun, "ended": time.monotonic(), "reason": error.reason, "detail": str(error)}
            )

    def saw(self, serial: int | None) -> None:
        """Record the first and the last time of a certificate."""
        if serial is not None:
            now = time.monotonic()
            self.serials.setdefault(serial, [now, now])[1] = now


@dataclass(frozen=True)
class Client:
    """The shared parts of a load's clients."""

    target: Target
    pace: float
    over: threading.Event
    context: ssl.SSLContext = field(default_factory=tls_context)

    def rest(self) -> None:
        """Pause before the next request, no longer than the load lasts."""
        if self.pace:
            self.over.wait(self.pace)

    def lost(self, tally: Tally, begun: float, error: Failed) -> None:
        """Count a failed request and pause, to avoid a busy loop against a closed port."""
        tally.lost(begun, error)
        self.over.wait(PAUSE)


def once(client: Client, tally: Tally, begun: float) -> None:
    """Make one request on a new connection, counted from `begun`."""
    try:
        with connect(client.target, client.context) as sock:
            tally.saw(serial_of(sock))
            exchange(sock, last=True)
        tally.served(begun)
    except Failed as error:
        client.lost(tally, begun, error)


def closed_loop(client: Client, tally: Tally) -> None:
    """Make requests in sequence, each on a new connection."""
    while not client.over.is_set():
        once(client, tally, time.monotonic())
        client.rest()


def keep_alive(client: Client, tally: Tally) -> None:
    """Make requests on one connection while the server keeps it open, then on the next."""
    while not client.over.is_set():
        begun = time.monotonic()
        try:
            with connect(client.target, client.context) as sock:
                tally.saw(serial_of(sock))
                while not client.over.is_set():
                    if closed_by_peer(sock):
                        tally.idle_closed += 1
                        break
                    closes = exchange(sock, last=False).closes
                    tally.served(begun)
                    if closes:
                        tally.announced += 1
                        break
                    client.rest()
                    begun = time.monotonic()
        except Failed as error:
            client.lost(tally, begun, error)


def retrying(client: Client, tally: Tally) -> None:
    """Make requests on one connection; repeat the one that meets its end on the next connection."""
    begun = time.monotonic()
    while not client.over.is_set():
        served = 0
        try:
            with connect(client.target, client.context) as sock:
                tally.saw(serial_of(sock))
                while not client.over.is_set():
                    closes = exchange(sock, last=False).closes
                    tally.served(begun)
                    served += 1
                    client.rest()
                    begun = time.monotonic()
                    if closes:
                        tally.announced += 1
                        break
        except Failed as error:
            if served and error.reason in {"reset", "eof"} and not error.partial:
                tally.idle_closed += 1
                continue
            client.lost(tally, begun, error)
            begun = time.monotonic()


def bursts(client: Client, tally: Tally, size: int) -> None:
    """Let `size` clients connect and send at once, await every response, and repeat."""
    while not client.over.is_set():
        for flight in burst(client.target, size, client.context):
            tally.saw(flight.serial)
            if flight.failure is None:
                tally.begun.append(flight.begun)
                tally.ended.append(flight.ended)
            else:
                tally.lost(flight.begun, flight.failure)
        client.rest()


def open_loop(client: Client, tallies: list[Tally], rate: float) -> None:
    """Start `rate` requests a second, each in its own thread; wait for all of them at the end."""
    start, number = time.monotonic(), 0
    free, running = list[Tally](), list[threading.Thread]()
    while not client.over.wait(max(0.0, start + number / rate - time.monotonic())):
        if not free:
            tallies.append(Tally())
            free.append(tallies[-1])
        thread = threading.Thread(target=_due, args=(client, free, free.pop(), start + number / rate))
        thread.start()
        running = [one for one in running if one.is_alive()] + [thread]
        number += 1
    for thread in running:
        thread.join()


def _due(client: Client, free: list[Tally], tally: Tally, due: float) -> None:
    once(client, tally, due)
    free.append(tally)


def start(spec: dict[str, Any], client: Client, tallies: list[Tally]) -> list[threading.Thread]:
    """Start the threads of this kind."""
    kind, clients = spec["kind"], spec["clients"]
    loops: dict[str, Callable[[Tally], None]] = {
        "closed": lambda tally: closed_loop(client, tally),
        "keepalive": lambda tally: keep_alive(client, tally),
        "retrying": lambda tally: retrying(client, tally),
        "bursts": lambda tally: bursts(client, tally, clients),
        "open": lambda _: open_loop(client, tallies, spec["rate"]),
    }
    alone = kind in {"bursts", "open"}
    threads = [threading.Thread(target=loops[kind], args=(tally,)) for tally in tallies[: 1 if alone else clients]]
    for thread in threads:
        thread.start()
    return threads


def tell(live: int, number: int, tallies: list[Tally]) -> None:
    """Publish the numbers of answered and failed requests so far, for the `number`-th time."""
    counts = sum(len(one.ended) for one in tallies), sum(one.failed for one in tallies)
    os.pwrite(live, LIVE.pack(number, *counts), 0)


def report(tallies: list[Tally], path: Path) -> None:
    """Write the times of all answered requests to `path`.times and all other results to `path`."""
    begun, ended = array("d"), array("d")
    for tally in tallies:
        begun.extend(tally.begun)
        ended.extend(tally.ended)
    total: dict[str, Any] = {
        "ok": len(ended),
        "failed": sum(one.failed for one in tallies),
        "announced": sum(one.announced for one in tallies),
        "idle_closed": sum(one.idle_closed for one in tallies),
        "failures": [failure for one in tallies for failure in one.failures],
        "serials": [[serial, *seen] for one in tallies for serial, seen in one.serials.items()],
    }
    path.with_suffix(".times").write_bytes(begun.tobytes() + ended.tobytes())
    path.write_text(json.dumps(total), encoding="ascii")


def main(spec: dict[str, Any]) -> None:
    """Run one load by its specification until standard input ends."""
    sys.setswitchinterval(0.0005)  # a client with a response waits at most this long for the others
    path = Path(spec["report"])
    client = Client(Target(**spec["target"]), spec["pace"], threading.Event())
    tallies = [Tally() for _ in range(spec["clients"])]
    live = os.open(path.with_suffix(".live"), os.O_WRONLY | os.O_CREAT, 0o600)
    threads = start(spec, client, tallies)
    numbers = itertools.count(1)
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        tell(live, next(numbers), tallies)
    client.over.set()
    for thread in threads:
        thread.join()
    tell(live, next(numbers), tallies)
    report(tallies, path)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="ascii")))
