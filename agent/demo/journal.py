"""Reads the agent's state file and log, as an operator would."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CANDIDATE, SERVING, DRAINING = "candidate", "serving", "draining"
_SERIAL = re.compile(r"\bserial ([0-9a-f]+)")
_EPOCH = re.compile(r"\bepoch (\d+)")


@dataclass(frozen=True, slots=True)
class Epoch:
    """A living epoch: its number, its state in a word, and its pid once it has one."""

    number: int
    state: str
    pid: int | None


def read_state(run_directory: Path) -> list[Epoch]:
    """Return the epochs, oldest first; none before the agent has written its state."""
    try:
        epochs = json.loads((run_directory / "state.json").read_text())["epochs"]
    except OSError:
        return []
    return sorted((_epoch(each) for each in epochs), key=lambda each: each.number)


def in_state(epochs: list[Epoch], state: str) -> Epoch | None:
    """Return the newest epoch in a state that has a process."""
    return next((each for each in reversed(epochs) if each.state == state and each.pid), None)


def _epoch(tree: dict[str, Any]) -> Epoch:
    return Epoch(tree["number"], tree["state"], tree["pid"])


@dataclass(frozen=True, slots=True)
class Entry:
    """A log event: its dotted name, severity and sentence."""

    name: str
    severity: str
    body: str

    @property
    def is_grave(self) -> bool:
        """Whether its severity is above INFO."""
        return self.severity not in {"DEBUG", "INFO"}

    @property
    def epoch(self) -> int | None:
        """The first epoch that it names."""
        match = _EPOCH.search(self.body)
        return int(match[1]) if match else None

    @property
    def serial(self) -> str:
        """The first serial that it names, hexadecimal without leading zeros."""
        match = _SERIAL.search(self.body)
        return match[1].lstrip("0") if match else ""


class Log:
    """The agent's log (--log-format json), read incrementally; lines of the proxies are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def entries(self) -> list[Entry]:
        """Return the events since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [entry for line in whole.splitlines() if (entry := _entry(line)) is not None]

    def tail(self, lines: int) -> list[str]:
        """Return the last lines for an error message, with the agent's events as sentences."""
        raw = self.path.read_bytes().splitlines()[-lines:]
        read = [(_entry(line), line.decode(errors="replace")) for line in raw]
        return [line if entry is None else f"{entry.severity} {entry.body}" for entry, line in read]


def _entry(line: bytes) -> Entry | None:
    try:
        tree = json.loads(line)
        return Entry(tree["eventName"], tree["severityText"], tree["body"])
    except (ValueError, TypeError, KeyError):
        return None
