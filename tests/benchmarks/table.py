"""The table of a benchmark: the agent beside a bare Envoy."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure of both, and its limit: the largest permitted ratio (for counts, the largest number)."""

    what: str
    agent: float
    bare: float
    bar: float
    counted: bool = False

    @property
    def ratio(self) -> float | None:
        """The ratio of the agent's figure to Envoy's; none for counts, whose limit is the number itself."""
        return None if self.counted else self.agent / self.bare

    @property
    def holds(self) -> bool:
        """Whether the figure is within its limit."""
        return (self.agent if self.ratio is None else self.ratio) <= self.bar

    def cells(self) -> tuple[str, ...]:
        """Return the row as text: seconds as milliseconds, counts unchanged."""
        if self.ratio is None:
            return (self.what, f"{self.agent:.0f}", f"{self.bare:.0f}", "", f"≤ {self.bar:.0f}", self._verdict())
        ms = (f"{span * 1000:.1f} ms" for span in (self.agent, self.bare))
        return (self.what, *ms, f"{self.ratio:.2f}", f"≤ {self.bar:.2f}", self._verdict())

    def _verdict(self) -> str:
        return "yes" if self.holds else "NO"


HEAD = ("", "agent", "bare Envoy", "ratio", "bar", "holds")


def drawn(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])
