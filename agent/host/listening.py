"""Finds a process's listening sockets (proc_net_tcp, and /proc/net/unix in proc_net(5))."""

from pathlib import Path

_LISTEN = "0A"
_ACCEPTS = 0x10000  # __SO_ACCEPTCON


def accepting(pid: int, besides: Path) -> set[int]:
    """Return the inodes of a process's listening sockets, without Unix ones in `besides`.

    Sockets without read access, or of a network namespace other than the process's own, are missing.
    """
    net = Path(f"/proc/{pid}/net")
    listening = {inode for name in ("tcp", "tcp6") for inode in _tcp(net / name)} | _unix(net / "unix", besides)
    return listening & _sockets(pid)


def _tcp(table: Path) -> set[int]:
    return {int(row[9]) for row in _rows(table) if row[3] == _LISTEN}


def _unix(table: Path, besides: Path) -> set[int]:
    accept = [row for row in _rows(table) if int(row[3], 16) & _ACCEPTS]
    return {int(row[6]) for row in accept if len(row) < 8 or not Path(row[7]).is_relative_to(besides)}


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text(errors="surrogateescape").splitlines()[1:]]
    except OSError:
        return []


def _sockets(pid: int) -> set[int]:
    try:
        links = [_target(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return set()
    return {int(link[8:-1]) for link in links if link.startswith("socket:[")}


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""  # closed since it was listed
