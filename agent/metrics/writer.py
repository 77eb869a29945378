"""Writes families as text, in the Prometheus format (0.0.4) or as OpenMetrics (1.0).

In OpenMetrics a counter must be named `…_total`, and its family the same without the suffix. A counter of the older
format keeps its name in both formats, since dashboards use it: where it lacks the suffix, or where the shorter name is
another family's, it is written as of unknown type. Bucket bounds are written as OpenMetrics requires ("1.0").
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from agent.metrics.parser import SUFFIXES, Family, Kind, Number

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
STEP = 1_000
"""Samples that are written at once: a few milliseconds of work."""

_PLAIN_DIGITS = 6  # before the point; larger numbers have an exponent
_TOTAL, _CREATED = "_total", "_created"
_BOUND = re.compile(r'(?<=[{,])(le|quantile)="([^",}]+)"')  # never matches inside another label's value
_QUALITY = re.compile(r"\s*q\s*=\s*(\d(?:\.\d{0,3})?|\.\d{1,3})\s*", re.IGNORECASE)


def wants_openmetrics(accept: str) -> bool:
    """Return whether a client with this `Accept` prefers OpenMetrics (RFC 9110, 12.5.1)."""
    wishes = dict.fromkeys(("application/openmetrics-text", "text/plain"), 0.0)
    for part in accept.lower().split(","):
        kind, *parameters = part.split(";")
        if (kind := kind.strip()) in wishes and not any(_is_version_2(each) for each in parameters):
            wishes[kind] = max(wishes[kind], _quality(parameters))
    openmetrics, text = wishes.values()
    return openmetrics > 0 and openmetrics >= text


def _quality(parameters: Iterable[str]) -> float:
    return next((float(found[1]) for each in parameters if (found := _QUALITY.fullmatch(each))), 1.0)


def _is_version_2(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "version" and value.strip(' "').split(".")[0] not in {"0", "1"}


def format_families(families: Iterable[Family], *, openmetrics: bool) -> Iterator[bytes]:
    """Write families as text, yielding in parts of about `STEP` lines."""
    known = {family.name: family for family in families}
    lines: list[str] = []
    for family in known.values():
        lines += _open(family, known) if openmetrics else _older(family)
        if len(lines) >= STEP:
            yield "".join(lines).encode()
            lines.clear()
    if openmetrics:
        lines.append("# EOF\n")
    yield "".join(lines).encode()


def _older(family: Family) -> Iterator[str]:
    if family.help:
        yield f"# HELP {family.name} {family.help}\n"
    yield f"# TYPE {family.name} {family.kind.value}\n"
    if not family.extras:
        yield from (f"{series} {_value(value)}\n" for series, value in family.samples.items())
        return
    for series, value in family.samples.items():
        time, _ = family.extras.get(series, ("", ""))
        milliseconds = f" {round(float(time) * 1000)}" if time else ""
        yield f"{series} {_value(value)}{milliseconds}\n"


def _open(family: Family, known: Mapping[str, Family]) -> Iterator[str]:
    name, kind = family.name, family.kind.value
    if _is_creation(family, known):
        return
    if family.kind is Kind.COUNTER:
        name, kind = _counter(name, known)
    if family.kind is Kind.UNTYPED:
        kind = "unknown"
    if family.help:
        text = family.help.replace('"', '\\"')
        yield f"# HELP {name} {text}\n"
    yield f"# TYPE {name} {kind}\n"
    bounded = family.kind in SUFFIXES
    for series, value in family.samples.items():
        label = _with_canonical_bound(series) if bounded else series
        yield f"{label} {_value(value)}{_extras(family, series, kind) if family.extras else ''}\n"


def _counter(name: str, known: Mapping[str, Family]) -> tuple[str, str]:
    """Return the OpenMetrics name and type of a counter's family."""
    shorter = name.removesuffix(_TOTAL)
    beside = known.get(shorter + _CREATED)
    if shorter == name or shorter in known or (beside is not None and not _is_creation(beside, known)):
        return name, "unknown"
    return shorter, "counter"


def _is_creation(family: Family, known: Mapping[str, Family]) -> bool:
    """Return whether a family is, or looks like, the creation times of another one."""
    base = family.name.removesuffix(_CREATED)
    if base == family.name:
        return False
    counter, other = known.get(base + _TOTAL), known.get(base)
    if other is not None and other.kind in SUFFIXES:
        return True
    return counter is not None and counter.kind is Kind.COUNTER and family.kind is Kind.GAUGE


def _extras(family: Family, series: str, kind: str) -> str:
    time, exemplar = family.extras.get(series, ("", ""))
    takes = kind == "counter" or (kind == "histogram" and series.startswith(f"{family.name}_bucket"))
    return (f" {time}" if time else "") + (f" {exemplar}" if exemplar and takes else "")


def _value(value: Number | str) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else in_go(value)


def _with_canonical_bound(series: str) -> str:
    name, brace, labels = series.partition("{")
    return name + _canonical(brace + labels) if brace else name


@lru_cache(maxsize=1 << 11)  # the same labels appear in many families
def _canonical(labels: str) -> str:
    return _BOUND.sub(_bound, labels)


def _bound(found: re.Match[str]) -> str:
    try:
        return f'{found[1]}="{in_go(float(found[2]))}"'
    except ValueError:
        return found[0]


def in_go(value: float) -> str:
    """Write a number in the form that Prometheus' own libraries use: 0.005, 1.0, 1e+06, +Inf."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    digits = text.find(".")
    if value < 0 or digits <= _PLAIN_DIGITS:
        return text
    mantissa = f"{text[0]}.{text[1:digits]}{text[digits + 1 :]}".rstrip("0.")
    return f"{mantissa}e+{digits - 1:02d}"
