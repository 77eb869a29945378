"""Reviews a second of `agent webhook`: `python -m tests.benchmarks.bench_webhook`.

Sends reviews of a pod to the webhook, and to the same HTTP server with a handler that admits every pod as it is, in
turns: over connections that stay open, and over a new one for each review. Prints reviews a second, the median and the
99th percentile of their times, and the server's CPU time for one review, which hardly depends on what else the machine
does. Exits with 1 if the webhook answers fewer than 200 reviews a second over open connections. AGENT_SECONDS sets the
duration of each measurement, AGENT_MEASURED how many there are.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext, create_default_context

import psutil

from agent.host.server_context import server_context
from agent.http.message import Request, Response
from agent.http.server import Limits, Server
from agent.webhook import review as reviews
from agent.webhook.webhook import BODY
from tests.pki import Authority, Leaf
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.webhook.reviews import UID, response, review
from tests.webhook.running import NAME, SecureLine

SECONDS = float(os.environ.get("AGENT_SECONDS", "3"))
MEASURED = count("AGENT_MEASURED", short=3, long=10)
CLIENTS = 64
BAR = 200  # reviews a second
_JSON = (("content-type", "application/json"),)


@dataclass
class Contender:
    """A server, and what was measured of it."""

    name: str
    process: psutil.Process
    port: int
    tls: SSLContext
    rates: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    async def connected(self) -> SecureLine:
        """Return a new connection."""
        pair = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname=NAME)
        return SecureLine(*pair)

    async def measure(self, load: "Load") -> None:
        """Load it once."""
        before, begun, first = self._used(), time.perf_counter(), len(self.times)
        await asyncio.gather(*(load(self, begun + SECONDS) for _ in range(CLIENTS)))
        done = len(self.times) - first
        self.rates.append(done / (time.perf_counter() - begun))
        self.processor.append((self._used() - before) / done)

    def _used(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    def row(self) -> str:
        """Return its figures as a line of the table."""
        ordered = sorted(self.times)
        rate, median, late = (
            statistics.median(self.rates),
            statistics.median(ordered),
            ordered[len(ordered) * 99 // 100],
        )
        spent = statistics.median(self.processor)
        return f"| {self.name:24} | {rate:9.0f} | {median * 1e3:9.1f} | {late * 1e3:9.1f} | {spent * 1e3:9.2f} |"


Load = Callable[[Contender, float], Coroutine[None, None, None]]
BODY_OF_REVIEW = review()


async def over_open(contender: Contender, until: float) -> None:
    """Send reviews one after another on one connection."""
    line = await contender.connected()
    while (begun := time.perf_counter()) < until:
        status, _ = await line.post(BODY_OF_REVIEW)
        assert status == 200
        contender.times.append(time.perf_counter() - begun)
    line.writer.transport.abort()


async def over_new(contender: Contender, until: float) -> None:
    """Send each review on a connection of its own."""
    while (begun := time.perf_counter()) < until:
        line = await contender.connected()
        status, _ = await line.post(BODY_OF_REVIEW)
        assert status == 200
        line.writer.transport.abort()
        contender.times.append(time.perf_counter() - begun)


async def serve_empty(directory: Path, port: int) -> None:
    """Admit every pod as it is, with the same server and limits."""
    chain, key = ((directory / name).read_bytes() for name in ("tls.crt", "tls.key"))
    context = server_context("tls.crt", chain, key)
    body = reviews.allowed(UID)

    async def answer(_: Request) -> Response:
        return Response(200, body, _JSON)

    server = Server(answer, limits=Limits(BODY, 32 << 20, 5.0), tls=lambda: context, clients_limit=256)
    await server.start(socket.create_server(("127.0.0.1", port)))
    await asyncio.Event().wait()


def show(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def started(stack: ExitStack, name: str, command: list[str], port: int, tls: SSLContext) -> Contender:
    """Start a server; wait until it answers a review."""
    process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
    stack.callback(process.terminate)
    made = Contender(name, psutil.Process(process.pid), port, tls)

    async def answers() -> bool:
        line = await made.connected()
        status, body = await line.post(BODY_OF_REVIEW)
        line.writer.transport.abort()
        return status == 200 and bool(response(body)["allowed"])

    eventually(lambda: asyncio.run(answers()), what=f"{name} answers")
    return made


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def write(directory: Path, leaf: Leaf) -> None:
    """Write the pair of both servers."""
    (directory / "tls.crt").write_bytes(leaf.chain_pem)
    (directory / "tls.key").write_bytes(leaf.key_pem)


def main() -> int:
    """Measure, print the table, and return the exit code."""
    authority = Authority.create("ca")
    tls = create_default_context(cadata=authority.pem.decode())
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write(directory, authority.issue([NAME]))
        port, empty = free_port(), free_port()
        own = [sys.executable, "-m", "agent", "webhook", "--tls-certs", str(directory), "--port", str(port)]
        other = [sys.executable, "-m", __spec__.name, "--empty", str(directory), str(empty)]
        head = f"{CLIENTS} clients, {MEASURED} of {SECONDS:g} s"
        show(f"| {head:24} | reviews/s | median ms | 99 % ms   | CPU ms    |")
        show(f"|{'-' * 26}|{'-' * 11}|{'-' * 11}|{'-' * 11}|{'-' * 11}|")
        ours = started(stack, "webhook", [*own, "--health-port", "0", "--log-level", "error"], port, tls)
        bare = started(stack, "empty handler", other, empty, tls)
        rate = compare(ours, bare, over_open, "open")
        compare(ours, bare, over_new, "new")
        memory = ours.process.memory_full_info()
        show(f"\nmemory of the webhook: {memory.rss >> 20} MiB resident, {memory.pss >> 20} MiB proportional")
    show(f"{rate:.0f} reviews/s over open connections, at least {BAR}: {'yes' if rate >= BAR else 'NO'}")
    return 0 if rate >= BAR else 1


def compare(ours: Contender, bare: Contender, load: Load, kind: str) -> float:
    """Load both in turns, print their lines and the ratio; return the webhook's reviews a second."""
    measured = [Contender(f"{each.name}, {kind}", each.process, each.port, each.tls) for each in (ours, bare)]
    for _ in range(MEASURED):
        for each in measured:
            asyncio.run(each.measure(load))
    for each in measured:
        show(each.row())
    first, second = measured
    rate, spent = (
        statistics.median(values) / statistics.median(others)
        for values, others in ((first.rates, second.rates), (first.processor, second.processor))
    )
    show(f"| {'ratio':24} | {rate:9.2f} | {'':9} | {'':9} | {spent:9.2f} |")
    return statistics.median(first.rates)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--empty"]:
        asyncio.run(serve_empty(Path(sys.argv[2]), int(sys.argv[3])))
    sys.exit(main())
