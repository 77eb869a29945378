"""Spans of time as operators write them: 45s, 10m, 1h30m, 250ms."""

import re
from typing import Any

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Span(click.ParamType[float]):
    """A positive span, in seconds once parsed."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Read a span; fail as click does, naming the option."""
        if isinstance(value, (int, float)):
            return float(value)
        text = str(value).strip()
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{text!r} is no span of time; write it like 45s, 10m, 1h30m or 250ms", param, ctx)
        seconds = float(sum(float(number) * _UNITS[unit] for number, unit in parts))
        if not seconds:
            self.fail(f"{text!r} is no time at all", param, ctx)
        return seconds
