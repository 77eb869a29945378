"""A sandbox: network, ports, /dev/shm and directory of one test, and the check that it leaves no processes or files.

As root, a sandbox is a network namespace: its ports are free by construction and every process in it is ours. Without
root, it reserves a block of ports below the ephemeral range with a file lock, and identifies its processes by a mark
in their environment.
"""

import contextlib
import errno
import fcntl
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.eventually import PATIENCE, eventually
from tests.system.namespaces import may_have_networks, network_of, own_network

CELL = Path(__file__).with_name("sandbox.py")
MARK = "ROOM_OF_A_TEST"  # not AGENT_…, which would be an option of the agent
BLOCK = 50
Process = subprocess.Popen[bytes]


@dataclass
class Room:
    """The resources of one test."""

    directory: Path
    shm: Path
    first_port: int
    private: bool
    _taken: int = 0
    started: list[Process] = field(default_factory=list)

    def port(self) -> int:
        """Return an unused port of this sandbox."""
        return self.ports(1)

    def ports(self, count: int) -> int:
        """Return the first of this many consecutive unused ports."""
        first = self.first_port + self._taken
        self._taken += count
        assert self.private or self._taken <= BLOCK, "a room has room for few ports"
        return first

    def spawn(self, argv: Sequence[str | Path], *, log: Path, cell: Sequence[str] = ()) -> Process:
        """Start a program in this sandbox, with a /dev/shm of its own; both its outputs go to `log`."""
        launcher: list[str | Path] = [sys.executable, "-I", "-S", CELL, "--shm", self.shm, *cell, "--"]
        return self.spawn_bare([*launcher, *argv] if self.private else argv, log=log)

    def spawn_bare(self, argv: Sequence[str | Path], *, log: Path) -> Process:
        """Start a program in this sandbox and in its own session, by one exec; it shares the machine's /dev/shm."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
        environment = {**own, MARK: self.directory.name}
        with log.open("ab") as sink:
            process = Process(
                argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, env=environment
            )
        self.started.append(process)
        return process

    def processes(self) -> list[int]:
        """List the running processes of this sandbox, except the test's own; zombies do not count."""
        mine = network_of("thread-self") if self.private else None
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [pid for pid in pids if pid != os.getpid() and self._is_ours(pid, mine) and alive(pid)]

    def _is_ours(self, pid: int, network: str | None) -> bool:
        if network is not None:
            return network_of(pid) == network
        try:
            return f"{MARK}={self.directory.name}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def shared_memory(self) -> set[str]:
        """Return the names of Envoy's shared memory files visible in this sandbox."""
        return {path.name for path in self.shm.glob("envoy_shared_memory_*")}

    def sweep(self) -> list[int]:
        """Kill all processes that still run here and return the pids; reaps our own children."""
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=PATIENCE)
        return left


def alive(pid: int) -> bool:
    """Return whether `pid` runs (or is stopped): neither exited nor a zombie."""
    return state_of(pid) not in {"", "Z", "X"}


def state_of(pid: int | str) -> str:
    """Return the letter of proc(5) for a process, or for a thread as `pid/task/tid`; empty if it has exited."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


@contextmanager
def _port_block() -> Iterator[int]:
    """Reserve a block of ports below the ephemeral range during the block."""
    with ExitStack() as stack:
        for number in range(200):
            slot = (os.getpid() + number) % 200
            path = Path(tempfile.gettempdir()) / f"agent-test-ports-{os.getuid()}-{slot}"
            lock = stack.enter_context(path.open("w", encoding="ascii"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EACCES}:
                    raise
                continue
            yield 12_000 + slot * BLOCK
            return
        raise AssertionError("cannot take a block of ports: 200 of them are in use")


@contextmanager
def _private_room(directory: Path) -> Iterator[Room]:
    shm = Path(tempfile.mkdtemp(prefix="room-", dir="/dev/shm"))
    shm.chmod(0o1777)
    try:
        with own_network():
            yield Room(directory, shm, first_port=10_000, private=True)
    finally:
        shutil.rmtree(shm)


@contextmanager
def _shared_room(directory: Path) -> Iterator[Room]:
    with _port_block() as first_port:
        yield Room(directory, Path("/dev/shm"), first_port=first_port, private=False)


@contextmanager
def open_room(patience: float = PATIENCE) -> Iterator[Room]:
    """Yield a sandbox; check, at most `patience` seconds after the end, that no processes or files remain."""
    directory = Path(tempfile.mkdtemp(prefix="a", dir="/tmp"))
    directory.chmod(0o755)
    make = _private_room if may_have_networks() else _shared_room
    try:
        with make(directory) as room:
            before = room.shared_memory()
            try:
                yield room
                eventually(lambda: _left_clean(room, before), within=patience, what="nothing of the test is left")
            finally:
                room.sweep()
    finally:
        shutil.rmtree(directory)


def _left_clean(room: Room, before: set[str]) -> bool:
    processes = {pid: command_of(pid) for pid in room.processes()}
    assert not processes, f"processes left: {processes}"
    assert room.shared_memory() <= before, f"shared memory left: {room.shared_memory() - before}"
    assert not sockets_below(room.directory), f"sockets left: {sockets_below(room.directory)}"
    return True


def command_of(pid: int) -> str:
    """Return the command line of `pid`, empty if it has exited."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def runs(pid: int, program: Path) -> bool:
    """Return whether `pid` executes this file, by any name."""
    return Path(f"/proc/{pid}/exe").samefile(program)


def sockets_below(directory: Path) -> list[Path]:
    """List the Unix sockets below `directory`."""
    return [path for path in directory.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]


@contextmanager
def stopped(pid: int) -> Iterator[int]:
    """Stop a process (SIGSTOP), every thread of it, during the block; yield its pid."""
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: all_threads_stopped(pid), what=f"{pid} is stopped")
        yield pid
    finally:
        if alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def all_threads_stopped(pid: int) -> bool:
    """Return whether `pid` exists and none of its threads runs."""
    try:
        return all(state_of(f"{pid}/task/{task.name}") in {"T", "t"} for task in Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Death:
    """A SIGKILL, on the monotonic clock: when it was sent, and when the process had exited with all its sockets."""

    struck: float
    gone: float


def kill(pid: int) -> Death:
    """Kill any process, and wait for its exit: under load that takes tens of milliseconds."""
    pidfd = os.pidfd_open(pid)
    try:
        struck = time.monotonic()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], PATIENCE)
        return Death(struck, time.monotonic())
    finally:
        os.close(pidfd)
