"""What an agent leaves behind that was killed for good: ended and removed, since nobody will adopt it."""

import contextlib
from collections.abc import Iterator

import psutil

from agent.handoff.segment import Segment
from agent.host.run_directory import RunDirectory
from agent.runtime.found import Found, find
from agent.runtime.journal import Journal

_END_TIMEOUT = 5.0


def clear(directory: RunDirectory) -> Iterator[tuple[int, int]]:
    """Kill the epochs that the state names, and remove what was theirs; give the number and pid of each that lived."""
    for entry in Journal(directory).inherited:
        number, base_id = entry.get("number"), entry.get("base_id")
        found = find(entry)
        pid = found.pid if isinstance(found, Found) else found
        if pid is not None:
            _kill(pid)
            yield int(str(number)), pid
        if isinstance(base_id, int):
            Segment(base_id).release()
        if isinstance(number, int):
            directory.remove_epoch(number)


def _kill(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        process.kill()
        process.wait(_END_TIMEOUT)
