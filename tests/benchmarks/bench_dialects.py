"""HAProxy and NGINX under the agent beside their own reloads: `python -m tests.benchmarks.bench_dialects`.

Each contender serves the same configuration under the same load, and its certificate is replaced again and again: for
the agent a file is renamed, for the others the file is renamed and the reload is requested at once. The contenders take
turns, a part of the rotations each time. Then 200 clients queue behind a stopped process, which is replaced. Prints
medians of one run. Exits with 1 if a request failed under the agent, a queued client of it was not answered, or it
serves a new certificate later than the reload. AGENT_ROTATIONS sets the rotations of each contender.
"""

import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.system.certificates import NAME, Mint
from tests.system.concurrent_requests import land, launched
from tests.system.counts import count
from tests.system.eventually import eventually, pass_time
from tests.system.loads import Report, loads_in
from tests.system.room import Process, Room, open_room
from tests.system.wire import Failed, Target, connect, serial_of, tls_context

ROTATIONS = count("AGENT_ROTATIONS", short=20, long=200)
QUEUED = 200
HOST = "127.0.0.1"
SLACK = 1.25  # of the reload's time, which the agent may take by a restart
PUSH_BAR = 0.010  # seconds from the write of a file to the first handshake, for a push
_CONTEXT = tls_context()
_BETWEEN = 0.3  # seconds from a new certificate to the next one
_HAPROXY = """\
global
    nbthread 2
    maxconn 8000
    stats socket {directory}/own.sock level admin expose-fd listeners
defaults
    mode http
    maxconn 8000
    option idle-close-on-response
    timeout client 1h
    timeout connect 5s
    timeout server 1h
frontend tls
    bind {host}:{tls} ssl crt {directory}/certs/site.pem
    http-request return status 200 content-type text/plain string "hello"
frontend plain
    bind {host}:{plain}
    http-request return status 200 content-type text/plain string "hello"
"""
_NGINX = """\
worker_processes 2;
pid {directory}/own.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    server {{
        listen {host}:{tls} ssl;
        ssl_certificate {directory}/certs/site.pem;
        ssl_certificate_key {directory}/certs/site.pem;
        return 200 "hello";
    }}
    server {{
        listen {host}:{plain};
        return 200 "hello";
    }}
}}
"""


@dataclass(frozen=True)
class Kind:
    """A proxy: its program, its configuration, how it is started without the agent, and the signal that reloads it."""

    name: str
    text: str
    own: Callable[[Path], list[str]]
    reload: signal.Signals


KINDS = (
    Kind("haproxy", _HAPROXY, lambda config: ["-W", "-f", str(config)], signal.SIGUSR2),
    Kind("nginx", _NGINX, lambda config: ["-c", str(config), "-e", "stderr", "-g", "daemon off;"], signal.SIGHUP),
)


@dataclass
class Measured:
    """What one contender did."""

    name: str
    spans: list[float] = field(default_factory=list)
    served: int = 0
    failed: int = 0
    idle_closed: int = 0
    answered: int = 0
    grown: str = ""

    def add(self, reports: list[Report]) -> None:
        """Add the reports of a load."""
        self.served += sum(each.ok for each in reports)
        self.failed += sum(each.failed for each in reports)
        self.idle_closed += sum(each.idle_closed for each in reports)


class Contender:
    """One way to run one proxy. `how`: `restart` or `push` by the agent, or its own `reload`."""

    def __init__(self, room: Room, kind: Kind, how: str) -> None:
        self.kind = kind
        self.how = how
        self.result = Measured(f"{kind.name}, {'own reload' if how == 'reload' else f'agent, {how}'}")
        self._room = room
        self.directory = room.directory / f"{kind.name}-{how}"
        (self.directory / "certs").mkdir(parents=True)
        tls, plain = room.port(), room.port()
        self.tls, self.plain = Target(HOST, tls, tls=True, server_name=NAME), Target(HOST, plain)
        self._mint = Mint()
        self._certificate = self.directory / "certs/site.pem"
        self._config = self.directory / f"{kind.name}.conf"
        self._config.write_text(kind.text.format(directory=self.directory, host=HOST, tls=tls, plain=plain))
        self.write()
        self.process = self._start()
        eventually(lambda: self._shown() is not None, what=f"{self.result.name} serves")

    def _start(self) -> Process:
        log = self.directory / "log"
        program = shutil.which(self.kind.name) or f"/usr/sbin/{self.kind.name}"
        if self.how == "reload":
            return self._room.spawn([program, *self.kind.own(self._config)], log=log)
        own = ["--run-dir", str(self.directory / "run"), "--status-port", "0", "--on-certificate", self.how]
        files = ["--config", str(self._config), "--certs", str(self.directory / "certs")]
        return self._room.spawn([sys.executable, "-m", "agent", "--proxy-bin", program, *files, *own], log=log)

    def write(self) -> int:
        """Rename a new certificate with its key into place; return its serial number."""
        leaf = self._mint.leaf()
        beside = self._certificate.with_suffix(".new")
        beside.write_bytes(leaf.chain_pem + leaf.key_pem)
        beside.rename(self._certificate)
        return leaf.certificate.serial_number

    def renew(self) -> None:
        """Request a reload, if nobody watches the file."""
        if self.how == "reload":
            self.process.send_signal(self.kind.reload)

    def _shown(self) -> int | None:
        """Return the serial number that a new connection shows; None if there is none."""
        try:
            with connect(self.tls, _CONTEXT) as connection:
                return serial_of(connection)
        except (Failed, OSError):
            return None

    def rotate(self) -> float:
        """Replace the certificate; return the seconds until a handshake has shown it."""
        wanted, began = self.write(), time.monotonic()
        self.renew()
        while self._shown() != wanted:
            if time.monotonic() - began > 60:
                message = f"{self.result.name} never served a new certificate"
                raise AssertionError(message)
        return time.monotonic() - began

    def family(self) -> list[psutil.Process]:
        """Return the process and all below it."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def usage(self) -> tuple[int, int, int]:
        """Return how many processes and descriptors there are, and the resident MiB of the first process."""
        family = self.family()
        return len(family), sum(each.num_fds() for each in family), family[0].memory_info().rss >> 20

    def queue(self) -> int:
        """Stop what serves, let clients queue, replace it; return how many of them were answered."""
        workers = [each for each in self.family() if each.name() == self.kind.name]
        if self.kind.name == "nginx" or self.how == "reload":
            workers = [each for each in workers if each.pid != self.process.pid and each.children() == []]
        for each in workers:
            each.suspend()
        eventually(lambda: all(each.status() == psutil.STATUS_STOPPED for each in workers), what="it is stopped")
        flights = launched(self.plain, QUEUED)
        pass_time(0.2)
        self.write()
        self.renew()
        pass_time(3.0)
        for each in workers:
            each.kill()
        land(flights)
        return sum(each.failure is None for each in flights)


@contextmanager
def contenders(room: Room) -> Iterator[list[Contender]]:
    """Yield all contenders, started."""
    made = []
    try:
        for kind in KINDS:
            if shutil.which(kind.name) or Path(f"/usr/sbin/{kind.name}").exists():
                ways = ("restart", "push", "reload") if kind.name == "haproxy" else ("restart", "reload")
                made += [Contender(room, kind, how) for how in ways]
        yield made
    finally:
        for each in made:
            each.process.terminate()
        for each in made:
            each.process.wait(timeout=60)
            each.directory.joinpath("own.sock").unlink(missing_ok=True)


def part(room: Room, contender: Contender, rotations: int, number: int) -> None:
    """Rotate some times under load."""
    with loads_in(room.directory / f"loads-{number}") as loads:
        loads.start("closed", contender.tls, clients=3)
        loads.start("retrying", contender.tls, clients=2, pace=0.002)
        loads.start("bursts", contender.plain, clients=30, pace=0.05)
        for _ in range(rotations):
            contender.result.spans.append(contender.rotate())
            pass_time(_BETWEEN)
        contender.result.add(loads.finish())


def drawn(results: list[Measured]) -> str:
    """Return the results as a Markdown table."""
    columns = ("", "rotations", "new certificate after, median / longest", "served", "failed", "idle closes")
    head = " | ".join([*columns, "queued, answered", "grown"])
    lines = [f"|{head} |", "|---|---|---|---|---|---|---|---|"]
    for each in results:
        spans = f"{statistics.median(each.spans) * 1000:.0f} / {max(each.spans) * 1000:.0f} ms"
        counts = f"{each.served:,} | {each.failed} | {each.idle_closed} | {each.answered} of {QUEUED} | {each.grown}"
        lines.append(f"| {each.name} | {len(each.spans)} | {spans} | {counts} |")
    return "\n".join(lines)


def holds(results: list[Measured]) -> bool:
    """Return whether the agent keeps its promises and is not slower than a reload."""
    reloads = {each.name.split(",")[0]: statistics.median(each.spans) for each in results if "own" in each.name}
    agents = [each for each in results if "agent" in each.name]
    slow = [each for each in agents if statistics.median(each.spans) > SLACK * reloads[each.name.split(",")[0]]]
    pushes = [each for each in agents if "push" in each.name and statistics.median(each.spans) > PUSH_BAR]
    return not (slow or pushes or any(each.failed or each.answered < QUEUED for each in agents))


def main() -> int:
    """Measure; return the exit code."""
    with open_room() as room, contenders(room) as made:
        parts = max(1, ROTATIONS // 10)
        first = {each.result.name: each.usage() for each in made}
        for turn in range(parts):
            for number, each in enumerate(made):
                part(room, each, ROTATIONS // parts, turn * len(made) + number)
        for each in made:
            pass_time(2.0)
            before, after = first[each.result.name], each.usage()
            named = zip(("processes", "descriptors", "MiB"), before, after, strict=True)
            each.result.grown = ", ".join(f"{what} {old} to {new}" for what, old, new in named)
            each.result.answered = each.queue()
        results = [each.result for each in made]
        print(drawn(results))  # noqa: T201
        return 0 if holds(results) else 1


if __name__ == "__main__":
    sys.exit(main())
