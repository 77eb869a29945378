"""The cost of an idle agent: `python -m tests.benchmarks.bench_idle`.

Prints, from one run and for each installed proxy: the agent's memory (PSS) beside its budget, as it is here and without
another Python on the machine, its threads, its wake-ups and its CPU time while idle, with every feature enabled; the
same while a client watches the page; and the time from its start until it has executed the proxy, beside the bare
import of its modules. Exits with 1 if the memory as it is here is over the budget. AGENT_SECONDS sets the duration of a
measurement, AGENT_MEASURED the number of starts.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tests.benchmarks.resident_memory import Memory, field
from tests.system.agent_fixture import AgentFixture
from tests.system.counts import count
from tests.system.eventually import eventually, pass_time
from tests.system.proxies import Proxy, found
from tests.system.room import open_room
from tests.system.status_pollers import ask, overview

SECONDS = count("AGENT_SECONDS", short=30, long=120)
MEASURED = count("AGENT_MEASURED", short=10, long=50)
BUDGET = 42.0  # MB
QUIET = "/var/tmp"
EVERYTHING = ["--replace-hung", "10s", "--http-actions", "--proof"]
LOOKED_AT = ("/", "/status", "/metrics", "/stats", "/healthz/ready")
IMPORTS = (
    "import agent.entry, agent.cli.run, agent.cli.settings, agent.processes.upgrade_check, agent.supervisor.supervisor"
)


@dataclass(frozen=True)
class Use:
    """The use of all threads of a process so far: CPU seconds and wake-ups."""

    at: float
    processor: float
    wakings: int

    @classmethod
    def of(cls, pid: int) -> "Use":
        """Read the figures of a process (schedstat of proc_pid_schedstat(5), status of proc_pid_status(5))."""
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        processor = sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks)
        states = [(task / "status").read_text(encoding="utf-8") for task in tasks]
        wakings = sum(field(state, "voluntary_ctxt_switches") for state in states)
        return cls(time.monotonic(), processor / 1e9, wakings)


@dataclass(frozen=True)
class Rate:
    """The use of a process per second: milliseconds of CPU time, and wake-ups."""

    processor: float
    wakings: float

    @classmethod
    def over(cls, pid: int, seconds: float) -> "Rate":
        """Measure a process for this many seconds."""
        before = Use.of(pid)
        pass_time(seconds)
        after = Use.of(pid)
        span = after.at - before.at
        return cls((after.processor - before.processor) / span * 1000, (after.wakings - before.wakings) / span)


def threads(pid: int) -> int:
    """Count the threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@contextmanager
def idle(proxy: Proxy) -> Iterator[AgentFixture]:
    """Yield a serving agent fixture, in directories without other writers: changes above a watched path wake it up."""
    with open_room() as room, tempfile.TemporaryDirectory(dir=QUIET) as directory:
        instance = AgentFixture(
            replace(room, directory=Path(directory)),
            proxy.name,
            proxy.binary,
            more_flags=[*EVERYTHING],
            proxy_args=["-l", "warning"],
        )
        instance.start()
        yield instance
        instance.stop()


@contextmanager
def watching(instance: AgentFixture) -> Iterator[Callable[[], int]]:
    """Watch the page's events; yield a function that returns the number of bytes received so far."""
    with socket.create_connection((instance.status.host, instance.status.port), timeout=5) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        sock.setblocking(False)
        yield lambda: _drained(sock)


def _drained(sock: socket.socket) -> int:
    taken = 0
    with suppress(BlockingIOError):
        while data := sock.recv(1 << 16):
            taken += len(data)
    return taken


@dataclass(frozen=True)
class Idle:
    """The measurements of one agent."""

    fresh: Memory
    used: Memory
    threads: int
    rate: Rate
    watched: Rate
    told: float  # bytes per second


def measure(instance: AgentFixture) -> Idle:
    """Measure an idle agent, and the same one while a client watches its page."""
    instance.settled()
    fresh = Memory.of(instance.agent_pid, instance.serving_pid())
    for path in LOOKED_AT:
        ask(instance, path)
    instance.rotate()
    instance.served()
    instance.settled()
    pass_time(2)  # wait for the work after a rotation
    used, number = Memory.of(instance.agent_pid, instance.serving_pid()), threads(instance.agent_pid)
    rate = Rate.over(instance.agent_pid, SECONDS)
    with watching(instance) as told:
        watched = Rate.over(instance.agent_pid, SECONDS / 3)
        size = told()
    return Idle(fresh, used, number, rate, watched, size / (SECONDS / 3))


# The start


def environment(bytecode: str) -> dict[str, str]:
    """Let programs write their bytecode, as for an installed package."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**clean, "PYTHONPYCACHEPREFIX": bytecode}


def start_span(proxy: Proxy) -> float:
    """Start an agent; return the seconds until it had executed the proxy, as recorded in its own history."""
    with open_room() as room:
        instance = AgentFixture(room, "s", proxy.binary, more_flags=[*EVERYTHING], proxy_args=["-l", "warning"])
        instance.prepare()
        began = time.time()
        instance.agent = room.spawn_bare(instance.command(), log=instance.journal.path)
        instance.ready()
        (first,) = eventually(lambda: overview(instance)["rotations"], within=2)
        instance.stop()
    launch: float = first["phases"][0]["seconds"]
    return datetime.fromisoformat(first["began_at"]).timestamp() + launch - began


def run_span(command: Sequence[str | Path]) -> float:
    """Run a program to its end; return the seconds."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def starts(proxies: Sequence[Proxy]) -> dict[str, float]:
    """Measure in turns, so that other load affects all alike; return medians in milliseconds."""
    python = [sys.executable, "-c"]
    measures: dict[str, Callable[[], float]] = {
        "python -c pass": lambda: run_span([*python, "pass"]),
        "import floor": lambda: run_span([*python, IMPORTS]),
    }
    for proxy in proxies:
        measures[f"{proxy.name} --version"] = lambda proxy=proxy: run_span([proxy.binary, "--version"])  # type: ignore[misc]
        measures[f"start to exec of {proxy.name}"] = lambda proxy=proxy: start_span(proxy)  # type: ignore[misc]
    taken: dict[str, list[float]] = {what: [] for what in measures}
    for _ in range(MEASURED):
        for what, each in measures.items():
            taken[what].append(each() * 1000)
    return {what: statistics.median(each) for what, each in taken.items()}


# The table


def tell(*cells: str) -> None:
    """Print a row."""
    sys.stdout.write(f"| {cells[0]:34} | " + " | ".join(f"{cell:>14}" for cell in cells[1:]) + " |\n")


def tell_idle(idles: dict[str, Idle]) -> None:
    """Print the cost of an idle agent, a column for each proxy."""
    tell("idle agent beside", *idles, "budget")
    tell("-" * 34, *["-" * 14] * (len(idles) + 1))

    def row(what: str, value: Callable[[Idle], str], budget: str = "") -> None:
        tell(what, *(value(each) for each in idles.values()), budget)

    row("PSS after the start", lambda each: f"{each.fresh.share:.1f} MB", f"{BUDGET:.0f} MB")
    row("PSS, looked at, rotated once", lambda each: f"{each.used.share:.1f} MB", f"{BUDGET:.0f} MB")
    row("PSS without another Python", lambda each: f"{each.fresh.alone:.1f} MB")
    row("the same, looked at, rotated", lambda each: f"{each.used.alone:.1f} MB")
    row("private: one more of many", lambda each: f"{each.used.private:.1f} MB")
    row("RSS: the only one", lambda each: f"{each.used.whole:.1f} MB")
    row("threads", lambda each: f"{each.threads}")
    row("wake-ups a second", lambda each: f"{each.rate.wakings:.2f}")
    row("processor a second", lambda each: f"{each.rate.processor:.2f} ms")
    row("wake-ups a second, page watched", lambda each: f"{each.watched.wakings:.2f}")
    row("processor a second, page watched", lambda each: f"{each.watched.processor:.2f} ms")
    row("bytes a second, page watched", lambda each: f"{each.told:.0f}")


def tell_starts(medians: dict[str, float]) -> None:
    """Print the duration of starts, each beside that of the imports."""
    sys.stdout.write("\n")
    tell(f"median of {MEASURED}", "", "import floor")
    tell("-" * 34, *["-" * 14] * 2)
    for what, median in medians.items():
        tell(what, f"{median:.1f} ms", f"{median / medians['import floor']:.2f}")


def main() -> int:
    """Measure and print all figures."""
    proxies = [proxy for kind in ("sidecar", "envoy") if (proxy := found(kind)) is not None]
    with tempfile.TemporaryDirectory() as bytecode:
        os.environ.update(environment(bytecode))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        start_span(proxies[0])  # this run writes the bytecode, which needs memory as well
        idles: dict[str, Idle] = {}
        for proxy in proxies:
            with idle(proxy) as instance:
                idles[proxy.name] = measure(instance)
        medians = starts(proxies)
    with suppress(BrokenPipeError):
        tell_idle(idles)
        tell_starts(medians)
    return 0 if all(max(each.fresh.share, each.used.share) <= BUDGET for each in idles.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
