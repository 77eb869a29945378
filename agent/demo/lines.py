"""The plain view for pipes, logs, small terminals: a line per event, and counts each second."""

import asyncio
import time
from collections.abc import Sequence

import click

from agent.demo.captions import plural
from agent.demo.settings import Settings
from agent.demo.watch import Event, Watch

_INTERVAL = 1.0


class Lines:
    """Prints to standard output. Times are seconds since the start."""

    def __init__(self) -> None:
        self._began: float | None = None

    def event(self, event: Event) -> None:
        """Print an event."""
        self._print(event.at, event.text)

    def began(self, at: float) -> None:
        """Set the start time."""
        self._began = at

    async def draw(self, settings: Settings, watch: Watch) -> None:
        """Print the counts each second once requests are served."""
        del settings
        before, at = 0, time.monotonic()
        while True:
            await asyncio.sleep(_INTERVAL)
            watch.look()
            score, now = watch.score, time.monotonic()
            rate = (score.served - before) / (now - at)
            if score.served:
                text = f"{plural(score.served, 'request')}, {rate:,.0f} per second, failed: {score.failed}"
                self._print(now, text)
            before, at = score.served, now

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def say(self, lines: Sequence[str], *, good: bool) -> None:
        """Print the summary."""
        del good
        click.echo()
        for line in lines:
            click.echo(line)

    def _print(self, at: float, text: str) -> None:
        since = 0.0 if self._began is None else max(0.0, at - self._began)
        click.echo(f"{since:7.1f} s  {text}")
