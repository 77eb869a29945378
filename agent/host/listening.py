"""Where a process accepts connections, as the kernel tells (proc_net_tcp, and /proc/net/unix in proc_net(5))."""

from pathlib import Path

_LISTEN = "0A"
_ACCEPTS = 0x10000  # __SO_ACCEPTCON


def accepting(pid: int, besides: Path) -> set[int]:
    """The inodes of its listening sockets, but for Unix ones in the directory `besides`; what cannot be seen is not.

    Sockets of another network namespace than the process's own are not seen either.
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
        return ""  # closed meanwhile
