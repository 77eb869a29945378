"""What one proxy after another has told, of which totals never fall: the last words of the gone are kept.

An epoch that does not answer counts as it was seen last. A counter that falls was set back by somebody
(`/reset_counters`), one that is told no more went with its cluster: what it stood at is kept.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Self

from agent.metrics.aggregate import Sources, summed
from agent.metrics.parser import SUFFIXES, Exposition, Family, Kind, Number, number

LIMIT = 32 << 20
"""Bytes that series of the gone may take here, about. What is new beyond that is let go and counted as dropped."""

_OVERHEAD = 200  # bytes of a series besides its name

_REMEMBERED = 64
"""Epochs that are known to be gone, so that a late word of them is not counted twice."""


class EpochTotals:
    """Epochs by number. `dropped`: how many series there was no room for."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.dropped = 0
        self._limit = limit
        self._gone = Exposition()
        self._live: dict[int, Exposition] = {}
        self._retired: deque[int] = deque(maxlen=_REMEMBERED)

    @property
    def live(self) -> Collection[int]:
        """The epochs that have been seen and are not gone."""
        return self._live.keys()

    def of(self, epoch: int) -> Exposition | None:
        """What an epoch has told last."""
        return self._live.get(epoch)

    def see(self, epoch: int, exposition: Exposition) -> None:
        """Take what an epoch tells now, and own it; nothing happens if it is gone."""
        if epoch in self._retired:
            return
        for family in exposition.families.values():
            if _counts(family):
                family.samples = {series: number(value) for series, value in family.samples.items()}
        if (before := self._live.get(epoch)) is not None:
            self._keep(_lost(before, exposition))
        self._live[epoch] = exposition

    def retire(self, epoch: int) -> bool:
        """An epoch is gone; return whether it had ever told anything."""
        if epoch not in self._retired:
            self._retired.append(epoch)
        gone = self._live.pop(epoch, None)
        if gone is not None:
            self._keep(gone.families.values())
        return gone is not None

    def forget(self, epoch: int) -> None:
        """Let go of what an epoch told: it is counted elsewhere."""
        self._live.pop(epoch, None)

    def parts(self, serving: int | None, answered: Collection[int], counted: Exposition | None = None) -> Sources:
        """What is to be summed up. `answered` have been seen just now; `counted` is of others, already summed up.

        Gauges are those of the serving epoch if it has answered; if it is none of these, of `counted`.
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
                continue
            room -= size
            kept.families[family.name] = worth
        if kept.families:
            self._gone = summed(Sources(None, silent=(self._gone, kept)))

    # Memory

    def to_state(self) -> dict[str, Any]:
        """What counts, for JSON."""
        live = {str(epoch): _to_state(exposition) for epoch, exposition in self._live.items()}
        return {"gone": _to_state(self._gone), "live": live, "retired": list(self._retired)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Go on from what `to_state` returned; raises ValueError for anything else.

        Epochs that lived count as they were seen last, until they are seen again or retired.
        """
        lineage = cls()
        try:
            lineage._gone = _from_state(state["gone"])
            lineage._live = {int(epoch): _from_state(each) for epoch, each in state["live"].items()}
            lineage._retired.extend(int(epoch) for epoch in state["retired"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            message = f"cannot restore what proxies have told: {error!r}"
            raise ValueError(message) from error
        return lineage


def _size(series: Collection[str]) -> int:
    return sum(map(len, series)) + _OVERHEAD * len(series)


def _counts(family: Family) -> bool:
    return family.kind is Kind.COUNTER or family.kind in SUFFIXES


def _worth_keeping(family: Family) -> Family | None:
    """What of a family still counts once its epoch is gone; None: nothing. The bounds of a histogram stay together."""
    if family.kind is Kind.COUNTER:
        samples = {series: value for series, value in family.samples.items() if value}
    elif family.kind is Kind.SUMMARY:
        parts = (f"{family.name}_sum", f"{family.name}_count")
        samples = {series: value for series, value in family.samples.items() if series.startswith(parts)}
    else:
        samples = family.samples if family.kind is Kind.HISTOGRAM else {}
    return Family(family.name, family.kind, family.help, dict(samples)) if any(samples.values()) else None


def _lost(before: Exposition, now: Exposition) -> Iterator[Family]:
    """What was counted and is told no more."""
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
        raise TypeError(f"{value!r} is no number")
    return value
