"""The files of a demonstration, without its processes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from agent.demo.authority import Authority
from agent.demo.environment import Environment
from agent.demo.journal import Log


@dataclass
class Place:
    """What a watch and a run see of an environment."""

    directory: Path
    authority: Authority = field(default_factory=Authority)
    stopped: int = 0

    def __post_init__(self) -> None:
        self.run_directory, self.certs, logs = (self.directory / name for name in ("run", "certs", "log"))
        for each in (self.run_directory, self.certs, logs):
            each.mkdir()
        self.log = Log(logs / "agent.log")
        self.log.path.touch()

    def as_environment(self) -> Environment:
        return cast("Environment", self)

    def writes_state(self, *epochs: tuple[int, str, int | None]) -> None:
        """Replace the agent's state."""
        trees = [{"number": number, "state": state, "pid": pid} for number, state, pid in epochs]
        (self.directory / "new").write_text(json.dumps({"epochs": trees}))
        (self.directory / "new").replace(self.run_directory / "state.json")

    def logs(self, name: str, body: str, severity: str = "INFO") -> None:
        """Append an event to the agent's log."""
        with self.log.path.open("a") as file:
            file.write(json.dumps({"eventName": name, "severityText": severity, "body": body}) + "\n")

    def stop_clients(self) -> None:
        self.stopped += 1
