"""Who listens in this network namespace, and who else holds the very same sockets."""

from collections.abc import Iterator
from pathlib import Path

LISTEN = "0A"


def listening(port: int) -> set[int]:
    """Return the inodes of the sockets that listen on a TCP port, IPv4 or IPv6 (proc_net_tcp)."""
    found: set[int] = set()
    for family in ("tcp", "tcp6"):
        table = Path("/proc/thread-self/net", family).read_text(encoding="ascii")
        rows = (line.split() for line in table.splitlines()[1:])
        found |= {int(row[9]) for row in rows if row[3] == LISTEN and row[1].endswith(f":{port:04X}")}
    return found


def sockets_of(pid: int) -> set[int]:
    """Return the inodes of the sockets that a process has open."""
    links = (link_of(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {int(link[8:-1]) for link in links if link.startswith("socket:[")}


def link_of(entry: Path) -> str:
    """Read a symbolic link of proc(5), empty when it is gone."""
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def holds(pid: int, port: int) -> bool:
    """Tell whether somebody listens on the port and the process holds every one of those sockets."""
    sockets = listening(port)
    return bool(sockets) and sockets <= sockets_of(pid)


def accepts(pid: int, port: int) -> bool:
    """Tell whether the process waits for clients at the port: one of its epolls watches a socket that listens there.

    A socket that it merely has does not count: that is how a candidate stands at its gate (proc_pid_fdinfo(5)).
    """
    inodes = {f"ino:{inode:x}" for inode in listening(port)}
    watched = (each for entry in Path(f"/proc/{pid}/fdinfo").iterdir() for each in watches(entry))
    return any(inodes & each for each in watched)


def watches(entry: Path) -> Iterator[set[str]]:
    """Read what an epoll watches, each as the words of its line; nothing for any other descriptor."""
    try:
        lines = entry.read_text(encoding="ascii").splitlines()
    except OSError:
        return iter(())
    return (set(line.split()) for line in lines if line.startswith("tfd:"))
