"""Checks read-only whether the program on disk could take over from the running agent."""

import json
import os
import sys
from typing import Any

from agent.core.errors import BadInput
from agent.host.binaries import find
from agent.host.processes import Command, run
from agent.inputs.revisions import RevisionStore
from agent.inputs.settings import Settings
from agent.processes.adoption import recover
from agent.processes.survivor import ADOPTED, Survivor
from agent.processes.survivor import find_survivor as find_epoch

VARIABLE = "AGENT_TRIAL"
"""The environment variable that makes a new program only perform this check."""


_TIMEOUT = 30.0  # seconds


async def run_program_on_disk() -> tuple[int, str]:
    """Run this agent's command line once more, as a dry run; return its exit code and output.

    Raises `MachineError` if it does not end in time.
    """
    own = {name: value for name, value in os.environ.items() if name.startswith("AGENT_")}
    interpreter = os.open(sys.executable, os.O_RDONLY | os.O_CLOEXEC)
    try:
        environment = {**own, VARIABLE: "1"}
        command = Command(interpreter, sys.orig_argv, environment=environment, executable=sys.executable)
        return await run(command, _TIMEOUT)
    finally:
        os.close(interpreter)


def dry_run(settings: Settings) -> str:
    """Read the state file and each epoch's revision as an adoption would; return a message.

    Raises `AgentError` if any of it cannot be read.
    """
    find(settings.proxy)
    revisions = RevisionStore()
    numbers = []
    for entry in _entries(settings):
        found = find_epoch(entry)
        if isinstance(found, Survivor):
            recover(settings.kind, found, revisions)
            numbers.append(found.number)
        elif found is not None and entry.get("stage") in ADOPTED:
            message = f"cannot take over epoch {entry.get('number')}: its entry in the state file is incompatible"
            raise BadInput(message)
    epochs = " and ".join(map(str, sorted(numbers)))
    return f"the new program can take over epoch {epochs}" if numbers else "the new program can take over"


def _entries(settings: Settings) -> list[dict[str, Any]]:
    path = settings.run_directory / "state.json"
    try:
        entries = json.loads(path.read_text())["epochs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"cannot read {path}: {error}"
        raise BadInput(message) from error
    return [entry for entry in entries if isinstance(entry, dict)]
