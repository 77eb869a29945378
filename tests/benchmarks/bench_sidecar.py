"""The built-in sidecar beside Envoy and haproxy: `python -m tests.benchmarks.bench_sidecar [--quick]`.

One worker each, all pinned to the same core and measured in turn; the load and the origins use another core. Rates are
per core: responses divided by the CPU time of the proxy. If the proxy's core was busy for less than nine tenths of the
time, the load was the limit, and the busy share is printed beside the figure. Prints a table.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.benchmarks.contenders import CORES, LOAD_CORE, Contender, Field, pinned
from tests.benchmarks.generators import RATE, counted, wrk_binary, wrk_command
from tests.system.eventually import eventually
from tests.system.room import open_room
from tests.system.wire import Target, connect, tls_context

IDLE = 1_000
SLACK = 10  # descriptors of earlier connections that the proxy is still closing
SATURATED = 0.9
ORDER = ("sidecar", "envoy", "haproxy")
HEAD = ("", "sidecar", "Envoy", "haproxy", "sidecar : Envoy", "sidecar : haproxy")


@dataclass(frozen=True)
class Measured:
    """A figure of one contender; `busy` is the share of its core that it used, if relevant."""

    value: float
    busy: float | None = None


Measure = Callable[[Contender], Measured | None]


@dataclass(frozen=True)
class Line:
    """A line of the table: its label, the format of a figure, and the function that measures it."""

    what: str
    form: str
    measure: Measure
    times: float = 1.0  # factor applied to a figure before it is printed


class Bench:
    """Runs the measurements, each `seconds` long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[str, list[dict[str, float]]] = {}

    def lines(self) -> Iterator[Line]:
        """Return the lines for proxies that run throughout."""
        if wrk_binary():
            yield Line("new TLS connections, one request each", "{:,.0f}/s", self._tls_connections)
            yield Line("new plain connections, one request each", "{:,.0f}/s", lambda one: self._rate(one, one.plain))
            yield Line("HTTP requests on kept connections", "{:,.0f}/s", self._requests)
        yield Line("bulk, plain", "{:,.0f} MB/s", lambda one: self._bulk(one, one.bulk, "plain"), 1e-6)
        yield Line("bulk, TLS", "{:,.0f} MB/s", lambda one: self._bulk(one, one.bulk_tls, "tls"), 1e-6)
        yield Line(f"TLS, {RATE} requests/s, median", "{:.2f} ms", lambda one: self._paced(one, "p50"), 1e3)
        yield Line(f"TLS, {RATE} requests/s, 99th percentile", "{:.2f} ms", lambda one: self._paced(one, "p99"), 1e3)

    def _run(self, argv: list[str]) -> str:
        with pinned(LOAD_CORE):
            return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout

    def _rate(self, one: Contender, port: int, *, tls: bool = False, closing: bool = True) -> Measured:
        before = one.cpu()
        result = counted(self._run(wrk_command(port, self._seconds, tls=tls, closing=closing)))
        cpu = one.cpu() - before
        assert result.answers > 100 * result.failures, f"{one.name}: {result}"
        return Measured(result.answers / cpu, cpu / result.seconds)

    def _tls_connections(self, one: Contender) -> Measured:
        return self._rate(one, one.tls, tls=True)

    def _requests(self, one: Contender) -> Measured | None:
        return self._rate(one, one.http, closing=False) if one.http else None

    def _bulk(self, one: Contender, port: int, kind: str) -> Measured:
        before = one.cpu()
        told = self._figures("bulk", port, kind)
        cpu = one.cpu() - before
        return Measured(told["bytes"] / cpu, cpu / told["seconds"])

    def _paced(self, one: Contender, figure: str) -> Measured:
        """Both figures come from the same requests: the first line measures, the second one prints."""
        if figure == "p50":
            self._waits.setdefault(one.name, []).append(self._figures("paced", one.tls, "tls"))
            return Measured(self._waits[one.name][-1][figure])
        return Measured(self._waits[one.name].pop()[figure])

    def _figures(self, kind: str, port: int, tls: str) -> dict[str, float]:
        words = [sys.executable, "-m", "tests.benchmarks.generators", kind, str(port), tls, str(self._seconds)]
        figures: dict[str, float] = json.loads(self._run(words))
        return figures


def fresh_lines() -> Iterator[Line]:
    """Return the lines that need newly started proxies, which have no freed memory to reuse."""
    for kind, tls in (("plain", False), ("TLS", True)):
        yield Line(f"memory of {IDLE:,} idle connections, {kind}", "{:.1f} MB", partial(idle, tls=tls), 1e-6)


def idle(one: Contender, *, tls: bool) -> Measured:
    """Measure by how much a proxy's memory grows with this many idle connections."""
    target, context = Target("127.0.0.1", one.tls if tls else one.plain, tls=tls), tls_context()
    connect(target, context).close()
    before, alone = one.memory(), one.descriptors()
    held = [connect(target, context) for _ in range(IDLE)]
    eventually(lambda: one.descriptors() >= alone + 2 * IDLE - SLACK, within=30, what="all are connected through")
    grown = one.memory() - before
    for sock in held:
        sock.close()
    return Measured(grown)


def measured(line: Line, field: list[Contender], rounds: int) -> dict[str, Measured]:
    """Measure all contenders in turn, this many times; return the medians."""
    seen: dict[str, list[Measured]] = {one.name: [] for one in field}
    for _ in range(rounds):
        for one in field:
            if figure := line.measure(one):
                seen[one.name].append(figure)
    return {name: median(figures) for name, figures in seen.items() if figures}


def median(figures: list[Measured]) -> Measured:
    """Return the median of the figures and of the shares."""
    busy = [figure.busy for figure in figures if figure.busy is not None]
    value = statistics.median(figure.value for figure in figures)
    return Measured(value, statistics.median(busy) if busy else None)


def cells(line: Line, figures: dict[str, Measured]) -> tuple[str, ...]:
    """Return a line as a row of text."""
    written = [cell(line, figures.get(name)) for name in ORDER]
    return (line.what, *written, *(ratio(figures, other) for other in ORDER[1:]))


def cell(line: Line, figure: Measured | None) -> str:
    """Format a figure, with the share of the core if the load was the limit."""
    if figure is None:
        return "-"
    share = f" ({figure.busy:.0%} busy)" if figure.busy is not None and figure.busy < SATURATED else ""
    return line.form.format(figure.value * line.times) + share


def ratio(figures: dict[str, Measured], other: str) -> str:
    """Format the ratio of the sidecar's figure to another."""
    if "sidecar" not in figures or other not in figures or not figures[other].value:
        return ""
    return f"{figures['sidecar'].value / figures[other].value:.2f}"


def drawn(rows: list[tuple[str, ...]]) -> str:
    """Return the rows as a Markdown table."""
    widths = [max(len(row[column]) for row in [HEAD, *rows]) for column in range(len(HEAD))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in [HEAD, *rows]]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def missing(field: list[Contender]) -> Iterator[str]:
    """Print the programs that are missing, and how to install them."""
    here = {one.name for one in field}
    if "sidecar" not in here:
        yield "no sidecar: install this package, or name one by AGENT_SIDECAR"
    if "haproxy" not in here:
        yield "no haproxy: apt-get install haproxy"
    if wrk_binary() is None:
        yield "no wrk: apt-get install wrk; without it no figures of connections and requests at full speed"
    if len(CORES) < 2:
        yield "one core only: the load takes its share of it"


def table(field: Field, bench: Bench, rounds: int) -> list[tuple[str, ...]]:
    """Run all measurements and return the rows."""
    rows = []
    with field.origins() as origins:
        with field.contenders(origins) as contenders:
            for gap in missing(contenders):
                sys.stdout.write(gap + "\n")
            rows += [cells(line, measured(line, contenders, rounds)) for line in bench.lines()]
        for line in fresh_lines():
            with field.contenders(origins) as contenders:
                rows.append(cells(line, measured(line, contenders, 1)))
    return rows


def main(words: list[str]) -> int:
    """Run all measurements and print the table."""
    quick = words == ["--quick"]
    if words and not quick:
        sys.exit(f"bench_sidecar: unknown argument {words[0]}; there is --quick")
    began = time.monotonic()
    seconds, rounds = (1, 1) if quick else (2, 3)
    with open_room() as room:
        rows = table(Field(room), Bench(seconds), rounds)
    sys.stdout.write(drawn(rows) + "\n")
    sys.stdout.write(f"\n{os.cpu_count()} cores, {rounds} rounds, {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
