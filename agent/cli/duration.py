"""Parameter types for durations as operators write them: 45s, 10m, 1h30m, 250ms."""

import math
from typing import Any

import click

from agent.control_client.duration import seconds


class Span(click.ParamType):  # type: ignore[type-arg]  # click before 8.4 has no ParamType[...]
    """A duration, parsed to seconds: positive, or `0s` if `may_be_none`."""

    name = "span"

    def __init__(self, *, may_be_none: bool = False) -> None:
        self._may_be_none = may_be_none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Parse a duration; fail as click does, naming the option."""
        if isinstance(value, (int, float)):
            return float(value)
        if self._may_be_none and value in {"0", "0s"}:
            return 0.0
        try:
            return seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SpanOrAuto(click.ParamType):  # type: ignore[type-arg]  # click before 8.4 has no ParamType[...]
    """A duration, zero included, or `auto`, which is parsed to None."""

    name = "span or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:  # noqa: ANN401
        """Parse it; fail as click does, naming the option."""
        return None if value == "auto" else Span(may_be_none=True).convert(value, param, ctx)


class SpanOrOff(click.ParamType):  # type: ignore[type-arg]  # click before 8.4 has no ParamType[...]
    """A positive duration, or `off`, which is parsed to infinity."""

    name = "span or off"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Parse it; fail as click does, naming the option."""
        return math.inf if value == "off" else Span().convert(value, param, ctx)
