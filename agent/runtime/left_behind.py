"""What an agent leaves behind that was killed for good: ended and removed, since nobody will adopt it."""

from collections.abc import Iterator

from agent.handoff.segment import Segment
from agent.host.run_directory import RunDirectory
from agent.runtime.adoption import end
from agent.runtime.found import pid_of
from agent.runtime.journal import Journal


def clear(directory: RunDirectory) -> Iterator[tuple[int, int]]:
    """Kill the epochs that the state names, and remove what was theirs; give the number and pid of each that lived."""
    for entry in Journal(directory).inherited:
        number, base_id = entry.get("number"), entry.get("base_id")
        pid = pid_of(entry)
        if pid is not None:
            end(entry, pid)
            yield int(str(number)), pid
        if isinstance(base_id, int):
            Segment(base_id).release()
        if isinstance(number, int):
            directory.remove_epoch(number)
