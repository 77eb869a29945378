"""Counts clients that the kernel rejected at full accept queues (netstat in proc_net(5)).

ListenOverflows and ListenDrops count for this process's network namespace, including listeners of other programs. So an
unchanged count proves that the proxy lost no client; an increase proves only that some listener did.
"""

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_LONGEST = 20  # digits of a 64-bit counter


@dataclass(frozen=True, slots=True)
class ListenCounters:
    """The kernel's counters.

    `overflows`: connections to a full accept queue. `drops`: connections dropped for any reason, overflows included.
    """

    overflows: int
    drops: int

    def __sub__(self, earlier: "ListenCounters") -> "ListenCounters":
        """Return the increase since `earlier`."""
        return ListenCounters(self.overflows - earlier.overflows, self.drops - earlier.drops)


def read(*, proc: Path = PROC) -> ListenCounters | None:
    """Return the current counters; None if the kernel does not provide them."""
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
    """Parse the TcpExt lines: one has the names, the next the numbers."""
    rows = [row for line in text.splitlines() if (row := line.split()) and row[0] == "TcpExt:"]
    names, numbers = rows if len(rows) == 2 else ([], [])
    pairs = zip(names[1:], numbers[1:], strict=False)
    return {name: int(number) for name, number in pairs if number.isdecimal() and len(number) <= _LONGEST}
