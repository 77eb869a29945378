"""Rotations of NGINX under the agent beside its own reload: `python -m tests.benchmarks.bench_nginx`.

For each way, in one run and under the usual load: requests that failed, connections that ended before a byte of the
next answer (their request was repeated), last byte written → first handshake with the new certificate, memory,
descriptors and processes before and after, and how many of 200 clients that wait at a stopped one are answered after a
rotation: under the agent all its processes are stopped, beside it the workers, since its master must reload. Prints a
table; exits with 1 if the agent loses a client or is slower than the reload. AGENT_ROTATIONS sets the number.
"""

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.bare import first_answer, first_shown
from tests.system.certificates import serial
from tests.system.concurrent_requests import land, launched
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.layouts import KUBERNETES
from tests.system.loads import loads_in
from tests.system.nginxes import NginxFixture, all_stopped, bare_nginx, children, nginx_binary
from tests.system.room import Room, open_room

ROTATIONS = count("AGENT_ROTATIONS", short=30, long=200)
QUEUED = 200
WITHIN = 20.0  # seconds for the clients that wait at a stopped server
PAUSE = 0.2  # between two rotations
SLOWER = 1.0  # the limit of the agent's median : the reload's


@dataclass(frozen=True)
class Running:
    """A server with its files. `apply` follows each new pair; `family`: its processes; `serving`: those to stop."""

    instance: NginxFixture
    apply: Callable[[], None]
    family: Callable[[], list[int]]
    serving: Callable[[], list[int]]

    def rotate(self) -> float:
        """Write a new pair; return the seconds until a handshake has it."""
        written = self.instance.rotate(KUBERNETES)
        self.apply()
        return first_shown(self.instance.tls, serial(self.instance.mint.newest)) - written


@dataclass(frozen=True)
class Footprint:
    """What a server uses: MB of memory (PSS), descriptors and processes."""

    memory: float
    descriptors: int
    processes: int

    @classmethod
    def of(cls, pids: list[int]) -> "Footprint":
        """Measure these processes."""
        descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        return cls(sum(map(_pss, pids)) / 1e6, descriptors, len(pids))

    def __str__(self) -> str:
        return f"{self.memory:.0f} MB, {self.descriptors}, {self.processes}"


@dataclass(frozen=True)
class Figures:
    """The results of one way."""

    requests: int
    failed: int
    repeated: int
    spans: list[float]
    before: Footprint
    after: Footprint
    answered: int

    @property
    def median(self) -> float:
        """The median time to a new certificate, in seconds."""
        return statistics.median(self.spans)

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        counts = (f"{self.requests:,}", f"{self.failed}", f"{self.repeated}")
        spans = f"{self.median * 1000:.0f} / {max(self.spans) * 1000:.0f} ms"
        return (*counts, spans, str(self.before), str(self.after), f"{self.answered} of {QUEUED}")


def fixture(room: Room, name: str) -> NginxFixture:
    """Return a fixture of the installed NGINX in a sandbox."""
    binary = nginx_binary()
    if binary is None:
        sys.exit("no nginx: install it")
    return NginxFixture(room, name, binary, proxy_args=[])


@contextmanager
def under_the_agent() -> Iterator[Running]:
    """Run NGINX under the agent."""
    with open_room() as room:
        instance = fixture(room, "agent")
        instance.start()

        def family() -> list[int]:
            pids = [each.pid for each in instance.epochs()]
            return [instance.agent_pid, *pids, *(child for pid in pids for child in children(pid))]

        yield Running(instance, lambda: None, family, instance.family)
        instance.stop()


@contextmanager
def by_its_own_reload() -> Iterator[Running]:
    """Run NGINX alone; SIGHUP is what `nginx -s reload` sends."""
    with open_room() as room:
        instance = fixture(room, "own")
        instance.prepare()
        with bare_nginx(room, instance.binary, instance.config) as master:
            first_answer(instance.tls)
            yield Running(
                instance,
                lambda: os.kill(master, signal.SIGHUP),
                lambda: [master, *children(master)],
                lambda: children(master),
            )


WAYS: dict[str, Callable[[], AbstractContextManager[Running]]] = {
    "nginx, agent": under_the_agent,
    "nginx -s reload": by_its_own_reload,
}


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measure(way: Callable[[], AbstractContextManager[Running]]) -> Figures:
    """Rotate under load, then let clients wait at a stopped server."""
    with way() as running:
        instance = running.instance
        before = Footprint.of(running.family())
        with loads_in(instance.directory / "loads") as loads:
            loads.retried(instance.tls, instance.plain)
            loads.more(20)
            spans = []
            for _ in range(ROTATIONS):
                spans.append(running.rotate())
                time.sleep(PAUSE)
            loads.more(20)
            reports = loads.finish()
        eventually(lambda: len(running.family()) <= before.processes, what="the old processes have ended")
        after = Footprint.of(running.family())
        answered = queued(running)
    requests, failed, repeated = (
        sum(getattr(one, name) for one in reports) for name in ("ok", "failed", "idle_closed")
    )
    return Figures(requests, failed, repeated, spans, before, after, answered)


def queued(running: Running) -> int:
    """Stop what serves, let clients connect, and rotate; return how many are answered."""
    instance = running.instance
    with all_stopped(running.serving()):
        flights = launched(instance.tls, QUEUED // 2) + launched(instance.plain, QUEUED // 2)
        instance.rotate(KUBERNETES)
        running.apply()
        land(flights, within=WITHIN)
    return sum(each.failure is None for each in flights)


HEAD = ("requests", "failed", "repeated", "new certificate after", "before: memory, fds, processes", "after", "queued")


def tell(name: str, cells: tuple[str, ...]) -> None:
    """Print a row."""
    sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
    sys.stdout.flush()


def main() -> int:
    """Measure both ways and print the table."""
    tell(f"{ROTATIONS} rotations", HEAD)
    sys.stdout.write(f"|{'---|' * (len(HEAD) + 1)}\n")
    found: list[Figures] = []
    for name, way in WAYS.items():
        found.append(measure(way))
        tell(name, found[-1].cells())
    ours, own = found
    holds = ours.failed == 0 and ours.answered == QUEUED and ours.median <= SLOWER * own.median
    sys.stdout.write(f"the agent's median : the reload's = {ours.median / own.median:.2f}, limit {SLOWER}\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
