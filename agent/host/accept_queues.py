"""Who waits in the accept queues, one by one (proc_net_tcp).

A length alone does not tell a queue that stands still from one in which as many come as go. A connection that no
process holds yet has no inode, and is established or already ended by its client; what a process has given up and the
kernel still closes has none either, but is in other states.
"""

from collections.abc import Collection
from pathlib import Path

PROC = Path("/proc")

_WAITING = frozenset({"01", "08"})  # ESTABLISHED, CLOSE_WAIT (include/net/tcp_states.h)


def clients(ports: Collection[int], *, proc: Path = PROC) -> frozenset[str]:
    """The clients that wait at these TCP ports of our network namespace, by names that no two share at a time.

    One that was reset while it waits stays in the queue, and is not told of.
    """
    wanted = {f"{port:04X}" for port in ports}
    return frozenset(name for table in ("tcp", "tcp6") for name in _waiting(proc / "net" / table, wanted))


def _waiting(table: Path, ports: Collection[str]) -> list[str]:
    """Name each by both its ends. The row: number, local, remote, state, …, the inode as its tenth field."""
    try:
        rows = [line.split(None, 10) for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [
        f"{row[1]}-{row[2]}"
        for row in rows
        if len(row) > 9 and row[9] == "0" and row[3] in _WAITING and row[1].rpartition(":")[2] in ports
    ]
