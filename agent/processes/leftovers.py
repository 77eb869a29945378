"""What an agent leaves behind that was killed for good: ended and removed, since nobody will adopt it."""

from collections.abc import Iterator

from agent.handoff.segment import Segment
from agent.host.run_directory import RunDirectory
from agent.processes import adoption
from agent.processes.state_file import StateFile


def kill_leftovers(directory: RunDirectory) -> Iterator[tuple[int, int]]:
    """Kill the epochs that the state names, and remove what was theirs; give the number and pid of each that lived."""
    state_file = StateFile(directory)
    if state_file.spare is not None:
        Segment(state_file.spare).release()
    for entry in state_file.inherited:
        number, pid = entry.get("number"), adoption.clear(entry)
        if pid is not None:
            yield int(str(number)), pid
        if isinstance(number, int):
            directory.remove_epoch(number)
