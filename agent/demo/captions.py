"""Short captions for the agent's log events."""

import re

from agent.demo.journal import Entry

_PATH = re.compile(r"(?:/[^\s/:;,]+)+/([^\s/:;,]+)")
_PID = re.compile(r" \(pid \d+\)")
_SHOWN = 6  # digits of a serial, enough to distinguish serials
_TOLD_BY_OTHERS = {"certificate.caution"}  # about rotations, such as a certificate older than the one it replaces


def short(serial: str) -> str:
    """Return the first digits of a serial."""
    return serial[:_SHOWN]


def span(seconds: float) -> str:
    """Format a duration: `92 ms`, `1.20 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: `1 kill`, `2 kills`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class Captions:
    """Turns log entries into captions.

    It remembers the served serial: the clients report a new one when they first see it.
    """

    def __init__(self) -> None:
        self._serial = ""

    def words(self, entry: Entry) -> str:
        """Return an entry's caption; empty if it needs none."""
        match entry.name:
            case "epoch.serving":
                return self._serving(entry)
            case "service.down":
                return f"epoch {entry.epoch} has exited: clients wait in the accept queue, last good starts"
            case "agent.stopping" | "agent.gone":
                return ""
            case _ if entry.is_grave and entry.name not in _TOLD_BY_OTHERS:
                return f"the agent logs: {_clipped(entry.body)}"
        return ""

    def _serving(self, entry: Entry) -> str:
        before, self._serial = self._serial, entry.serial
        if before and before != entry.serial:
            return ""
        return f"epoch {entry.epoch} serves {'last good' if before else 'with'} serial {short(entry.serial)}"


def _clipped(body: str) -> str:
    """Return the sentence without its remedy, directories and process ids."""
    return _PID.sub("", _PATH.sub(r"\1", body.partition(";")[0]))
