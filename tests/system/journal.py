"""Parses the agent's log (`--log-format json`); no other module knows the format."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRAVE = {"WARN", "ERROR", "CRITICAL"}


@dataclass(frozen=True)
class Entry:
    """One event: its name, severity, text and attributes."""

    name: str
    severity: str
    body: str
    attributes: dict[str, Any]

    @property
    def text(self) -> str:
        """The text and the attributes, for searching."""
        return f"{self.body} {json.dumps(self.attributes, default=str)}"


class Journal:
    """Reads the log of one agent, from the last `mark`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._from = 0

    def mark(self) -> None:
        """Ignore all events so far."""
        self._from = self.path.stat().st_size

    def entries(self) -> list[Entry]:
        """List the agent's events since the mark; lines of the proxies are skipped."""
        data = self.path.read_bytes()[self._from :]
        return [entry for line in data.splitlines() if (entry := _entry(line))]

    def named(self, name: str) -> list[Entry]:
        """List the events since the mark that have this name."""
        return [one for one in self.entries() if one.name == name]

    def complaints(self, word: str = "") -> list[Entry]:
        """List the warnings and errors since the mark that contain `word`."""
        return [one for one in self.entries() if one.severity in GRAVE and word.lower() in one.text.lower()]

    def bugs(self) -> list[Entry]:
        """List the agent's events `bug`, from the start."""
        self._from = 0
        return [one for one in self.entries() if one.name in {"bug", "asyncio"} and one.severity in GRAVE]

    def tail(self, lines: int = 40) -> str:
        """Return the last lines of the log, to show beside a failure."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def _entry(line: bytes) -> Entry | None:
    try:
        tree = json.loads(line)
    except ValueError:
        return None
    if not isinstance(tree, dict):
        return None
    known = {"eventName", "severityText", "body", "attributes"} <= tree.keys()
    return Entry(tree["eventName"], tree["severityText"], tree["body"], tree["attributes"]) if known else None
