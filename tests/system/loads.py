"""Controls load programs: starts them, reads their counts while they run, and their reports at the end."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.system.eventually import PATIENCE, eventually
from tests.system.load import LIVE
from tests.system.wire import Target

HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Loss:
    """A request that failed. Times are monotonic seconds."""

    begun: float
    ended: float
    reason: str
    detail: str


@dataclass(frozen=True)
class Report:
    """The results of one load; `begun[i]` and `ended[i]` belong to the same answered request."""

    name: str
    failed: int
    announced: int
    idle_closed: int
    losses: list[Loss]
    serials: dict[int, tuple[float, float]]
    begun: array[float]
    ended: array[float]

    @property
    def ok(self) -> int:
        """The number of answered requests."""
        return len(self.ended)

    @property
    def waits(self) -> list[float]:
        """The wait of each answered request, in seconds."""
        return [ended - begun for begun, ended in zip(self.begun, self.ended, strict=True)]

    @property
    def longest_wait(self) -> float:
        """The longest wait of an answered request, in seconds."""
        return max(self.waits)

    def first_answer_after(self, moment: float) -> float:
        """Return the time of the first response to a request that began after `moment`."""
        return min(ended for begun, ended in zip(self.begun, self.ended, strict=True) if begun > moment)

    def reasons(self) -> Counter[str]:
        """Count the recorded failures by reason."""
        return Counter(loss.reason for loss in self.losses)

    def __str__(self) -> str:
        waits = f"median {statistics.median(self.waits):.4f} longest {self.longest_wait:.4f}" if self.ok else "-"
        return f"{self.name}: {self.ok} ok, {self.failed} failed {dict(self.reasons())}, wait {waits} s"


@dataclass
class Load:
    """A running load program."""

    name: str
    process: subprocess.Popen[bytes]
    path: Path

    def counts(self) -> tuple[int, int]:
        """Return the last published numbers of answered and failed requests."""
        return self._live()[1:]

    def _live(self) -> tuple[int, int, int]:
        live = self.path.with_suffix(".live")
        data = live.read_bytes() if live.exists() else b""
        return LIVE.unpack(data) if len(data) == LIVE.size else (0, 0, 0)

    def counts_now(self) -> tuple[int, int]:
        """Return the numbers of answered and failed requests by now, or a moment later.

        The program may publish them slowly: the second publication from here on has certainly been counted after this
        call.
        """
        published, _, _ = self._live()
        eventually(lambda: self._live()[0] >= published + 2, what=f"the counts of {self.name}")
        return self.counts()

    def more(self, count: int) -> None:
        """Wait until `count` more requests are answered."""
        self.answered(self.counts_now()[0] + count)

    def answered(self, count: int) -> None:
        """Wait until `count` requests have been answered in total."""
        eventually(lambda: self.counts()[0] >= count, what=f"{count} answers to {self.name}")

    def finish(self, at_least: int = 0) -> Report:
        """Wait until `at_least` requests were answered or one failed, let those in flight finish, read the report."""
        eventually(
            lambda: (counts := self.counts())[1] or counts[0] >= at_least, what=f"{at_least} answers to {self.name}"
        )
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=PATIENCE) == 0, f"the load program {self.name} broke; see its standard error"
        return read_report(self.name, self.path)


def read_report(name: str, path: Path) -> Report:
    """Read the report of a load program."""
    total: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    times: array[float] = array("d")
    times.frombytes(path.with_suffix(".times").read_bytes())
    half = len(times) // 2
    serials: dict[int, tuple[float, float]] = {}
    for serial, first, last in total["serials"]:
        known = serials.get(serial, (first, last))
        serials[serial] = (min(known[0], first), max(known[1], last))
    losses = [Loss(**one) for one in total["failures"]]
    counted = {key: total[key] for key in ("failed", "announced", "idle_closed")}
    return Report(name=name, losses=losses, serials=serials, begun=times[:half], ended=times[half:], **counted)


class Loads:
    """Starts and records loads in the test's sandbox."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[Load] = []
        self._numbers = itertools.count()

    def start(self, kind: str, target: Target, *, clients: int = 4, rate: float = 0, pace: float = 0) -> Load:
        """Start a load of a kind of `tests.system.load` and wait for its first answer or failure."""
        name = f"{kind}-{target.port}-{next(self._numbers)}"
        path = self._directory / f"{name}.json"
        spec = {"kind": kind, "target": asdict(target), "clients": clients, "rate": rate, "pace": pace}
        path.with_suffix(".spec").write_text(json.dumps({**spec, "report": str(path)}), encoding="ascii")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.load", path.with_suffix(".spec")],
            stdin=subprocess.PIPE,
            cwd=HERE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        load = Load(name, process, path)
        self._running.append(load)
        eventually(lambda: sum(load.counts()), what=f"the first request of {name}")
        return load

    def usual(self, tls: Target, plain: Target) -> None:
        """Start the load for a rotation: closed loops over TLS, keep-alive clients, deep queues and an open loop."""
        self.start("closed", tls, clients=3)
        self.start("keepalive", tls, clients=4, pace=0.002)
        self.start("keepalive", plain, clients=4, pace=0.002)
        self.start("bursts", plain, clients=100, pace=0.02)
        self.start("open", tls, clients=1, rate=50)

    def retried(self, tls: Target, plain: Target) -> None:
        """Start the load of `usual` with clients that repeat a request on a connection that was idle and is closed."""
        self.start("closed", tls, clients=3)
        self.start("retrying", tls, clients=4, pace=0.002)
        self.start("retrying", plain, clients=4, pace=0.002)
        self.start("bursts", plain, clients=100, pace=0.02)
        self.start("open", tls, clients=1, rate=50)

    def gentle(self, tls: Target, plain: Target) -> None:
        """Start a load that uses little CPU time."""
        self.start("closed", tls, clients=2, pace=0.005)
        self.start("bursts", plain, clients=30, pace=0.05)
        self.start("keepalive", plain, clients=2, pace=0.01)

    def light(self, tls: Target, plain: Target) -> None:
        """Start about fifty requests a second: enough to check that the right epoch serves."""
        self.start("closed", tls, clients=1, pace=0.02)
        self.start("keepalive", plain, clients=1, pace=0.02)

    def more(self, count: int) -> None:
        """Wait until every load has `count` more responses."""
        for load in self._running:
            load.more(count)

    def finish(self, at_least: int = 0) -> list[Report]:
        """Wait until every load has `at_least` responses or a failure, end them all and return their reports."""
        reports = [load.finish(at_least) for load in self._running]
        self._running.clear()
        return reports

    def abandon(self) -> None:
        """Kill the running loads."""
        for load in self._running:
            load.process.kill()
            load.process.communicate()


@contextmanager
def loads_in(directory: Path) -> Iterator[Loads]:
    """Yield loads that end with the block."""
    directory.mkdir()
    with ExitStack() as stack:
        loads = Loads(directory)
        stack.callback(loads.abandon)
        yield loads


def nothing_failed(reports: list[Report]) -> None:
    """Fail unless every load got responses and no request failed."""
    story = "\n".join(f"{report}\n" + "\n".join(f"    {loss}" for loss in report.losses[:5]) for report in reports)
    assert sum(report.failed for report in reports) == 0, f"requests failed:\n{story}"
    assert all(report.ok for report in reports), f"too little load to tell:\n{story}"
