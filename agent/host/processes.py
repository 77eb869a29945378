"""Starting processes, hearing of their deaths, and signalling them: always by pidfd, never by number alone.

Processes are started from the main thread only, because the parent-death signal that Envoy asks for follows the thread.
They get a clean environment, a process group of their own, and no descriptor but those named.
"""

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import psutil

from agent.core.errors import MachineError, UsageError
from agent.host.limits import core_dumps_allowed

_STARTTIME = 19  # the 22nd field of /proc/<pid>/stat, counted from behind the name, which may hold anything
_OUTPUT_LIMIT = 1 << 20
_FIRST_TO_GO = "1000"  # oom_score_adj, proc(5)
_REAP_TIMEOUT = 1.0  # for a process that was killed to be gone
_NOT_THEIRS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class User:
    """Whom a proxy runs as, where that is not the agent's own user."""

    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "User":
        """Look a user up, by name or number; raise `UsageError` if there is none."""
        try:
            entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        except (KeyError, OverflowError):
            message = f"cannot run the proxy as {name}: there is no such user"
            raise UsageError(message) from None
        return cls(entry.pw_uid, entry.pw_gid)

    @property
    def owner(self) -> tuple[int, int]:
        """Both numbers, as chown takes them."""
        return self.uid, self.gid


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `binary` is an open descriptor of the program, so that what was examined is what runs.

    `executable` is a path that leads to it; without one it is found by its number.
    """

    binary: int
    arguments: Sequence[str]  # with the program's name in front
    descriptors: Collection[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: User | None = None
    executable: str | None = None
    output: int | None = None  # for stdout and stderr; None: the agent's own
    dumps_core: bool = False  # where it crashes, as far as its hard limit allows


class Process:
    """A running process, known by its pidfd. `on_exit` hears of its end exactly once.

    It gets the exit code, negative for a signal, or None: that of a process which is no child of ours is not to be had.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        on_exit: Callable[[int | None], None],
        child: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        """Take over a pidfd; `start` and `adopt` are the ways in."""
        self.pid = pid
        self._pidfd = pidfd
        self._child = child
        self._on_exit = on_exit
        _own[pid] = self
        asyncio.get_running_loop().add_reader(self._pidfd, self.reap)

    @classmethod
    def start(cls, command: Command, on_exit: Callable[[int | None], None]) -> Self:
        """Run a command. Raises `MachineError`."""
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
        """Attend to a process that somebody else started, the one that began at `created` (clock ticks since boot).

        Raises `MachineError` if that one is gone.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            message = f"cannot adopt the process {pid}: {error.strerror}"
            raise MachineError(message) from error
        if created_at(pid) != created:  # asked once the pidfd holds the number: it cannot change hands any more
            os.close(pidfd)
            message = f"cannot adopt the process {pid}: it is another one by now"
            raise MachineError(message)
        return cls(pid, pidfd, on_exit)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it is dead already."""
        if self._pidfd == -1:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def reap(self) -> None:
        """Take its exit status, if it has one, and tell it."""
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
            self._child.returncode = code  # subprocess must never wait for it as well
        self._on_exit(code)


_own: dict[int, Process] = {}


def owner_of(pid: int) -> Callable[[], None] | None:
    """How to reap a child of this process here and now, through the one who attends to it; None: nobody does."""
    process = _own.get(pid)
    return None if process is None else process.reap


def _spawn(command: Command) -> subprocess.Popen[bytes]:
    output = command.output
    try:
        with core_dumps_allowed() if command.dumps_core else contextlib.nullcontext():
            return subprocess.Popen(
                list(command.arguments),
                executable=command.executable or f"/proc/self/fd/{command.binary}",
                env={**clean_environment(), **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(command.binary, *command.descriptors),
                start_new_session=True,  # not the agent's terminal: TIOCSTI would type into the shell that started it
                user=None if command.user is None else command.user.uid,
                group=None if command.user is None else command.user.gid,
                extra_groups=None if command.user is None else [],
            )
    except OSError as error:
        message = f"cannot start {command.arguments[0]}: {error.strerror}"
        raise MachineError(message) from error


async def run(command: Command, timeout: float) -> tuple[int, str]:
    """Run a short command to its end; return its exit code and what it printed.

    Its output goes to memory, not through a pipe. Where memory runs out it is the first that the kernel kills: what it
    was to say is worth less than anything that serves. Raises `MachineError` if it takes longer than `timeout` seconds.
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
    """The agent's environment without what is meant for the agent alone."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("AGENT_") and name not in _NOT_THEIRS
    }


def describe_exit(code: int | None) -> str:
    """An exit code in words: `exited with 1`, `was killed by SIGKILL`."""
    if code is None:
        return "ended; an earlier agent started it, so nobody knows how"
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def created_at(pid: int) -> int | None:
    """When a process began, which with its pid tells it from every other one; None: it is gone.

    In clock ticks since boot (starttime, proc(5)): a date would move by a second whenever the clock is corrected.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[_STARTTIME])


def boot() -> str:
    """Which boot of the machine this is: pids and start times begin anew with each. Empty where it is not told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def has_socket(pid: int, inodes: Collection[int]) -> bool | None:
    """Whether a process has one of these sockets open; None where the kernel does not let us look."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
        return any(_target(entry) in wanted for entry in entries)
    except OSError:
        return None


def connections_at(pid: int, ports: Collection[int]) -> int | None:
    """How many TCP connections a process has at these local ports; None where the kernel does not let us look."""
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
        return ""  # closed meanwhile
