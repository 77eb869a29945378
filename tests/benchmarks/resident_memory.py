"""The resident memory of an agent, as /proc shows it."""

from dataclasses import dataclass
from pathlib import Path

MB = 1e6


def field(text: str, name: str) -> int:
    """Return the number in the line `NAME: NUMBER` of a file in /proc."""
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


@dataclass(frozen=True)
class Memory:
    """The resident memory of a process, in MB.

    `share` is the proportional size (PSS): a page that several processes map counts for each in part, and this
    benchmark maps many of the agent's pages. `alone` is what it would be if only the agent and its proxy ran. `private`
    is the cost of one more agent beside others, `whole` (RSS) that of the only one.
    """

    private: float
    share: float
    alone: float
    whole: float

    @classmethod
    def of(cls, pid: int, proxy: int) -> "Memory":
        """Read the figures of a process beside its proxy (proc_pid_smaps of proc(5))."""
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        own, share, whole = (field(text, name) * 1024 / MB for name in ("Private_Dirty", "Pss", "Rss"))
        return cls(own, share, _alone(_mapped(pid), _mapped(proxy)) / MB, whole)


@dataclass
class Mapped:
    """The pages of one file in a process, or those of no file, in bytes; `dirty` ones are its own."""

    resident: int = 0
    dirty: int = 0


def _mapped(pid: int) -> dict[str, Mapped]:
    """Read the resident pages of a process by file; those of no file have names in brackets, or none."""
    found: dict[str, Mapped] = {}
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            name = " ".join(rest[4:])
        elif first == "Rss:":
            found.setdefault(name, Mapped()).resident += int(rest[0]) * 1024
        elif first == "Private_Dirty:":
            found[name].dirty += int(rest[0]) * 1024
    return found


def _alone(agent: dict[str, Mapped], proxy: dict[str, Mapped]) -> float:
    """Return the PSS of an agent if no third process maps its files: half of the clean pages that its proxy has too."""
    total = 0.0
    for name, one in agent.items():
        other = proxy.get(name) if name.startswith("/") else None
        both = 0 if other is None else min(one.resident - one.dirty, other.resident - other.dirty)
        total += one.resident - both / 2
    return total
