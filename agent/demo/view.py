"""The interface that the live screen and the plain view share."""

from collections.abc import Sequence
from typing import Protocol

from agent.demo.settings import Settings
from agent.demo.watch import Event, Watch


class View(Protocol):
    """Displays a run. Times are monotonic seconds."""

    def event(self, event: Event) -> None:
        """Display an event."""

    def began(self, at: float) -> None:
        """Set the start time."""

    async def draw(self, settings: Settings, watch: Watch) -> None:
        """Display the counts continuously, until cancelled."""

    def close(self) -> None:
        """End that display; harmless if it never began."""

    def say(self, lines: Sequence[str], *, good: bool) -> None:
        """Print the summary."""
