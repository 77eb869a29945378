"""What the agent tells everybody: its state and its log, read as an operator would read them."""

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
    """One epoch that is alive: its number, its state in a word, and its process once it has one."""

    number: int
    state: str
    pid: int | None


def read_state(run_directory: Path) -> list[Epoch]:
    """The epochs alive, oldest first; none while the agent has not written anything."""
    try:
        epochs = json.loads((run_directory / "state.json").read_text())["epochs"]
    except OSError:
        return []
    return sorted((_epoch(each) for each in epochs), key=lambda each: each.number)


def in_state(epochs: list[Epoch], state: str) -> Epoch | None:
    """The newest of the epochs in a state that has a process."""
    return next((each for each in reversed(epochs) if each.state == state and each.pid), None)


def _epoch(tree: dict[str, Any]) -> Epoch:
    return Epoch(tree["number"], tree["state"], tree["pid"])


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the log: its dotted name, how grave it is, and its sentence."""

    name: str
    severity: str
    body: str

    @property
    def is_grave(self) -> bool:
        """Whether it is more than information."""
        return self.severity not in {"DEBUG", "INFO"}

    @property
    def epoch(self) -> int | None:
        """The epoch that it names first."""
        match = _EPOCH.search(self.body)
        return int(match[1]) if match else None

    @property
    def serial(self) -> str:
        """The serial that it names first, in hexadecimal without zeros in front."""
        match = _SERIAL.search(self.body)
        return match[1].lstrip("0") if match else ""


class Log:
    """The agent's log (--log-format json), read on from where it was left. Lines of the proxies are passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def entries(self) -> list[Entry]:
        """The events since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [entry for line in whole.splitlines() if (entry := _entry(line)) is not None]

    def tail(self, lines: int) -> list[str]:
        """The last lines, to show when something went wrong: sentences where they are the agent's."""
        raw = self.path.read_bytes().splitlines()[-lines:]
        read = [(_entry(line), line.decode(errors="replace")) for line in raw]
        return [line if entry is None else f"{entry.severity} {entry.body}" for entry, line in read]


def _entry(line: bytes) -> Entry | None:
    try:
        tree = json.loads(line)
        return Entry(tree["eventName"], tree["severityText"], tree["body"])
    except (ValueError, TypeError, KeyError):
        return None
