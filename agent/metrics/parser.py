"""Metrics as text: the format of Prometheus (0.0.4) and OpenMetrics (1.0), read line by line into one shape.

Families have the names of the older format here, where a counter's family is called as its samples are. What only
OpenMetrics knows is brought to that: `info` and `stateset` are gauges, so are the parts of a `gaugehistogram`; units
and times of creation are left out. A line that makes no sense is left out and counted; it spoils no other.

https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

Number = int | float
STEP = 64 << 10
"""Bytes that are read at once: a few milliseconds."""


class Kind(StrEnum):
    """What the older format knows."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    UNTYPED = "untyped"


SUFFIXES = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count"), Kind.SUMMARY: ("", "_sum", "_count")}
"""What is added to a family's name in those of its samples; nothing for the kinds that are not here."""

_PARTS = {"gaugehistogram": ("_bucket", "_gsum", "_gcount"), "info": ("_info",), "stateset": ("",)}
_CREATED = {"counter", "histogram", "summary"}
_KINDS = {**{kind.value: kind for kind in Kind}, "unknown": Kind.UNTYPED}

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL = r'[ \t]*+[a-zA-Z_][a-zA-Z0-9_]*+[ \t]*+=[ \t]*+"[^"\\\n]*+(?:\\["\\n][^"\\\n]*+)*+"[ \t]*+'
_LABELS = rf"\{{(?:{_LABEL}(?:,{_LABEL})*+,?+)?+[ \t]*+\}}"
_VALUE = r"[+-]?+(?:\d++(?:\.\d*+)?+(?:[eE][+-]?+\d++)?+|\.\d++(?:[eE][+-]?+\d++)?+|(?i:inf(?:inity)?+|nan))"
# Its series, its name, its labels, its value, and what comes after.
_SAMPLE = re.compile(rf"(({_NAME})({_LABELS})?+)[ \t]++({_VALUE})(?:[ \t]++([^\n]*+))?+")
_COMMENT = re.compile(rf"#[ \t]++(HELP|TYPE)[ \t]++({_NAME})(?:[ \t]++(.*))?")
_MILLISECONDS = re.compile(r"-?\d{1,18}")
_SECONDS = re.compile(rf"({_VALUE})?(?:[ \t]*(# {_LABELS} {_VALUE}(?: {_VALUE})?))?")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(slots=True)
class Family:
    """One family. `help` is escaped as in the older format.

    `samples` are by series, which is a name with its labels as they were written; a value is a number, or the text of
    one. `extras` are for series that have any: a time (in seconds) and an exemplar, texts that are empty for none.
    """

    name: str
    kind: Kind
    help: str = ""
    samples: dict[str, Number | str] = field(default_factory=dict)
    extras: dict[str, tuple[str, str]] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """What its samples may be called."""
        return tuple(self.name + suffix for suffix in SUFFIXES.get(self.kind, ("",)))


@dataclass(slots=True)
class Exposition:
    """What one source has told. `broken`: lines that are left out."""

    families: dict[str, Family] = field(default_factory=dict)
    broken: int = 0


def is_openmetrics(content_type: str) -> bool:
    """Whether this header tells of OpenMetrics."""
    return content_type.strip().lower().startswith("application/openmetrics-text")


def read(text: bytes, *, openmetrics: bool = False) -> Exposition:
    """Read a whole exposition at once."""
    exposition = Exposition()
    for _ in parse(exposition, text, openmetrics=openmetrics):
        pass
    return exposition


def parse(exposition: Exposition, text: bytes, *, openmetrics: bool = False) -> Iterator[None]:
    """Read an exposition step by step: what iterates may do something else in between."""
    reader = _Reader(exposition, openmetrics=openmetrics)
    start = 0
    while start < len(text):
        end = text.rfind(b"\n", start, start + STEP)
        if end < start:
            end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        reader.take(text[start:end].decode(errors="replace"))
        start = end + 1
        yield
    reader.finish()


def number(text: Number | str) -> Number:
    """The value of a sample; whole numbers exactly, up to 18 digits."""
    if not isinstance(text, str):
        return text
    return int(text) if text.isdecimal() and len(text) < 19 else float(text)


class _Reader:
    def __init__(self, exposition: Exposition, *, openmetrics: bool) -> None:
        self._exposition = exposition
        self._openmetrics = openmetrics
        self._owners: dict[str, Family] = {}  # by what their samples are called
        self._declared: dict[str, tuple[Family, ...]] = {}  # by what comments call them
        self._helps: dict[str, str] = {}
        self._ignored = Family("", Kind.UNTYPED)
        self._labels: set[str] = set()  # that are known to be well-formed, from behind the brace

    def take(self, text: str) -> None:
        """Take whole lines. Most are whole numbers, under names and labels that another line has had already."""
        owners, known, broken = self._owners, self._labels, 0
        for line in text.split("\n"):
            series, _, value = line.rpartition(" ")
            name, brace, labels = series.partition("{")
            family = owners.get(name) if not brace or labels in known else None
            if family is None or series in family.samples or not (value.isdecimal() and value.isascii()):
                broken += not self._take(line)
            else:
                family.samples[series] = value
        self._exposition.broken += broken
        self._ignored.samples.clear()

    def _take(self, line: str) -> bool:
        """Take a line of whatever kind; return whether it makes sense."""
        if (found := _SAMPLE.fullmatch(line)) is None:
            return self._take_comment(line) if line.startswith("#") else not line.strip(" \t")
        series, name, labels, value, rest = found.groups()
        family = self._owners.get(name) or self._untyped(name)
        if series in family.samples or (value[0] in "-nN" and _counts(family, name)):
            return False
        family.samples[series] = value
        if labels is not None:
            self._labels.add(labels[1:])
        return not rest or self._take_rest(family, series, rest)

    def finish(self) -> None:
        """Say of each family what it is for."""
        for declared, text in self._helps.items():
            families = self._declared.get(declared) or (self._exposition.families.get(declared),)
            for family in families:
                if family is not None:
                    family.help = text

    def _untyped(self, name: str) -> Family:
        family = Family(name, Kind.UNTYPED)
        self._owners[name] = self._exposition.families[name] = family
        return family

    def _take_rest(self, family: Family, series: str, rest: str) -> bool:
        """Read a time, and in OpenMetrics an exemplar; what makes no sense costs the sample."""
        rest = rest.rstrip(" \t")
        if self._openmetrics:
            found = _SECONDS.fullmatch(rest)
            extras = None if found is None else (found[1] or "", found[2] or "")
        else:
            extras = (_seconds(rest), "") if _MILLISECONDS.fullmatch(rest) or not rest else None
        if extras is None:
            del family.samples[series]
            return False
        if any(extras):
            family.extras[series] = extras
        return True

    def _take_comment(self, comment: str) -> bool:
        found = _COMMENT.fullmatch(comment)
        if found is None:
            return True
        what, name, rest = found[1], found[2], found[3] or ""
        if what == "HELP":
            self._helps.setdefault(name, _ESCAPED.sub(_unescaped_quote, rest) if self._openmetrics else rest)
            return True
        return self._declare(name, rest.strip())

    def _declare(self, name: str, told: str) -> bool:
        """Take a `# TYPE`; the first one counts, and only before the samples."""
        families = tuple(self._families(name, told))
        owners = {each: family for family in families for each in family.names()}
        if not families or name in self._declared or not self._owners.keys().isdisjoint(owners):
            return False
        self._declared[name] = families
        self._owners.update(owners)
        self._exposition.families.update((family.name, family) for family in families)
        if self._openmetrics and told in _CREATED:
            self._owners.setdefault(f"{name}_created", self._ignored)
        return True

    def _families(self, name: str, told: str) -> Iterator[Family]:
        if self._openmetrics and told in _PARTS:
            yield from (Family(name + part, Kind.GAUGE) for part in _PARTS[told])
        elif self._openmetrics and told == Kind.COUNTER:
            yield Family(f"{name}_total", Kind.COUNTER)
        elif told in _KINDS:
            yield Family(name, _KINDS[told])


def _counts(family: Family, name: str) -> bool:
    """Whether a sample of this name counts something, so that it is a number and not below 0."""
    if family.kind is Kind.COUNTER:
        return True
    return family.kind in SUFFIXES and name.endswith(("_bucket", "_count")) and name != family.name


def _seconds(milliseconds: str) -> str:
    """Milliseconds as seconds, exactly."""
    sign, digits = ("-", milliseconds[1:]) if milliseconds[:1] == "-" else ("", milliseconds)
    digits = digits.rjust(4, "0")
    return f"{sign}{digits[:-3]}.{digits[-3:]}" if milliseconds else ""


def _unescaped_quote(found: re.Match[str]) -> str:
    return '"' if found[1] == '"' else found[0]
