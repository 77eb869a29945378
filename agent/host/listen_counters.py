"""How many clients the kernel has turned away because an accept queue was full (netstat in proc_net(5)).

ListenOverflows and ListenDrops count for the whole network namespace of this process: a listener of any other program
in it counts as well. So no difference proves that the proxy lost nobody, and a difference says only that somebody did.
"""

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_LONGEST = 20  # digits: they are counters of 64 bits


@dataclass(frozen=True, slots=True)
class ListenCounters:
    """`overflows`: a client came to a full queue. `drops`: one was not taken for any reason, that one among them."""

    overflows: int
    drops: int

    def __sub__(self, earlier: "ListenCounters") -> "ListenCounters":
        """What was counted since."""
        return ListenCounters(self.overflows - earlier.overflows, self.drops - earlier.drops)


def read(*, proc: Path = PROC) -> ListenCounters | None:
    """What was counted up to now; None where the kernel does not tell."""
    try:
        text = (proc / "net/netstat").read_text(errors="replace")
    except OSError:
        return None
    counters = _tcp_extensions(text)
    try:
        return ListenCounters(counters["ListenOverflows"], counters["ListenDrops"])
    except KeyError:
        return None


def _tcp_extensions(text: str) -> dict[str, int]:
    """One line has the names, the next one the numbers, both behind the same word."""
    rows = [row for line in text.splitlines() if (row := line.split()) and row[0] == "TcpExt:"]
    names, numbers = rows if len(rows) == 2 else ([], [])
    pairs = zip(names[1:], numbers[1:], strict=False)
    return {name: int(number) for name, number in pairs if number.isdecimal() and len(number) <= _LONGEST}
