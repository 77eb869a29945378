"""What the epochs have counted: each in a segment of its own, summed up here over the living and the gone."""

import logging
from collections.abc import Mapping
from pathlib import Path

from agent.core.errors import MachineError
from agent.host.log import log_event
from agent.host.run_directory import RunDirectory
from agent.stats.errors import InvalidSegment, Malformed, Unpublished, Unwritable
from agent.stats.layout import ENVIRONMENT
from agent.stats.reader import Segment
from agent.stats.segment_file import reserve
from agent.stats.snapshot import Snapshot
from agent.stats.totals import Totals

_MEMORY = "totals.json"
_SEGMENT = "stats"


class SharedCounters:
    """Keeps the totals, and keeps them in the run directory. Statistics that fail cost nothing but themselves."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._totals = _recall(directory)
        self._remembered = self._totals.to_state()

    def follow(self, epoch: int, home: Path) -> None:
        """Count what the epoch in this directory counts, if it counts here at all; harmless when repeated."""
        try:
            segment = Segment.open(home / _SEGMENT)
        except Unpublished:
            return  # it keeps its statistics to itself, as Envoy does
        except InvalidSegment as error:
            log_event(logging.WARNING, "stats.refused", f"{error}; what epoch {epoch} counts is left out")
            return
        try:
            self._totals.attach(epoch, segment)
        except InvalidSegment as error:
            segment.close()
            log_event(logging.WARNING, "stats.refused", f"{error}; what it counts is left out")

    def retire(self, epoch: int) -> None:
        """Look at an epoch a last time, while its directory is still there, and keep what it counted."""
        self._totals.retire(epoch)
        state = self._totals.to_state()
        if state == self._remembered:
            return
        try:
            self._directory.remember(state, _MEMORY)
            self._remembered = state
        except MachineError as error:
            log_event(logging.ERROR, "state.unwritable", f"{error}; an agent that comes back counts from less")

    def read(self) -> Snapshot:
        """The totals as of now: counters over all epochs ever, gauges of those that are there."""
        return self._totals.read()

    def gauges(self, epoch: int) -> Mapping[str, int]:
        """Those of one epoch, as of the last time that the totals were read."""
        return self._totals.gauges(epoch)

    def close(self) -> None:
        """Let go of the epochs that are there; what they count from now on is found by the next agent."""
        self._totals.close()


def make_room(home: Path, owner: tuple[int, int] | None) -> dict[str, str]:
    """Make the file that the epoch in this directory may count in; return the variable that names it.

    Where that is not possible there is a warning and no variable.
    """
    path = home / _SEGMENT
    try:
        reserve(path, owner)
    except Unwritable as error:
        log_event(logging.WARNING, "stats.unavailable", f"{error}; what this epoch counts is lost with it")
        return {}
    return {ENVIRONMENT: str(path)}


def _recall(directory: RunDirectory) -> Totals:
    state = directory.recall(_MEMORY)
    if not state:
        return Totals()
    try:
        return Totals.from_state(state)
    except Malformed as error:
        log_event(logging.WARNING, "stats.forgotten", f"{error}; counting begins at 0")
        return Totals()
