"""Combines several expositions into one.

Counters and the parts of histograms and summaries are summed, series by series, over live and exited epochs; the sums
never fall. Histograms with different bounds are first brought to the same bounds: a missing bucket counts as the next
lower one.

Most gauges are those of the serving epoch, since what a proxy reports about itself (its state, its version, the health
of its upstreams) cannot be added. Gauges that count current connections, requests or bytes are summed, as a draining
epoch has its share of them: the ones that Envoy itself adds up over a hot restart.

Of unrelated sources, the first one that has a family provides it.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.metrics.parser import SUFFIXES, Exposition, Family, Kind, Number, number

SUMMED_GAUGES = re.compile(
    r"_(?:cx|rq|sess|sessions?|streams?|connections?)(?:_[a-z0-9_]+)?_(?:active|buffered|soft_drain)$"
    r"|_write_total_buffered$|_server_total_connections$"
)
"""Gauges that count what exists at this moment; each epoch has its share."""

_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_BOUND = re.compile(r'([{,])le="([^"]*)"(,?)')

STEP = 2_000
"""Samples that are added up at once: a few milliseconds of work."""

Samples = Mapping[str, Number | str]


@dataclass(frozen=True, slots=True)
class Sources:
    """The expositions of consecutive epochs.

    Gauges come from `first`. Only counters, histograms and summaries of `silent` are used.
    """

    first: Exposition | None
    others: tuple[Exposition, ...] = ()
    silent: tuple[Exposition, ...] = ()


def summed(parts: Sources) -> Exposition:
    """Return the combined exposition of the epochs, in one step."""
    sums = Exposition()
    for _ in aggregate(sums, parts):
        pass
    return sums


def aggregate(sums: Exposition, parts: Sources) -> Iterator[None]:
    """Add up the epochs' expositions into `sums`, yielding between steps of `STEP` samples.

    Where sources disagree on a family's kind, the first source decides. The sources are not changed.
    """
    told = [*([] if parts.first is None else [parts.first]), *parts.others]
    families: dict[str, Family] = {}
    for exposition in (*told, *parts.silent):
        for name, family in exposition.families.items():
            families.setdefault(name, family)
    done = 0
    for name, family in families.items():
        talking = _same(told, family)
        if family.kind is Kind.COUNTER or family.kind in SUFFIXES:
            sums.families[name] = _counted(family, [*talking, *_same(parts.silent, family)])
        elif family.kind is Kind.GAUGE and SUMMED_GAUGES.search(name):
            if talking:
                sums.families[name] = Family(name, family.kind, family.help, _sum([each.samples for each in talking]))
        elif parts.first is not None and name in parts.first.families:
            sums.families[name] = parts.first.families[name]
        done += len(family.samples)
        if done >= STEP:
            done = 0
            yield


def combined(sources: Iterable[tuple[str, Exposition]]) -> tuple[list[Family], set[str]]:
    """Return families of all sources, and the names of sources with omitted families.

    A family is omitted if an earlier source has its name or the name of one of its samples.
    """
    families: list[Family] = []
    taken: set[str] = set()
    short: set[str] = set()
    for source, exposition in sources:
        for family in exposition.families.values():
            names = {family.name, *family.names()}
            if not taken.isdisjoint(names):
                short.add(source)
            elif family.samples:
                taken |= names
                families.append(family)
    return families, short


def _same(expositions: Iterable[Exposition], family: Family) -> list[Family]:
    found = (exposition.families.get(family.name) for exposition in expositions)
    return [each for each in found if each is not None and each.kind is family.kind]


def _counted(family: Family, parts: list[Family]) -> Family:
    if len(parts) == 1:
        return parts[0]
    name, kind = family.name, family.kind
    if kind is Kind.HISTOGRAM:
        return Family(name, kind, family.help, _histogram(name, [each.samples for each in parts]))
    samples = [each.samples for each in parts]
    if kind is Kind.SUMMARY:
        quantiles = {series: value for series, value in samples[0].items() if _is_quantile(name, series)}
        rest = [{series: value for series, value in each.items() if not _is_quantile(name, series)} for each in samples]
        return Family(name, kind, family.help, {**quantiles, **_sum(rest)})
    return Family(name, kind, family.help, _sum(samples))


def _is_quantile(name: str, series: str) -> bool:
    return series.startswith(name) and series[len(name) : len(name) + 1] in {"", "{", " "}


def _sum(parts: list[dict[str, Number | str]]) -> dict[str, Number | str]:
    """Add values up, series by series."""
    if not parts:
        return {}
    sums = dict(parts[0])
    for part in parts[1:]:
        alike = _alike(sums, part)
        for series, value in part.items():
            name = alike.get(series, series) if alike else series
            before = sums.get(name)
            sums[name] = value if before is None else number(before) + number(value)
    return sums


def _alike(sums: Samples, part: Samples) -> dict[str, str]:
    """Map series of `part` to series of `sums` that have the same labels in another order."""
    new = part.keys() - sums.keys()
    if not new or not any("," in series for series in new):
        return {}
    known = {_sorted(series): series for series in sums.keys() - part.keys()}
    return {series: known[key] for series in new if (key := _sorted(series)) in known}


def _sorted(series: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    name, _, labels = series.partition("{")
    return name.rstrip(), tuple(sorted(_LABEL.findall(labels)))


# Histograms


def _histogram(name: str, parts: list[dict[str, Number | str]]) -> dict[str, Number | str]:
    """Add histograms up; parts with identical series need no alignment of bounds."""
    if all(part.keys() == parts[0].keys() for part in parts[1:]):
        return _sum(parts)
    groups = [_groups(name, part) for part in parts]
    sums: dict[str, Number | str] = {}
    for labels in dict.fromkeys(labels for group in groups for labels in group):
        members = [group[labels] for group in groups if labels in group]
        sums.update(_aligned(members))
    return sums


@dataclass(slots=True)
class _Group:
    """One histogram of a family: bucket values and series by bound, and its other series."""

    buckets: dict[float, Number]
    series: dict[float, str]
    others: dict[str, Number | str]


def _groups(name: str, samples: Samples) -> dict[tuple[tuple[str, str], ...], _Group]:
    groups: dict[tuple[tuple[str, str], ...], _Group] = {}
    for series, value in samples.items():
        _, labels = _sorted(series)
        group = groups.setdefault(tuple(each for each in labels if each[0] != "le"), _Group({}, {}, {}))
        bound = _bound(labels) if series.startswith(f"{name}_bucket") else None
        if bound is None:
            group.others[series] = value
        else:
            group.buckets[bound], group.series[bound] = number(value), series
    return groups


def _bound(labels: Collection[tuple[str, str]]) -> float | None:
    try:
        return float(dict(labels)["le"])
    except (KeyError, ValueError):
        return None


def _aligned(members: list[_Group]) -> Iterable[tuple[str, Number | str]]:
    series = {bound: name for each in reversed(members) for bound, name in each.series.items()}
    bounds = sorted(series)
    totals: dict[float, Number] = dict.fromkeys(bounds, 0)
    for each in members:
        reached: Number = 0
        for bound in bounds:
            reached = each.buckets.get(bound, reached)
            totals[bound] += reached
    yield from ((series[bound], totals[bound]) for bound in bounds)
    yield from _sum([each.others for each in members]).items()
