"""How it is shown: what a screen and plain lines have in common."""

from collections.abc import Sequence
from typing import Protocol

from agent.demo.settings import Settings
from agent.demo.watch import Event, Watch


class View(Protocol):
    """Shows a play to a person. Moments are monotonic seconds."""

    def event(self, event: Event) -> None:
        """Show that something happened."""

    def began(self, at: float) -> None:
        """Count the time from this moment."""

    async def draw(self, settings: Settings, watch: Watch) -> None:
        """Show what changes all the time, until cancelled."""

    def close(self) -> None:
        """Show no more of that; harmless where nothing was shown."""

    def say(self, lines: Sequence[str], *, good: bool) -> None:
        """Print how it ended."""
