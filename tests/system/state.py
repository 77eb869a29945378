"""Parses the agent's state in `<run directory>/state.json`; no other module knows the format."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CANDIDATE, SERVING, DRAINING = "candidate", "serving", "draining"


@dataclass(frozen=True)
class Epoch:
    """One running epoch. `manifest` is the number of a descriptor."""

    number: int
    state: str
    stage: str
    pid: int
    revision: str
    manifest: int


@dataclass(frozen=True)
class State:
    """The agent's state at one moment."""

    agent_pid: int
    ready: bool
    epochs: tuple[Epoch, ...]
    wanted: str
    last_good: str
    next_epoch: int

    def among(self, state: str) -> list[Epoch]:
        """List the epochs in that state, oldest first."""
        return sorted((one for one in self.epochs if one.state == state), key=lambda one: one.number)


def read_state(run_dir: Path) -> State:
    """Read the state; OSError if there is none."""
    tree: dict[str, Any] = json.loads((run_dir / "state.json").read_text(encoding="utf-8"))
    return State(
        agent_pid=tree["agent"]["pid"],
        ready=tree["ready"],
        epochs=tuple(_epoch(one) for one in tree["epochs"] if one["pid"]),
        wanted=str(tree["wanted"]),
        last_good=str(tree["last_good"]),
        next_epoch=tree["next_epoch"],
    )


def _epoch(tree: dict[str, Any]) -> Epoch:
    return Epoch(
        number=tree["number"],
        state=tree["state"],
        stage=tree["stage"],
        pid=tree["pid"],
        revision=str(tree["revision"]),
        manifest=tree["manifest"]["descriptor"],
    )
