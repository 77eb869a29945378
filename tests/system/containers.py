"""Containers with the agent as process 1, created by unshare, runc or podman, each with the same few read-only mounts.

A container has the network of the test's sandbox and its own pid namespace, root file system and /dev. Mounted are the
system's programs, the interpreter with its packages, and the directory of the agent fixture.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import agent
from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import PATIENCE, eventually
from tests.system.room import Process, Room, alive
from tests.system.state import State

KINDS = ("unshare", "runc", "podman")
TERMINATION_LOG = "/dev/termination-log"
NO_RIGHTS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--clear-groups")
DEVICES = ("null", "zero", "urandom")
NAMESPACES = ("pid", "ipc", "uts", "mount")
LIMITS = ("--ulimit", "nofile=1024:20000", "--ulimit", "nproc=20000:20000", "--pids-limit", "20000")  # the maximum

BUILD = r"""
cd "$1"; shift
mount --bind . .; cd "$PWD"
while [ "$1" != -- ]; do
  mount --rbind "$2" ".$2"
  [ "$1" = rw ] || mount -o remount,bind,ro ".$2"
  shift 2
done
shift
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
for name in {devices}; do : >dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
mkdir dev/shm; mount -t tmpfs -o mode=1777 tmpfs dev/shm
[ -z "$LOG" ] || {{ : >.{log}; mount --bind "$LOG" .{log}; }}
mount -o remount,bind,ro .
exec chroot . "$@"
""".format(devices=" ".join(DEVICES), log=TERMINATION_LOG)
"""Creates a root of the directory $1 and of pairs `ro|rw PATH`, and executes the command after `--` in it."""


@dataclass
class Container:
    """One container of a kind. A `uid` other than 0 has no capability; `log` is its termination log."""

    kind: str
    room: Room
    writable: Path
    uid: int = 0
    log: Path | None = None
    more: Sequence[Path] = ()
    rootfs: Path = field(init=False)
    _init: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.rootfs = self.room.directory / "rootfs"
        self.rootfs.mkdir()
        self.name = self.room.directory.name
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.rootfs / name).symlink_to(f"usr/{name}")
        for path in (Path("/proc"), Path("/dev"), Path("/sys"), *(path for _, path in self.mounts())):
            (self.rootfs / path.relative_to("/")).mkdir(parents=True, exist_ok=True)

    def mounts(self) -> list[tuple[str, Path]]:
        """List the mounts, `ro` or `rw`; none is below another."""
        roots = {Path("/usr"), Path("/etc"), Path(sys.prefix), Path(sys.base_prefix), Path(agent.__file__).parents[1]}
        roots |= set(self.more)
        outermost = [one for one in roots if not any(one != other and one.is_relative_to(other) for other in roots)]
        return [*(("ro", path) for path in sorted(outermost)), ("rw", self.writable)]

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv` as process 1 and exits with its exit code."""
        return {"unshare": self._unshare, "runc": self._runc, "podman": self._podman}[self.kind](argv)

    def _unshare(self, argv: Sequence[str]) -> list[str]:
        words = [word for mode, path in self.mounts() for word in (mode, str(path))]
        drop = [*NO_RIGHTS, f"--reuid={self.uid}", f"--regid={self.uid}"] if self.uid else []
        fork = ["unshare", "--pid", "--ipc", "--uts", "--mount", "--fork", "--kill-child"]
        log = f"LOG={self.log or ''}"
        return ["env", log, *fork, "sh", "-ec", BUILD, "sh", str(self.rootfs), *words, "--", *drop, *argv]

    def _runc(self, argv: Sequence[str]) -> list[str]:
        bundle = self.room.directory / "bundle"
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self._specification(argv)), encoding="utf-8")
        return ["runc", "--root", str(self.room.directory / "runc"), "run", "-b", str(bundle), self.name]

    def _specification(self, argv: Sequence[str]) -> dict[str, object]:
        """The configuration of the OCI runtime specification."""
        rights = [] if self.uid else ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]
        binds = [(str(path), str(path), mode) for mode, path in self.mounts()]
        if self.log is not None:
            binds.append((str(self.log), TERMINATION_LOG, "rw"))
        shm = {"type": "tmpfs", "source": "shm", "destination": "/dev/shm", "options": ["mode=1777", "size=65536k"]}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": self.uid, "gid": self.uid},
                "args": list(argv),
                "env": [f"PATH={os.environ['PATH']}"],
                "cwd": "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), rights),
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.rootfs), "readonly": True},
            "mounts": [
                {"type": "proc", "source": "proc", "destination": "/proc"},
                {"type": "tmpfs", "source": "tmpfs", "destination": "/dev", "options": ["mode=755"]},
                shm,
                *({"type": "bind", "source": s, "destination": d, "options": ["rbind", m]} for s, d, m in binds),
            ],
            "linux": {"namespaces": [{"type": name} for name in NAMESPACES]},
        }

    def _podman(self, argv: Sequence[str]) -> list[str]:
        binds = [f"{path}:{path}:{mode}" for mode, path in self.mounts()]
        if self.log is not None:
            binds.append(f"{self.log}:{TERMINATION_LOG}:rw")
        rights = ["--cap-drop", "all"] if self.uid else []
        options = ["--rm", "--name", self.name, "--network", "host", "--read-only", "--user", f"{self.uid}:{self.uid}"]
        volumes = [word for bind in binds for word in ("-v", bind)]
        program = ["--rootfs", str(self.rootfs), *argv]
        return [*self._podman_itself(), "run", *options, *rights, *LIMITS, *volumes, *program]

    def _podman_itself(self) -> list[str]:
        places = [f"--{word}={self.room.directory / word}" for word in ("root", "runroot", "tmpdir")]
        return ["podman", "--runtime=runc", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", *places]

    def terminate(self) -> None:
        """Stop it as this kind of container is stopped: by SIGTERM to its process 1."""
        if self.kind == "unshare":
            os.kill(self.init(), signal.SIGTERM)
            return
        runc = ["runc", "--root", str(self.room.directory / "runc"), "kill", self.name, "TERM"]
        podman = [*self._podman_itself(), "kill", "--signal", "TERM", self.name]
        subprocess.run(runc if self.kind == "runc" else podman, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)

    def init(self) -> int:
        """Return the outer pid of its process 1; AssertionError if there is none."""
        if not self._init or not alive(self._init):
            found = [pid for pid, inside in self._inhabitants() if inside == 1]
            assert len(found) == 1, f"process 1 is one of {found}"
            self._init = found[0]
        return self._init

    def outside(self, inside: int) -> int:
        """Return the outer pid of a process of the container; 0 for one that has exited."""
        return next((pid for pid, number in self._inhabitants() if number == inside), 0)

    def _inhabitants(self) -> Iterator[tuple[int, int]]:
        for pid in self.room.processes():
            numbers = numbers_of(pid)
            if len(numbers) > 1:
                yield pid, numbers[-1]

    def enter(self, script: str, **streams: int) -> Process:
        """Run a shell in it, in its pid namespace only: process 1 inherits the shell's orphans."""
        argv = ["nsenter", f"--target={self.init()}", "--pid", "sh", "-c", script]
        process = Process(argv, stdout=subprocess.DEVNULL, start_new_session=True, **streams)  # type: ignore[call-overload]
        self.room.started.append(process)
        return process  # type: ignore[no-any-return]

    def children(self) -> dict[int, str]:
        """Return the children of its process 1, zombies too: the outer pid, and the letter of its state."""
        init = self.init()
        stats = ((int(entry.name), stat_of(entry)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return {pid: stat[0] for pid, stat in stats if stat[1:2] == [str(init)]}


def numbers_of(pid: int) -> list[int]:
    """Return the pids of a process, in this namespace first and in its own last; empty if it has exited."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return next(([int(word) for word in line.split()[1:]] for line in text.splitlines() if line[:6] == "NSpid:"), [])


def stat_of(process: Path) -> list[str]:
    """Return the words of proc_pid_stat(5) from the state on; none if the process has exited."""
    try:
        text = process.joinpath("stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


@dataclass
class ContainedInstance(AgentFixture):
    """An agent fixture whose agent is process 1 of a container; pids are the outer ones."""

    kind: str = "unshare"
    uid: int = 0
    log: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        program = self.binary.resolve().parent
        self.container = Container(self.kind, self.room, self.directory, self.uid, self.log, more=[program])
        self.run_dir.mkdir(mode=0o700)
        os.chown(self.run_dir, self.uid, self.uid)

    def launch(self) -> Process:
        """Start the container without waiting."""
        self.agent = self.room.spawn_bare(self.container.command(self.command()), log=self.journal.path)
        return self.agent

    @property
    def agent_pid(self) -> int:
        """The pid of the container's process 1."""
        return self.container.init()

    def state(self) -> State:
        """Return the agent's state file."""
        state = super().state()
        epochs = tuple(replace(epoch, pid=self.container.outside(epoch.pid)) for epoch in state.epochs)
        return replace(state, agent_pid=self.container.outside(state.agent_pid), epochs=epochs)

    def stop(self) -> None:
        """Stop the container; it must exit with 0 and leave no process."""
        if self.agent is None:
            return
        if self.agent.poll() is None:
            eventually(self.container.init, what="process 1")
            self.container.terminate()
        self.agent.wait(timeout=PATIENCE)
        super().stop()


def installed(kind: str) -> bool:
    """Return whether this kind of container works here."""
    wanted = {"unshare": ("unshare", "setpriv", "nsenter"), "runc": ("runc", "nsenter"), "podman": ("podman", "runc")}
    return all(shutil.which(name) for name in wanted[kind])
