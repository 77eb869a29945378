"""Totals over all epochs' scraped metrics; the counts of exited epochs are kept.

Totals never fall. An epoch that does not answer counts with its last exposition. A counter that fell was reset
(`/reset_counters`), and one that disappeared was removed with its cluster: the previous value is kept.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Self

from agent.metrics.aggregate import Sources, summed
from agent.metrics.parser import SUFFIXES, Exposition, Family, Kind, Number, number

LIMIT = 32 << 20
"""Approximate bytes for series of exited epochs; new ones beyond are counted as dropped."""

_OVERHEAD = 200  # bytes per series besides its name

_REMEMBERED = 64
"""Number of exited epochs remembered, so that a late exposition is not counted twice."""


class EpochTotals:
    """The last exposition of each epoch by number. `dropped`: series that exceeded the limit."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.dropped = 0
        self._limit = limit
        self._gone = Exposition()
        self._live: dict[int, Exposition] = {}
        self._retired: deque[int] = deque(maxlen=_REMEMBERED)

    @property
    def live(self) -> Collection[int]:
        """The epochs that were scraped and have not exited."""
        return self._live.keys()

    def of(self, epoch: int) -> Exposition | None:
        """Return an epoch's last exposition."""
        return self._live.get(epoch)

    def see(self, epoch: int, exposition: Exposition) -> None:
        """Store an epoch's newest exposition, and own it; ignore exited epochs."""
        if epoch in self._retired:
            return
        for family in exposition.families.values():
            if _counts(family):
                family.samples = {series: number(value) for series, value in family.samples.items()}
        if (before := self._live.get(epoch)) is not None:
            self._keep(_lost(before, exposition))
        self._live[epoch] = exposition

    def retire(self, epoch: int) -> bool:
        """Keep the counts of an exited epoch; return whether it ever sent any metrics."""
        if epoch not in self._retired:
            self._retired.append(epoch)
        gone = self._live.pop(epoch, None)
        if gone is not None:
            self._keep(gone.families.values())
        return gone is not None

    def forget(self, epoch: int) -> None:
        """Drop an epoch's metrics, because they are counted elsewhere."""
        self._live.pop(epoch, None)

    def parts(self, serving: int | None, answered: Collection[int], counted: Exposition | None = None) -> Sources:
        """Return the sources to aggregate.

        `answered`: epochs scraped just now. `counted`: the sum of the epochs that count in shared memory. Gauges are
        those of the serving epoch if it has answered; of `counted` if the serving epoch was never scraped.
        """
        told = {epoch: self._live[epoch] for epoch in answered if epoch in self._live}
        first = told.pop(serving, None) if serving is not None else None
        if first is None and serving not in self._live:
            first, counted = counted, None
        others = (*told.values(), *(() if counted is None else (counted,)))
        silent = (each for epoch, each in self._live.items() if epoch not in answered)
        return Sources(first, others, (*silent, self._gone))

    def _keep(self, families: Collection[Family] | Iterator[Family]) -> None:
        kept = Exposition()
        room = self._limit - sum(_size(family.samples) for family in self._gone.families.values())
        for family in families:
            if (worth := _worth_keeping(family)) is None:
                continue
            known = self._gone.families.get(family.name)
            new = worth.samples if known is None else worth.samples.keys() - known.samples.keys()
            if (size := _size(new)) > room:
                self.dropped += len(new)
                worth.samples = {series: value for series, value in worth.samples.items() if series not in new}
            else:
                room -= size
            if worth.samples:
                kept.families[family.name] = worth
        if kept.families:
            self._gone = summed(Sources(None, silent=(self._gone, kept)))

    # State

    def to_state(self) -> dict[str, Any]:
        """Return the counts, for JSON."""
        live = {str(epoch): _to_state(exposition) for epoch, exposition in self._live.items()}
        return {"gone": _to_state(self._gone), "live": live, "retired": list(self._retired)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_state` returned; raises ValueError for anything else.

        Epochs that were live count with their last exposition until they are scraped again or retired.
        """
        lineage = cls()
        try:
            lineage._gone = _from_state(state["gone"])
            lineage._live = {int(epoch): _from_state(each) for epoch, each in state["live"].items()}
            lineage._retired.extend(int(epoch) for epoch in state["retired"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            message = f"cannot restore the proxies' counters: {error!r}"
            raise ValueError(message) from error
        return lineage


def _size(series: Collection[str]) -> int:
    return sum(map(len, series)) + _OVERHEAD * len(series)


def _counts(family: Family) -> bool:
    return family.kind is Kind.COUNTER or family.kind in SUFFIXES


def _worth_keeping(family: Family) -> Family | None:
    """Return the part of a family that counts after its epoch exits, or None.

    The buckets of a histogram stay together.
    """
    if family.kind is Kind.COUNTER:
        samples = {series: value for series, value in family.samples.items() if value}
    elif family.kind is Kind.SUMMARY:
        parts = (f"{family.name}_sum", f"{family.name}_count")
        samples = {series: value for series, value in family.samples.items() if series.startswith(parts)}
    else:
        samples = family.samples if family.kind is Kind.HISTOGRAM else {}
    return Family(family.name, family.kind, family.help, dict(samples)) if any(samples.values()) else None


def _lost(before: Exposition, now: Exposition) -> Iterator[Family]:
    """Yield counts that have fallen or disappeared."""
    for name, family in before.families.items():
        if not _counts(family):
            continue
        current = now.families.get(name)
        samples = {} if current is None else current.samples
        lost = {series: family.samples[series] for series in family.samples.keys() - samples.keys()}
        if family.kind is Kind.COUNTER and family.samples != samples:
            fallen = ((series, value) for series, value in family.samples.items() if series in samples)
            lost |= {series: value for series, value in fallen if number(samples[series]) < number(value)}
        if lost:
            yield Family(name, family.kind, family.help, lost)


def _to_state(exposition: Exposition) -> dict[str, Any]:
    families = (worth for each in exposition.families.values() if (worth := _worth_keeping(each)) is not None)
    return {family.name: [family.kind.value, dict(family.samples)] for family in families}


def _from_state(state: Mapping[str, Any]) -> Exposition:
    families = {}
    for name, (kind, samples) in state.items():
        values: dict[str, Number | str] = {str(series): _count(value) for series, value in samples.items()}
        families[name] = Family(str(name), Kind(kind), samples=values)
    return Exposition(families)


def _count(value: object) -> Number:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return value
