"""Spans of time as operators write them: 45s, 10m, 1h30m, 250ms."""

from typing import Any

import click

from agent.quick.spans import seconds


class Span(click.ParamType[float]):
    """A positive span, in seconds once parsed."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Read a span; fail as click does, naming the option."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
