"""The values read from one segment or summed over all of them."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Values by name; each was current at some moment of the read, not all at the same one."""

    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    """The number of names for which there was no room."""
    texts: dict[str, str] = field(default_factory=dict)
    """Text readouts; a segment has none, a server adds its own."""
