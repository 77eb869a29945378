"""Namespaces for the processes of a cluster: when the first process is killed, all others, containers too, end with it.

The network is that of the calling thread. /run, /var/lib and /var/log are empty directories in memory; kernel settings
outside the network are read-only, and those that a kubelet would change are files with the values that it wants.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.system.eventually import PATIENCE, eventually

Process = subprocess.Popen[bytes]
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids", "systemd", "unified")

BEGIN = """
trap '' CHLD  # inherited by sleep: the kernel then reaps orphans
mount --make-rprivate /
for each in "$1" /run /var/lib /var/log; do
  mount -t tmpfs -o mode=755 tmpfs "$each"
done
for each in /proc/sys/kernel /proc/sys/vm; do mount --bind "$each" "$each"; mount -o remount,bind,ro "$each"; done
mkdir "$1/settings"
set -- "$1" vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000
directory=$1; shift
for each; do
  file=$directory/settings/$(basename "${each%=*}")
  echo "${each#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${each%=*}"
done
mount --make-rshared /
mkdir /run/lock /run/netns
: >"$directory/begun"
exec sleep infinity
"""
"""Process 1: mounts what is said above, and the directory $1 in memory."""


@dataclass
class Enclosure:
    """A pid and a mount namespace with one process that ends by SIGKILL only."""

    directory: Path
    logs: Path
    first: Process
    started: list[Process] = field(default_factory=list)

    def run(self, argv: Sequence[str | Path], environment: Mapping[str, str], name: str) -> Process:
        """Start a program in it; both its outputs go to a file of this name."""
        with (self.logs / f"{name}.log").open("ab") as sink:
            command = [*self._enter(), *argv]
            process = Process(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=dict(environment))
        self.started.append(process)
        return process

    def ask(self, argv: Sequence[str | Path], environment: Mapping[str, str], within: float = PATIENCE) -> str:
        """Run a program in it to its end, and return what it prints; AssertionError if it fails."""
        done = subprocess.run(
            [*self._enter(), *argv], capture_output=True, text=True, check=False, timeout=within, env=dict(environment)
        )
        assert done.returncode == 0, f"{argv}: {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def outside(self, path: Path) -> Path:
        """Return the path, for a process that is not in it, of a file that is."""
        return Path(f"/proc/{self._pid()}/root") / path.relative_to("/")

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._pid()}", "--mount", "--pid", "--wd=/", "--"]

    def _pid(self) -> int:
        """Return the outer pid of process 1, the child of unshare."""
        children = Path(f"/proc/{self.first.pid}/task/{self.first.pid}/children").read_text(encoding="ascii").split()
        assert len(children) == 1, f"unshare has the children {children}, and exited with {self.first.poll()}"
        return int(children[0])


@contextmanager
def open_enclosure(directory: Path, logs: Path) -> Iterator[Enclosure]:
    """Create the namespaces; at the end kill every process in them. `directory` is in memory, for them alone."""
    directory.mkdir()
    logs.mkdir()
    separate = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    first = Process([*separate, "sh", "-ec", BEGIN, "sh", str(directory)], stdin=subprocess.DEVNULL)
    enclosure = Enclosure(directory, logs, first)
    try:
        eventually(lambda: enclosure.outside(directory / "begun").exists(), what="the namespaces are there")
        yield enclosure
    finally:
        first.kill()
        for process in (first, *enclosure.started):
            process.wait(timeout=PATIENCE)


@contextmanager
def open_cgroups(name: str, parts: Iterable[str]) -> Iterator[str]:
    """Create a group, with parts, in each hierarchy of cgroup v1; remove them, with those below, at the end.

    Each kubelet needs one of its own: it kills the processes in groups of pods that it does not know.
    """
    groups = [CGROUPS / controller / name for controller in CONTROLLERS if (CGROUPS / controller).is_dir()]
    try:
        for group in groups:
            for each in (group, *(group / part for part in parts)):
                each.mkdir()
                _inherit_cpus(each)
        yield f"/{name}"
    finally:
        for group in groups:
            eventually(partial(_removed, group), what=f"{group} is removed")


def _inherit_cpus(group: Path) -> None:
    """Give a group of cpuset what its parent has; it can contain no process before."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists():
            (group / name).write_text((group.parent / name).read_text(encoding="ascii"), encoding="ascii")


def _removed(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        Path(directory).rmdir()  # EBUSY while a killed process is still in it
    with contextlib.suppress(FileNotFoundError):
        group.rmdir()
    return not group.exists()
