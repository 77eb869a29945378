"""The unit files that ship with the agent, as text for one program.

`systemd/` in the repository has the files; this package contains links to them, which a wheel turns into copies.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from agent.units import UNITS

_PROGRAM = "/usr/local/bin/agent"
"""The program in the files as they ship."""

_DROP_IN = "agent-notify-reload.conf"
_DROP_INS = tuple(f"{name}.d/notify-reload.conf" for name in UNITS if name.endswith(".service"))
_HEAD = "# Written by `agent systemd install`. For local changes: systemctl edit {unit}\n# SHA-256 of what follows: "
_DIRECTORY = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A file for a directory of units. `name` is relative to that directory."""

    name: str
    text: str

    @property
    def unit(self) -> str:
        """The unit that the file belongs to."""
        return self.name.partition(".d/")[0]

    @property
    def signed(self) -> str:
        """The text below a head with its digest, by which a later run recognises an unchanged file."""
        return f"{_HEAD.format(unit=self.unit)}{_digest(self.text)}\n{self.text}"


def unit_files(program: Path, *, notify_reload: bool) -> list[UnitFile]:
    """Return the units that start this program, and the drop-ins for `Type=notify-reload` if wanted."""
    files = [UnitFile(name, _shipped(name).replace(_PROGRAM, str(program))) for name in UNITS]
    return files + [UnitFile(name, _shipped(_DROP_IN)) for name in _DROP_INS if notify_reload]


def all_names() -> list[str]:
    """Return the name of each file that an installation may have written."""
    return [*UNITS, *_DROP_INS]


def is_unchanged(name: str, text: str) -> bool:
    """Return whether a file of this name is as `agent systemd install` wrote it, or a copy of the one that ships."""
    if text == _shipped(name if name in UNITS else _DROP_IN):
        return True
    head = _HEAD.format(unit=UnitFile(name, "").unit)
    digest, newline, rest = text.removeprefix(head).partition("\n")
    return text.startswith(head) and bool(newline) and digest == _digest(rest)


def _shipped(name: str) -> str:
    return (_DIRECTORY / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
