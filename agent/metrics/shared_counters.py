"""Sums the counters of live and exited epochs, each in its own shared-memory segment."""

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
    """Keeps the totals, in memory and in the run directory.

    A failure here is logged and affects only the statistics.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._totals = _recall(directory)
        self._remembered = self._totals.to_state()

    def follow(self, epoch: int, home: Path) -> None:
        """Start counting the epoch in this directory, if it has a segment; safe to repeat."""
        try:
            segment = Segment.open(home / _SEGMENT)
        except Unpublished:
            return  # it counts privately, as Envoy does
        except InvalidSegment as error:
            log_event(logging.WARNING, "stats.refused", f"{error}; the counters of epoch {epoch} are ignored")
            return
        try:
            self._totals.attach(epoch, segment)
        except InvalidSegment as error:
            segment.close()
            log_event(logging.WARNING, "stats.refused", f"{error}; its counters are ignored")

    def retire(self, epoch: int) -> None:
        """Read an epoch a last time, before its directory is removed, and save its counts."""
        self._totals.retire(epoch)
        state = self._totals.to_state()
        if state == self._remembered:
            return
        try:
            self._directory.remember(state, _MEMORY)
            self._remembered = state
        except MachineError as error:
            log_event(logging.ERROR, "state.unwritable", f"{error}; a restarted agent loses these counters")

    def read(self) -> Snapshot:
        """Return the current totals: counters over all epochs ever, gauges of the live ones."""
        return self._totals.read()

    def gauges(self, epoch: int) -> Mapping[str, int]:
        """Return one epoch's gauges, as of the last read of the totals."""
        return self._totals.gauges(epoch)

    def close(self) -> None:
        """Close the segments of live epochs; the next agent reads what they count from now on."""
        self._totals.close()


def make_room(home: Path, owner: tuple[int, int] | None) -> dict[str, str]:
    """Create the segment file of the epoch in this directory; return the variable that names it.

    If that fails, logs a warning and returns no variable.
    """
    path = home / _SEGMENT
    try:
        reserve(path, owner)
    except Unwritable as error:
        log_event(logging.WARNING, "stats.unavailable", f"{error}; this epoch's counters are lost when it exits")
        return {}
    return {ENVIRONMENT: str(path)}


def _recall(directory: RunDirectory) -> Totals:
    state = directory.recall(_MEMORY)
    if not state:
        return Totals()
    try:
        return Totals.from_state(state)
    except Malformed as error:
        log_event(logging.WARNING, "stats.forgotten", f"{error}; counters start at 0")
        return Totals()
