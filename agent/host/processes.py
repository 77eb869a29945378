"""Starts, signals and reaps processes: always by pidfd, never by pid alone.

Processes are started from the main thread only, because the parent-death signal that Envoy sets is bound to the thread.
They get a clean environment, a session of their own, and only the named descriptors.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

import psutil

from agent.core.errors import MachineError, UsageError
from agent.host.limits import core_dumps_allowed

_STARTTIME = 19  # the 22nd field of /proc/<pid>/stat, counted from after the name, which may contain anything
_OUTPUT_LIMIT = 1 << 20
_FIRST_TO_GO = "1000"  # oom_score_adj, proc(5)
_REAP_TIMEOUT = 1.0  # seconds for a killed process to exit
_NOT_THEIRS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_LARGEST_ID = 2**32 - 2  # the next one means "unchanged" to the kernel


@dataclass(frozen=True, slots=True)
class User:
    """The user that a proxy runs as, if not the agent's own."""

    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "User":
        """Return the user with this name or number; a number without an entry is its group's number, too.

        Raises `UsageError` if there is none.
        """
        is_number = name.isascii() and name.isdecimal()
        try:
            entry = pwd.getpwuid(int(name)) if is_number else pwd.getpwnam(name)
        except (KeyError, OverflowError):
            if is_number and int(name) <= _LARGEST_ID:
                return cls(int(name), int(name))
            message = f"cannot run the proxy as {name}: there is no such user"
            raise UsageError(message) from None
        return cls(entry.pw_uid, entry.pw_gid)

    @property
    def owner(self) -> tuple[int, int]:
        """The uid and the gid, as chown expects them."""
        return self.uid, self.gid


Listening = Sequence[tuple[str, int]]
"""Sockets that a program gets as systemd passes them: names and descriptors, sd_listen_fds(3)."""

FIRST_PASSED = 3
"""The number of the first of them, SD_LISTEN_FDS_START."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run.

    `binary` is an open descriptor of the program, so that the examined file is the one that runs. `executable` is a
    path to it; without one, the descriptor's path in /proc is used.
    """

    binary: int
    arguments: Sequence[str]  # including the program's name
    descriptors: Collection[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: User | None = None
    executable: str | None = None
    output: int | None = None  # for stdout and stderr; None: the agent's own
    dumps_core: bool = False  # whether a crash dumps core, up to the hard limit
    listening: Listening = ()


class Process:
    """A running process, identified by its pidfd. Calls `on_exit` exactly once.

    The argument is the exit code, negative for a signal, or None for a process that is not our child.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        on_exit: Callable[[int | None], None],
        child: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        """Own a pidfd; use `start` or `adopt` instead."""
        self.pid = pid
        self._pidfd = pidfd
        self._child = child
        self._on_exit = on_exit
        _own[pid] = self
        asyncio.get_running_loop().add_reader(self._pidfd, self.reap)

    @classmethod
    def start(cls, command: Command, on_exit: Callable[[int | None], None]) -> Self:
        """Start a command. Raises `MachineError`."""
        child = _spawn(command)
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError as error:
            child.kill()
            child.wait()
            message = f"cannot supervise {command.arguments[0]}: {error.strerror}"
            raise MachineError(message) from error
        return cls(child.pid, pidfd, on_exit, child)

    @classmethod
    def adopt(cls, pid: int, created: int, on_exit: Callable[[int | None], None]) -> Self:
        """Supervise a running process that began at `created` (clock ticks since boot).

        Raises `MachineError` if it has exited.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            message = f"cannot adopt the process {pid}: {error.strerror}"
            raise MachineError(message) from error
        if created_at(pid) != created:  # checked after opening the pidfd: the pid cannot be reused any more
            os.close(pidfd)
            message = f"cannot adopt the process {pid}: the pid belongs to another process now"
            raise MachineError(message)
        return cls(pid, pidfd, on_exit)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; does nothing if the process has exited."""
        if self._pidfd == -1:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def reap(self) -> None:
        """Reap the process if it has exited, and call `on_exit`."""
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            self._ended(None)
            return
        if result is not None:
            self._ended(result.si_status if result.si_code == os.CLD_EXITED else -result.si_status)

    def _ended(self, code: int | None) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        _own.pop(self.pid, None)
        if self._child is not None:
            self._child.returncode = code  # subprocess must not wait for it too
        self._on_exit(code)


_own: dict[int, Process] = {}


def owner_of(pid: int) -> Callable[[], None] | None:
    """Return the function that reaps a child of this process at once; None if it has no owner."""
    process = _own.get(pid)
    return None if process is None else process.reap


def _spawn(command: Command) -> subprocess.Popen[bytes]:
    output = command.output
    executable = command.executable or f"/proc/self/fd/{command.binary}"
    environment = {**clean_environment(), **command.environment}
    listen = partial(_listen_and_execute, executable, command, environment) if command.listening else None
    try:
        with core_dumps_allowed() if command.dumps_core else contextlib.nullcontext():
            return subprocess.Popen(
                list(command.arguments),
                executable=executable,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(command.binary, *command.descriptors),
                start_new_session=True,  # no access to the agent's terminal: TIOCSTI could type into its shell
                user=None if command.user is None else command.user.uid,
                group=None if command.user is None else command.user.gid,
                extra_groups=None if command.user is None else [],
                preexec_fn=listen,  # noqa: PLW1509  # it only duplicates descriptors and executes
            )
    except OSError as error:
        message = f"cannot start {command.arguments[0]}: {error.strerror}"
        if error.errno == errno.EPERM and command.user is not None:
            message += f" to become uid {command.user.uid}: run the agent as root, or leave out --proxy-user"
        raise MachineError(message) from error


def _listen_and_execute(executable: str, command: Command, environment: Mapping[str, str]) -> None:
    """Execute a command that gets its sockets from descriptor 3 on; only the new process knows its own pid.

    If it cannot be executed, it returns: the caller's own attempt fails by the same reason, which it reports.
    """
    free = FIRST_PASSED + len(command.listening)
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD, free) for _, number in command.listening]
    for target, number in enumerate(moved, FIRST_PASSED):
        os.dup2(number, target)
        os.close(number)
    names = ":".join(name for name, _ in command.listening)
    passed = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(moved)), "LISTEN_FDNAMES": names}
    with contextlib.suppress(OSError):
        os.execve(executable, list(command.arguments), {**environment, **passed})  # noqa: S606  # the same program


async def run(command: Command, timeout: float) -> tuple[int, str]:
    """Run a short command until it exits; return its exit code and its output.

    The output goes to a memfd, not through a pipe. If memory runs out, the kernel kills this process first, because any
    serving process matters more. Raises `MachineError` if it runs longer than `timeout` seconds.
    """
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    try:
        process = Process.start(replace(command, output=output), ended.set_result)
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(_FIRST_TO_GO)
        try:
            code = await asyncio.wait_for(asyncio.shield(ended), timeout)
        finally:
            process.signal(signal.SIGKILL)
            await asyncio.wait([ended], timeout=_REAP_TIMEOUT)
        assert code is not None, "it is our own child"
        return code, os.pread(output, _OUTPUT_LIMIT, 0).decode(errors="replace")
    except TimeoutError:
        message = f"cannot wait for {' '.join(command.arguments[:2])}: it did not end within {timeout:g} s"
        raise MachineError(message) from None
    finally:
        os.close(output)


def clean_environment() -> dict[str, str]:
    """Return the agent's environment without the variables meant for the agent alone."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("AGENT_") and name not in _NOT_THEIRS
    }


def describe_exit(code: int | None) -> str:
    """Describe an exit code: `exited with 1`, `was killed by SIGKILL`."""
    if code is None:
        return "exited; its exit code is unknown, since an earlier agent started it"
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def own_pid() -> int:
    """Return the agent's own process ID."""
    return os.getpid()


def host_name() -> str:
    """Return the name of this machine, or of the pod or container."""
    return os.uname().nodename


def created_at(pid: int) -> int | None:
    """Return when a process began, which identifies it together with its pid; None if it exited.

    In clock ticks since boot (starttime, proc(5)): a date would shift by a second when the clock is corrected.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[_STARTTIME])


def boot() -> str:
    """Return the boot ID, within which pids and start times are valid; empty if unreadable."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def has_socket(pid: int, inodes: Collection[int]) -> bool | None:
    """Whether a process has one of these sockets open; None if the kernel denies access."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
        return any(_target(entry) in wanted for entry in entries)
    except OSError:
        return None


def connections_at(pid: int, ports: Collection[int]) -> int | None:
    """Count a process's TCP connections at these local ports; None if access is denied."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return None
    here = [each for each in connections if each.laddr.port in ports]
    return sum(each.status != psutil.CONN_LISTEN for each in here)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""  # closed since it was listed
