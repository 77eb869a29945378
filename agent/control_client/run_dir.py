"""Finds an agent's run directory and reports which agent, if any, uses it."""

import os
import time

from agent.core.errors import MachineError

_CLOCKS = 2.0  # seconds by which the kernel's clock and a file's time may differ
_NAMES = 100  # names to try where other users own the first ones


class NoAgent(MachineError):
    """No agent answers at a run directory: it may not have started, or it has exited."""


def default() -> str:
    """Return the default: systemd's, /run, the user's own, or /dev/shm on a read-only root."""
    if (given := os.environ.get("RUNTIME_DIRECTORY")) is not None:
        return given.partition(":")[0]
    if os.access("/run", os.W_OK):
        return "/run/proxy-agent"
    if (own := os.environ.get("XDG_RUNTIME_DIR")) is not None and os.access(own, os.W_OK):
        return f"{own}/proxy-agent"
    return _first_own(f"/dev/shm/proxy-agent-{os.getuid()}")  # noqa: S108  # as the agent itself chooses


def _first_own(path: str) -> str:
    """Return the first of the names `path`, `path.1` … that is free or owned by this user.

    Any user may make a directory in /dev/shm. The agent and its clients skip the same names, so a client never uses a
    directory of another user.
    """
    for number in range(_NAMES):
        name = f"{path}.{number}" if number else path
        try:
            if os.lstat(name).st_uid == os.getuid():
                return name
        except OSError:
            return name
    message = f"cannot choose a run directory: other users have made {path} and {_NAMES - 1} more; choose a --run-dir"
    raise MachineError(message)


def is_trusted(user: int, directory: str) -> bool:
    """Return whether an agent of this uid is trusted here: root's, our own, or the owner's.

    The owner of the directory is trusted only if no user but root can have created it, as systemd does for a unit with
    `User=`.
    """
    if user in {0, os.geteuid()}:
        return True
    try:
        parent = os.stat(f"{directory}/..")  # noqa: PTH116  # as below
        return user == os.lstat(directory).st_uid and parent.st_uid == 0 and not parent.st_mode & 0o022
    except OSError:
        return False


def distrusted(user: int, directory: str) -> MachineError:
    """Return the error for an agent that is not trusted."""
    return MachineError(
        f"cannot trust the agent at {directory}: it runs as uid {user}, which is neither root nor you;"
        " run this as that user if you trust it"
    )


def chosen(given: str | None) -> str:
    """Return the run directory to use: `given`, AGENT_RUN_DIR or the default."""
    return given or os.environ.get("AGENT_RUN_DIR") or default()


def nobody_there(directory: str) -> MachineError:
    """Return the reason why no agent answers at this directory, from the files in it."""
    try:
        if "lock" not in os.listdir(directory):  # noqa: PTH208  # importing pathlib takes longer than all of this
            return _missing(directory, "it is no agent's run directory")
        holder = f"pid {_last_holder(directory) or 'unknown'}"
    except PermissionError:
        return forbidden(directory)
    except FileNotFoundError:
        return _missing(directory, "there is no such directory")
    except OSError as error:
        return _missing(directory, error.strerror or str(error))
    if _is_locked(f"{directory}/lock") or lives(directory):
        return NoAgent(f"cannot reach the agent at {directory}: it runs ({holder}), but does not accept commands yet")
    return NoAgent(f"cannot reach the agent at {directory}: the last one ({holder}) has exited; start one")


def forbidden(directory: str) -> MachineError:
    """Return the error for a denied permission."""
    return MachineError(
        f"cannot reach the agent at {directory}: permission denied; run this as root or as the agent's user"
    )


def _missing(directory: str, why: str) -> NoAgent:
    return NoAgent(f"cannot reach an agent at {directory}: {why}; start one, or name its directory with --run-dir")


def lives(directory: str) -> bool:
    """Return whether the last agent here still runs; in an upgrade it briefly drops the lock.

    A process that started after the lock was taken is another one that reuses the pid.
    """
    try:
        pid = _last_holder(directory)
        return pid.isdecimal() and _began(pid) <= os.stat(f"{directory}/lock").st_mtime + _CLOCKS  # noqa: PTH116  # as above
    except (OSError, ValueError, IndexError):
        return False


def _began(pid: str) -> float:
    """Return when a process started, in calendar seconds (starttime, proc(5))."""
    with open(f"/proc/{pid}/stat", "rb") as stat, open("/proc/uptime", "rb") as uptime:  # noqa: PTH123  # as above
        ticks = int(stat.read().rpartition(b")")[2].split()[19])
        return time.time() - float(uptime.read().split()[0]) + ticks / os.sysconf("SC_CLK_TCK")


def _last_holder(directory: str) -> str:
    with open(f"{directory}/lock", "rb") as file:  # noqa: PTH123  # as above
        return file.read(32).decode(errors="replace").strip()


def _is_locked(path: str) -> bool:
    """Return whether a process holds the lock, from proc_locks(5).

    Trying to lock it could keep an agent from starting.
    """
    try:
        inode = f":{os.stat(path).st_ino} "  # noqa: PTH116  # as above
        with open("/proc/locks", encoding="ascii") as file:  # noqa: PTH123  # as above
            return any("FLOCK" in line and inode in line for line in file)
    except OSError:
        return False
