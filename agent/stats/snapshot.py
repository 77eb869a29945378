"""What a reader hands on: values by name, of one segment or of all of them."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Each value as it was at some moment during the read; of two values, one may be of a later moment."""

    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    """Names for which there was no room."""
