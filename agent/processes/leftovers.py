"""Kills and removes the leftovers of a killed agent that will have no successor."""

from collections.abc import Iterator

from agent.host.run_directory import RunDirectory
from agent.processes import adoption
from agent.processes.state_file import StateFile


def kill_leftovers(directory: RunDirectory) -> Iterator[tuple[int, int]]:
    """Kill the recorded epochs and remove their resources; yield (number, pid) of those killed."""
    state_file = StateFile(directory)
    for segment in state_file.reserved:
        segment.release()
    for entry in state_file.inherited:
        number, pid = entry.get("number"), adoption.clear(entry)
        if not isinstance(number, int):
            continue  # an entry without a number must not keep the others alive
        if pid is not None:
            yield number, pid
        directory.remove_epoch(number)
