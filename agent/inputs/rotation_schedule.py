"""When a loaded revision may replace the serving one: rotation window and jitter."""

import logging
from datetime import timedelta

from agent.core.schedule import jitter_offset
from agent.host import clock
from agent.host.log import log_event
from agent.host.processes import host_name
from agent.inputs.revisions import LoadedRevision
from agent.inputs.settings import Settings
from agent.status.model import Blocked


class RotationSchedule:
    """Decides when a revision may serve. `blocked`: what the newest one waits for, if it waits."""

    def __init__(self, settings: Settings) -> None:
        self.blocked = Blocked.JITTER
        self._settings = settings
        self._instance = f"{host_name()}:{settings.run_directory}"
        self._seen: LoadedRevision | None = None
        self._is_stale = False
        self._not_before = float("-inf")

    def not_before(self, loaded: LoadedRevision) -> float:
        """Return the monotonic time when this revision may serve; stable while it is on disk."""
        if loaded is not self._seen or self._is_stale:
            first, self._seen, self._is_stale = self._seen is None, loaded, False
            self._not_before = float("-inf") if first else self._choose(loaded)
        return self._not_before

    def clock_stepped(self) -> None:
        """Recompute at the next call the time that was derived from the calendar."""
        self._is_stale = self._not_before != float("-inf")

    def _choose(self, loaded: LoadedRevision) -> float:
        now = clock.calendar().astimezone()
        moment = now + self._jitter(loaded)
        self.blocked = Blocked.JITTER
        if self._settings.window is not None:
            opened = self._settings.window.opens(moment)
            self.blocked = Blocked.WINDOW if opened > moment else Blocked.JITTER
            moment = opened
        wait = (moment - now).total_seconds()
        if wait <= 0:
            return float("-inf")
        why = "--rotate-window" if self.blocked is Blocked.WINDOW else "--jitter"
        text = f"revision {loaded.revision.name} starts at {moment:%Y-%m-%d %H:%M:%S%z} ({why})"
        log_event(logging.INFO, "rotation.later", text)
        return clock.monotonic() + wait

    def _jitter(self, loaded: LoadedRevision) -> timedelta:
        wanted = self._settings.jitter
        if wanted == 0:
            return timedelta()
        lives = [leaf.not_after - leaf.not_before for leaf in loaded.selection.leaves.values()]
        limit = None if wanted is None else timedelta(seconds=wanted)
        return jitter_offset(self._instance, min(lives, default=None), limit)
