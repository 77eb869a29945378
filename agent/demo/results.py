"""The demonstration's counts, and what they prove."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

ENOUGH = 100  # requests; fewer prove nothing
_LATE = 2.0  # seconds until a client that gets little CPU notices a death
_OF_A_DEATH = {"reset"}  # how a client sees the death of a proxy with its connection
NEVER = float("inf")


@dataclass(slots=True)
class Kill:
    """A SIGKILL to the serving epoch: when it was sent, when process and connections had ended."""

    epoch: int
    struck: float
    gone: float = NEVER

    def explains(self, opened: float, ended: float, reason: str) -> bool:
        """Return whether a failed request may have been in the killed process.

        None can that was opened after its end.
        """
        return reason in _OF_A_DEATH and opened < self.gone and self.struck <= ended <= self.gone + _LATE


@dataclass(slots=True)
class Rotation:
    """A written pair, and when a client first saw it: never, if the next one came too soon.

    `hindered`: its epoch was frozen or killed on purpose, so that its time means nothing.
    """

    serial: str
    written: float
    seen: float | None = None
    hindered: bool = False

    @property
    def took(self) -> float | None:
        """Seconds from the write to the first handshake."""
        return None if self.seen is None else max(0.0, self.seen - self.written)


@dataclass(slots=True)
class Results:
    """All counts. Times are monotonic seconds."""

    served: int = 0
    connections: int = 0
    longest: float = 0.0
    deepest: int | None = None
    failed: int = 0
    cut: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rotations: list[Rotation] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    last_serial: str = ""
    last_seen: float = 0.0

    def take(self, report: Mapping[str, Any]) -> list[Rotation]:
        """Add a report of the clients; return the rotations that they saw for the first time."""
        self.served, self.connections = report["served"], report["connections"]
        self.longest, self.deepest = report["longest"], report["deepest"]
        for failure in report["failures"]:
            self._fail(**failure)
        for serial, (_, last) in report["serials"].items():
            if last >= self.last_seen:
                self.last_serial, self.last_seen = serial, last
        return self._see({serial: first for serial, (first, _) in report["serials"].items()})

    def _fail(self, opened: float, ended: float, reason: str) -> None:
        if any(kill.explains(opened, ended, reason) for kill in self.kills):
            self.cut += 1
        else:
            self.failed += 1
            self.reasons[reason] += 1

    def _see(self, shown: Mapping[str, float]) -> list[Rotation]:
        seen = [each for each in self.rotations if each.seen is None and each.serial in shown]
        for rotation in seen:
            rotation.seen = shown[rotation.serial]
        return sorted(seen, key=lambda each: each.written)

    @property
    def spans(self) -> list[float]:
        """Seconds from write to first handshake, for each seen and unhindered rotation."""
        return [each.took for each in self.rotations if each.took is not None and not each.hindered]

    @property
    def typical(self) -> float | None:
        """Their median."""
        return median(self.spans) if self.spans else None

    @property
    def overtaken(self) -> int:
        """The number of rotations that no client saw."""
        return sum(each.seen is None for each in self.rotations)

    def proves_nothing(self) -> str:
        """Return why the counts prove nothing; empty if they do prove something."""
        if self.served < ENOUGH:
            return f"only {self.served} requests were answered"
        if not self.spans:
            return "no new certificate was seen by a client"
        if self.deepest == 0:
            return "no client ever waited in the accept queue"
        return ""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The number of durations from `low` up to but excluding `high`, in seconds."""

    low: float
    high: float
    count: int


EDGES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def histogram(spans: Iterable[float], rows: int) -> list[Bucket]:
    """Count durations in `rows` adjacent buckets around the filled ones.

    The outer two also count everything beyond them.
    """
    edges = (0.0, *EDGES, NEVER)
    values = list(spans)
    counts = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
    first = _window([index for index, count in enumerate(counts) if count], rows, len(counts))
    last = min(first + rows, len(counts)) - 1
    lows = [0.0, *edges[first + 1 : last + 1]]
    highs = [*edges[first + 1 : last + 1], NEVER]
    sums = [sum(counts[: first + 1]), *counts[first + 1 : last], sum(counts[last:])]
    return [Bucket(low, high, count) for low, high, count in zip(lows, highs, sums, strict=True)]


def _window(filled: list[int], rows: int, of: int) -> int:
    """Return the index of the first of `rows` buckets that centre on the filled ones."""
    if not filled:
        return 0
    return max(0, min(of - rows, (filled[0] + filled[-1] + 1 - rows) // 2))
