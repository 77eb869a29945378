"""Formats statistics like Envoy's /stats: as text, JSON and Prometheus.

A Prometheus name is what remains after Envoy's default tags have been extracted.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

from agent.epoch.admin_documents import JSON, text
from agent.http.message import Response
from agent.stats.snapshot import Snapshot
from agent.stats.tags import extracted

_FORMS = ("html", "active-html", "json", "prometheus", "text")
_USAGE = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n"
_KINDS = ("All", "Counters", "Histograms", "Gauges", "TextReadouts")

_Value = TypeVar("_Value", int, str)
_NO_NAME = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(frozen=True, slots=True)
class StatsFilter:
    """Selects statistics by the query parameters of /stats."""

    pattern: re.Pattern[str] | None = None
    inverted: bool = False
    used_only: bool = False
    kind: str = "All"

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> Self:
        """Parse a query; raises ValueError with the response text."""
        kind = asked.get("type", "All")
        if kind not in _KINDS:
            raise ValueError("invalid &type= param")
        pattern = asked.get("filter", "")
        try:
            compiled = re.compile(pattern) if pattern else None
        except (re.error, RecursionError, OverflowError) as error:
            message = f"Invalid re2 regex: {error}: {pattern}"
            raise ValueError(message) from error
        return cls(compiled, _is_set(asked, "invert_filter"), _is_set(asked, "usedonly"), kind)

    def counters(self, snapshot: Snapshot) -> dict[str, int]:
        """Return the selected counters; used means not zero."""
        if self.kind not in {"All", "Counters"}:
            return {}
        return {n: v for n, v in self._named(snapshot.counters) if v or not self.used_only}

    def gauges(self, snapshot: Snapshot) -> dict[str, int]:
        """Return the selected gauges; all count as used, since one that is 0 again has been used."""
        if self.kind not in {"All", "Gauges"}:
            return {}
        return dict(self._named(snapshot.gauges))

    def texts(self, snapshot: Snapshot) -> dict[str, str]:
        """Return the selected texts; used means not empty."""
        if self.kind not in {"All", "TextReadouts"}:
            return {}
        return {n: v for n, v in self._named(snapshot.texts) if v or not self.used_only}

    def _named(self, values: Mapping[str, _Value]) -> Iterable[tuple[str, _Value]]:
        pattern = self.pattern
        if pattern is None:
            return sorted(values.items())
        return sorted((n, v) for n, v in values.items() if (pattern.search(n) is None) is self.inverted)


def stats(snapshot: Snapshot, asked: Mapping[str, str]) -> Response:
    """Answer /stats with `filter`, `invert_filter`, `usedonly`, `type`, and `format`.

    The formats `html` and `active-html` are answered as text.
    """
    form = asked.get("format", "text")
    if form not in _FORMS:
        return text(_USAGE, 400)
    if form == "prometheus":
        return prometheus(snapshot, asked)
    try:
        chosen = StatsFilter.of(asked)
    except ValueError as error:
        return text(str(error), 400)
    texts = chosen.texts(snapshot)
    values = sorted({**chosen.counters(snapshot), **chosen.gauges(snapshot)}.items())
    if form == "json":
        listed = [{"name": name, "value": value} for name, value in (*texts.items(), *values)]
        return text(json.dumps({"stats": listed}, separators=(",", ":")), content_type=JSON)
    shown = (*((name, f'"{value}"') for name, value in texts.items()), *values)
    return text("".join(f"{name}: {value}\n" for name, value in shown))


def prometheus(snapshot: Snapshot, asked: Mapping[str, str]) -> Response:
    """Answer /stats/prometheus with `filter`, `invert_filter`, and `usedonly`; ignores `type`."""
    try:
        chosen = StatsFilter.of({name: value for name, value in asked.items() if name != "type"})
    except ValueError as error:
        return text(str(error), 400)
    counters = _families(chosen.counters(snapshot), "counter")
    return text("".join([*counters, *_families(chosen.gauges(snapshot), "gauge")]))


def _families(values: Mapping[str, int], kind: str) -> Iterable[str]:
    families: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, value in values.items():
        bare, labels = extracted(name)
        families[bare].append((labels, value))
    for bare, members in sorted(families.items()):
        family = f"envoy_{_NO_NAME.sub('_', bare)}"
        yield f"# TYPE {family} {kind}\n"
        for labels, value in members:
            yield f"{family}{{{labels}}} {value}\n"


def _is_set(asked: Mapping[str, str], flag: str) -> bool:
    """Return whether a flag is present, whatever its value."""
    return flag in asked
