"""The sockets that listen in this network namespace, and the processes that hold them."""

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
    """Read a symbolic link of proc(5), empty if it does not exist."""
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def holds(pid: int, port: int) -> bool:
    """Return whether sockets listen on the port and the process holds every one of them."""
    sockets = listening(port)
    return bool(sockets) and sockets <= sockets_of(pid)


def accepts(pid: int, port: int) -> bool:
    """Return whether the process accepts clients at the port: one of its epolls watches a socket that listens there.

    An open socket alone does not count: that is the state of a candidate at its gate (proc_pid_fdinfo(5)).
    """
    inodes = {f"ino:{inode:x}" for inode in listening(port)}
    watched = (each for entry in Path(f"/proc/{pid}/fdinfo").iterdir() for each in watches(entry))
    return any(inodes & each for each in watched)


def watches(entry: Path) -> Iterator[set[str]]:
    """Return the entries of an epoll, each as the words of its line; none for any other descriptor."""
    try:
        lines = entry.read_text(encoding="ascii").splitlines()
    except OSError:
        return iter(())
    return (set(line.split()) for line in lines if line.startswith("tfd:"))
