"""Follows the agent's state and log, and the clients' reports."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.demo.captions import Captions, short, span
from agent.demo.environment import Environment
from agent.demo.journal import Entry, Epoch, read_state
from agent.demo.results import Results
from agent.demo.timeline import Timeline
from agent.host.inotify import Inotify


@dataclass(frozen=True, slots=True)
class Event:
    """An event in words, with its time in monotonic seconds."""

    at: float
    text: str


class Watch:
    """The current state of the demonstration. `tell` passes events to the listener."""

    def __init__(self, scene: Environment, listener: Callable[[Event], None]) -> None:
        self.scene = scene
        self.score = Results()
        self.timeline = Timeline()
        self.epochs: list[Epoch] = []
        self._story = Captions()
        self._listener = listener
        self._inotify: Inotify | None = None
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Watch the state and the log; without inotify they are read at each report or frame."""
        with contextlib.suppress(OSError):
            self._inotify = Inotify()
            self._inotify.arm([str(self.scene.run_directory)], [str(self.scene.log.path.parent)])
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._heard)

    def close(self) -> None:
        """Stop watching."""
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def tell(self, text: str) -> None:
        """Post an event that happens now."""
        self._listener(Event(time.monotonic(), text))

    async def until(self, holds: Callable[[], bool], timeout: float) -> None:
        """Wait until `holds` returns true, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()

    async def follow(self, reports: asyncio.StreamReader) -> None:
        """Read the clients' reports to the end; ignore the partial last line of clients that died."""
        while (line := await reports.readline()).endswith(b"\n"):
            for rotation in self.score.take(json.loads(line)):
                self.tell(f"serial {short(rotation.serial)} served {span(rotation.took or 0)} after it was written")
            self.look()

    def _heard(self) -> None:
        if self._inotify is not None:
            self._inotify.read()
        self.look()

    def look(self) -> None:
        """Read what is new in the state and the log."""
        self.epochs = read_state(self.scene.run_directory)
        self.timeline.observe(self.epochs, time.monotonic())
        for entry in self.scene.log.entries():
            self._take(entry)
        self._changed.set()

    def _take(self, entry: Entry) -> None:
        if entry.name == "epoch.serving":
            self.timeline.serves(entry.epoch, entry.serial)
        if text := self._story.words(entry):
            self.tell(text)
