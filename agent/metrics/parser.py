"""Parses metrics in Prometheus text format (0.0.4) and OpenMetrics (1.0) into `Exposition`.

Families are named as in the older format, where a counter's family has the name of its samples. OpenMetrics features
are mapped to it: `info`, `stateset` and the parts of a `gaugehistogram` become gauges; units and creation times are
dropped. An invalid line is omitted and counted; it affects no other line.

https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

Number = int | float
STEP = 64 << 10
"""Bytes that are parsed at once: a few milliseconds of work."""


class Kind(StrEnum):
    """The metric types of the older format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    UNTYPED = "untyped"


SUFFIXES = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count"), Kind.SUMMARY: ("", "_sum", "_count")}
"""Suffixes that a family's samples add to its name; other kinds add none."""

_PARTS = {"gaugehistogram": ("_bucket", "_gsum", "_gcount"), "info": ("_info",), "stateset": ("",)}
_CREATED = {"counter", "histogram", "summary"}
_KINDS = {**{kind.value: kind for kind in Kind}, "unknown": Kind.UNTYPED}

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*+"
_QUOTED = r'"[^"\\\n]*+(?:\\["\\n][^"\\\n]*+)*+"'
_LABEL = rf"[ \t]*+{_LABEL_NAME}[ \t]*+=[ \t]*+{_QUOTED}[ \t]*+"
_LABELS = rf"\{{(?:{_LABEL}(?:,{_LABEL})*+,?+)?+[ \t]*+\}}"
_EXEMPLAR = rf"\{{(?:{_LABEL_NAME}={_QUOTED}(?:,{_LABEL_NAME}={_QUOTED})*+)?+\}}"  # OpenMetrics has no blanks there
_REAL = r"[+-]?+(?:\d++(?:\.\d*+)?+(?:[eE][+-]?+\d++)?+|\.\d++(?:[eE][+-]?+\d++)?+)"
_VALUE = rf"(?:{_REAL}|[+-]?+(?i:inf(?:inity)?+)|(?i:nan))"  # as Go's ParseFloat: it refuses a NaN with a sign
# The groups: name, labels, value, rest of the line.
_SAMPLE = re.compile(rf"({_NAME})({_LABELS})?+[ \t]++({_VALUE})(?:[ \t]++([^\n]*+))?+", re.ASCII)
_COMMENT = re.compile(rf"#[ \t]++(HELP|TYPE)[ \t]++({_NAME})(?:[ \t]++(.*))?")
_MILLISECONDS = re.compile(r"-?\d{1,18}", re.ASCII)
# The groups: time, exemplar, its value, its time.
_SECONDS = re.compile(rf"({_REAL})?(?:[ \t]*(# {_EXEMPLAR} ({_VALUE})(?: ({_REAL}))?))?", re.ASCII)
_TIME_LIMIT = 1e15  # seconds; their milliseconds have 18 digits
_LABELED = re.compile(rf"({_LABEL_NAME})[ \t]*+=[ \t]*+{_QUOTED}")
_BLANK = re.compile(rf"({_QUOTED})|[ \t]++")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(slots=True)
class Family:
    """A metric family. `help` is escaped as in the older format.

    `samples` are keyed by series, a name with its labels as written; a value is a number or the text of one. `extras`
    holds, for series that have any, a time (in seconds) and an exemplar, as texts that may be empty.
    """

    name: str
    kind: Kind
    help: str = ""
    samples: dict[str, Number | str] = field(default_factory=dict)
    extras: dict[str, tuple[str, str]] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """Return the names that its samples may have."""
        return tuple(self.name + suffix for suffix in SUFFIXES.get(self.kind, ("",)))


@dataclass(slots=True)
class Exposition:
    """The parsed metrics of one source. `broken` counts omitted lines."""

    families: dict[str, Family] = field(default_factory=dict)
    broken: int = 0


def is_openmetrics(content_type: str) -> bool:
    """Return whether this Content-Type is OpenMetrics."""
    return content_type.strip().lower().startswith("application/openmetrics-text")


def read(text: bytes, *, openmetrics: bool = False) -> Exposition:
    """Parse a whole exposition at once."""
    exposition = Exposition()
    for _ in parse(exposition, text, openmetrics=openmetrics):
        pass
    return exposition


def parse(exposition: Exposition, text: bytes, *, openmetrics: bool = False) -> Iterator[None]:
    """Parse an exposition in steps of `STEP` bytes, yielding after each one."""
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
    """Return the value of a sample; whole numbers are exact up to 18 digits."""
    if not isinstance(text, str):
        return text
    return int(text) if text.isdecimal() and len(text) < 19 else float(text)


class _Reader:
    def __init__(self, exposition: Exposition, *, openmetrics: bool) -> None:
        self._exposition = exposition
        self._openmetrics = openmetrics
        self._owners: dict[str, Family] = {}  # by sample name
        self._declared: dict[str, tuple[Family, ...]] = {}  # by the name in HELP and TYPE comments
        self._helps: dict[str, str] = {}
        self._ignored = Family("", Kind.UNTYPED)
        self._labels: set[str] = set()  # known to be well-formed, without the opening brace

    def take(self, text: str) -> None:
        """Parse whole lines.

        Fast path: a whole number, under a name and labels that an earlier line had.
        """
        owners, known, broken = self._owners, self._labels, 0
        for line in text.split("\n"):
            series, _, value = line.rpartition(" ")
            name, brace, labels = series.partition("{")
            family = owners.get(name) if not brace or labels in known else None
            whole = value.isdecimal() and value.isascii() and len(value) < 19
            if family is None or series in family.samples or not whole:
                broken += not self._take(line)
            else:
                family.samples[series] = value
        self._exposition.broken += broken
        self._ignored.samples.clear()

    def _take(self, line: str) -> bool:
        """Parse one line of any kind; return whether it is valid."""
        line = line.lstrip(" \t")
        if (found := _SAMPLE.fullmatch(line)) is None:
            return self._take_comment(line) if line.startswith("#") else not line
        name, labels, value, rest = found.groups(default="")
        extras = self._extras(rest.rstrip(" \t")) if rest else ("", "")
        if extras is None or _overflows(value):
            return False
        compact = labels
        if labels[1:] not in self._labels:
            if _is_repetitive(labels):
                return False
            if (compact := _without_blanks(labels)) == labels:
                self._labels.add(labels[1:])
        family = self._owners.get(name) or self._untyped(name)
        series = name + compact
        if family is None or series in family.samples or (value[0] in "-nN" and _counts(family, name)):
            return False
        family.samples[series] = value
        if any(extras):
            family.extras[series] = extras
        return True

    def finish(self) -> None:
        """Set the help text of every family."""
        for declared, text in self._helps.items():
            families = self._declared.get(declared) or (self._exposition.families.get(declared),)
            for family in families:
                if family is not None:
                    family.help = text

    def _untyped(self, name: str) -> Family | None:
        """Add a family for a sample that none has declared; None if a family with other sample names has the name."""
        if name in self._exposition.families:
            return None
        family = Family(name, Kind.UNTYPED)
        self._owners[name] = self._exposition.families[name] = family
        return family

    def _extras(self, rest: str) -> tuple[str, str] | None:
        """Parse a time and, in OpenMetrics, an exemplar; return None if invalid."""
        if self._openmetrics:
            found = _SECONDS.fullmatch(rest)
            return (found[1] or "", found[2] or "") if found is not None and _is_in_range(found) else None
        return (_seconds(rest), "") if _MILLISECONDS.fullmatch(rest) else None

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
        """Handle a `# TYPE`; only the first one counts, and only before the samples."""
        families = tuple(self._families(name, told))
        owners = {each: family for family in families for each in family.names()}
        is_taken = any(family.name in self._exposition.families for family in families)
        if not families or is_taken or name in self._declared or not self._owners.keys().isdisjoint(owners):
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
    """Return whether samples of this name are counts, which must be numbers and not below 0."""
    if family.kind is Kind.COUNTER:
        return True
    return family.kind in SUFFIXES and name.endswith(("_bucket", "_count")) and name != family.name


def _is_repetitive(labels: str) -> bool:
    """Return whether a label name occurs twice; a metric's name is the label `__name__`."""
    if "," not in labels and "__name__" not in labels:
        return False
    names = ["__name__", *_LABELED.findall(labels)]
    return len(set(names)) < len(names)


def _without_blanks(labels: str) -> str:
    """Remove blanks around label names and values, which OpenMetrics does not allow."""
    return _BLANK.sub(r"\1", labels) if " " in labels or "\t" in labels else labels


def _overflows(value: str) -> bool:
    """Return whether a number is too large for a double, which Go's ParseFloat refuses."""
    return math.isinf(float(value)) and "n" not in value.lower()


def _is_in_range(found: re.Match[str]) -> bool:
    """Return whether the times of a sample and its exemplar, and the exemplar's value, can be represented."""
    times = [float(found[group] or 0) for group in (1, 4)]
    return all(abs(time) < _TIME_LIMIT for time in times) and not _overflows(found[3] or "0")


def _seconds(milliseconds: str) -> str:
    """Convert milliseconds to seconds, exactly."""
    sign, digits = ("-", milliseconds[1:]) if milliseconds[:1] == "-" else ("", milliseconds)
    digits = digits.rjust(4, "0")
    return f"{sign}{digits[:-3]}.{digits[-3:]}"


def _unescaped_quote(found: re.Match[str]) -> str:
    return '"' if found[1] == '"' else found[0]
