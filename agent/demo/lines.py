"""The plain view: a line for each event, and one with the counts every second; for pipes, logs and small terminals."""

import asyncio
import time
from collections.abc import Sequence

import click

from agent.demo.captions import plural
from agent.demo.settings import Settings
from agent.demo.watch import Event, Watch

_INTERVAL = 1.0


class Lines:
    """Prints to standard output. Moments are told in seconds since the beginning."""

    def __init__(self) -> None:
        self._began: float | None = None

    def event(self, event: Event) -> None:
        """Print an event."""
        self._print(event.at, event.text)

    def began(self, at: float) -> None:
        """Count from here."""
        self._began = at

    async def draw(self, settings: Settings, watch: Watch) -> None:
        """Print the counts every second in which there were any."""
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
        """Nothing is open."""

    def say(self, lines: Sequence[str], *, good: bool) -> None:
        """Print the end."""
        del good
        click.echo()
        for line in lines:
            click.echo(line)

    def _print(self, at: float, text: str) -> None:
        since = 0.0 if self._began is None else max(0.0, at - self._began)
        click.echo(f"{since:7.1f} s  {text}")
