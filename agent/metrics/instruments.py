"""Counters and histograms, which yield metric families; each series exists from `begin` or its first value on."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from agent.metrics.parser import Family, Kind
from agent.metrics.writer import in_go

Values = dict[tuple[str, ...], float]
"""Numbers by label values, which are in the order of the label names."""


class Counter:
    """A counter. `name` has the suffix `_total`."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._values: Values = {}
        if not labels:
            self.begin()

    def begin(self, *values: str) -> None:
        """Create the series with these label values, at 0."""
        self._values[values] = 0.0

    def add(self, *values: str, count: float = 1.0) -> None:
        """Add to the series with these label values."""
        self._values[values] = self._values.get(values, 0.0) + count

    def family(self) -> Family:
        """Return the current values."""
        return labelled(self._name, Kind.COUNTER, self._text, self._labels, self._values)


class Histogram:
    """A histogram. `bounds` are the upper ones of its buckets, ascending; the one without a bound is added."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._bounds = bounds
        self._counts: dict[tuple[str, ...], list[int]] = {}  # by bucket, not cumulated
        self._sums: Values = {}
        if not labels:
            self.begin()

    def begin(self, *values: str) -> None:
        """Create the series with these label values, without an observation."""
        self._counts[values] = [0] * (len(self._bounds) + 1)
        self._sums[values] = 0.0

    def observe(self, value: float, *values: str) -> None:
        """Count an observation in the series with these label values."""
        if values not in self._counts:
            self.begin(*values)
        self._counts[values][bisect_left(self._bounds, value)] += 1
        self._sums[values] += value

    def family(self) -> Family:
        """Return the current values, cumulated over the buckets."""
        family = Family(self._name, Kind.HISTOGRAM, _help(self._text))
        bounds = [in_go(float(bound)) for bound in (*self._bounds, float("inf"))]
        for values, counts in self._counts.items():
            labels, total = dict(zip(self._labels, values, strict=True)), 0
            for bound, count in zip(bounds, counts, strict=True):
                total += count
                family.samples[_series(f"{self._name}_bucket", {**labels, "le": bound})] = float(total)
            family.samples[_series(f"{self._name}_count", labels)] = float(total)
            family.samples[_series(f"{self._name}_sum", labels)] = self._sums[values]
        return family


def single(name: str, kind: Kind, text: str, value: float) -> Family:
    """Return a family of one series without labels."""
    return Family(name, kind, _help(text), {name: float(value)})


def labelled(name: str, kind: Kind, text: str, labels: Sequence[str], values: Values) -> Family:
    """Return a family with a series for each combination of label values."""
    series = {_series(name, dict(zip(labels, each, strict=True))): value for each, value in values.items()}
    return Family(name, kind, _help(text), dict(series))


def escaped(value: str) -> str:
    """Return a label's value as it is written between quotation marks."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _series(name: str, labels: Mapping[str, str]) -> str:
    written = ",".join(f'{label}="{escaped(value)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{written}}}" if written else name
