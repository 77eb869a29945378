"""The agent's events in the few words that fit on a screen."""

import re

from agent.demo.journal import Entry

_PATH = re.compile(r"(?:/[^\s/:;,]+)+/([^\s/:;,]+)")
_PID = re.compile(r" \(pid \d+\)")
_SHOWN = 6  # digits of a serial: enough to tell one from another
_TOLD_BY_OTHERS = {"certificate.caution"}  # of rotations: that what was garbage is not newer, and the like


def short(serial: str) -> str:
    """A serial as it is shown."""
    return serial[:_SHOWN]


def span(seconds: float) -> str:
    """A span of time: `92 ms`, `1.20 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def plural(count: int, noun: str) -> str:
    """`1 kill`, `2 kills`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class Captions:
    """Turns entries into words. It remembers what served: a new certificate is told by the clients that see it."""

    def __init__(self) -> None:
        self._serial = ""

    def words(self, entry: Entry) -> str:
        """What to say about an entry; empty if it is not worth a line here."""
        match entry.name:
            case "epoch.serving":
                return self._serving(entry)
            case "service.down":
                return f"epoch {entry.epoch} is dead: clients wait in the accept queue, last good starts"
            case "agent.stopping" | "agent.gone":
                return ""
            case _ if entry.is_grave and entry.name not in _TOLD_BY_OTHERS:
                return f"the agent says: {_clipped(entry.body)}"
        return ""

    def _serving(self, entry: Entry) -> str:
        before, self._serial = self._serial, entry.serial
        if before and before != entry.serial:
            return ""
        return f"epoch {entry.epoch} serves {'last good' if before else 'with'} serial {short(entry.serial)}"


def _clipped(body: str) -> str:
    """The sentence up to its remedy, without directories and numbers of processes."""
    return _PID.sub("", _PATH.sub(r"\1", body.partition(";")[0]))
