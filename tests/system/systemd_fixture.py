"""The agent as a unit of a real systemd, booted over a temporary layer of this machine.

systemd runs in a container of systemd-nspawn, in the network of the test's sandbox; its root is an overlay over `/`
whose upper layer is a tmpfs, so that no file written there remains.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.bare import serial_served
from tests.system.bootstrap import Bootstrap, Secured
from tests.system.certificates import Mint, Pair, serial
from tests.system.eventually import PATIENCE, eventually
from tests.system.layouts import CHAIN, IN_PLACE, KEY
from tests.system.room import Process, Room, alive, command_of
from tests.system.state import SERVING, Epoch, State, read_state
from tests.system.wire import Target

PROJECT = Path(__file__).parents[2]
UNITS = PROJECT / "systemd"
UNIT = "agent.service"
HOST = "127.0.0.1"
SETTINGS = Path("etc/proxy-agent")


def missing() -> str:
    """Return what this machine lacks for such a fixture; empty if complete."""
    wanted = ("systemd-nspawn", "nsenter", "mount")
    lacking = [name for name in wanted if shutil.which(name) is None]
    if not Path("/lib/systemd/systemd").exists():
        lacking.append("systemd")
    return ", ".join(lacking)


def program() -> Path:
    """The agent installed beside this interpreter."""
    return Path(sys.executable).with_name("agent")


def installed(name: str) -> str:
    """A unit of ours, with the path of the installed agent."""
    return (UNITS / name).read_text(encoding="utf-8").replace("/usr/local/bin/agent", str(program()))


@contextmanager
def mounted(kind: str, source: str, where: Path, options: str) -> Iterator[Path]:
    """Mount a file system during the block."""
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, source, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)


@contextmanager
def layer_over(lower: Path, directory: Path) -> Iterator[Path]:
    """Yield a root file system: that in `lower`, below a layer in memory."""
    with mounted("tmpfs", "agent-test", directory, "size=1g,mode=0755"):
        upper, work, merged = (directory / name for name in ("upper", "work", "merged"))
        for each in (upper, work):
            each.mkdir()
        with mounted("overlay", "agent-test", merged, f"lowerdir={lower},upperdir={upper},workdir={work}") as root:
            yield root


@dataclass
class SystemdInstance:
    """A booted systemd with the agent's unit in it. `root` is its file system as seen by this process."""

    room: Room
    root: Path
    binary: Path
    proxy_args: Sequence[str]
    groups: Path
    mint: Mint = field(default_factory=Mint)
    leader: int = 0
    container: Process | None = None

    def __post_init__(self) -> None:
        self.settings = self.root / SETTINGS
        self.certs, self.config = self.settings / "certs", self.settings / "envoy.yaml"
        self.tls = Target(HOST, self.room.port(), tls=True)
        self.plain = Target(HOST, self.room.port())
        self.status = Target(HOST, self.room.port())

    # The machine

    def furnish(self) -> None:
        """Write the units, the settings, the configuration and the first certificate."""
        units = self.root / "etc/systemd/system"
        shutil.rmtree(units)
        (units / f"{UNIT}.d").mkdir(parents=True)
        (units / "default.target").symlink_to("/lib/systemd/system/basic.target")
        for name in _MASKED:
            (units / name).symlink_to("/dev/null")
        for name in ("agent.service", "agent@.service"):
            (units / name).write_text(installed(name), encoding="utf-8")
        (units / f"{UNIT}.d" / "here.conf").write_text(self._drop_in(), encoding="utf-8")
        self.configure()

    def _drop_in(self) -> str:
        """Undo hardening that hides this machine's Python; and shorten the watchdog."""
        paths = {Path(sys.prefix), Path(sys.base_prefix), PROJECT, self.binary.resolve().parent}
        lines = ["[Service]", "ProtectHome=tmpfs", *(f"BindReadOnlyPaths={path}" for path in sorted(paths))]
        return "\n".join([*lines, "WatchdogSec=2s", "TimeoutAbortSec=1s", ""])

    def configure(self, **more: str) -> None:
        """Write the settings, with `more` among them, the configuration and the first certificate."""
        self.settings.mkdir(parents=True, exist_ok=True)
        inside = Path("/") / SETTINGS
        secured = [Secured(inside / "certs" / CHAIN, inside / "certs" / KEY)]
        Bootstrap(self.tls.port, self.plain.port, secured).write(self.config)
        self.first()
        settings = {
            "AGENT_CONFIG": f"/{SETTINGS}/envoy.yaml",
            "AGENT_PROXY_BIN": str(self.binary),
            "AGENT_STATUS_PORT": str(self.status.port),
            "AGENT_DRAIN_TIME": "1s",
            "AGENT_DRAIN_DEADLINE": "1m",
            "AGENT_STOP_DEADLINE": "3s",
            "PROXY_ARGS": " ".join(self.proxy_args),
            **more,
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        (self.settings / "agent.env").write_text("\n".join([*lines, ""]), encoding="utf-8")

    def first(self) -> None:
        """Write the first certificate."""
        IN_PLACE.first(self.certs, self.mint.leaf())

    def boot(self) -> None:
        """Start systemd and wait until it runs."""
        command = ["systemd-nspawn", "--quiet", "--directory", str(self.root), "--boot", "--register=no", "--keep-unit"]
        command += ["--console=pipe", f"--machine=agent-test-{os.getpid()}", "--link-journal=no"]
        into = 'for group in "$0"/*; do echo $$ > "$group"/cgroup.procs; done; exec "$@"'
        environment = {**os.environ, "SYSTEMD_NSPAWN_TMPFS_TMP": "0"}
        console = self.room.directory / "console.log"
        with console.open("ab") as sink:
            self.container = Process(
                ["sh", "-c", into, self.groups, *command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment,
                start_new_session=True,
            )
        try:
            self.leader = eventually(self._leader, what="systemd is process 1")
            eventually(self._is_up, what="systemd is up")
        except AssertionError as error:
            error.add_note(console.read_text(encoding="utf-8", errors="replace")[-3000:])
            raise

    def _leader(self) -> int:
        assert self.container is not None
        for pid in self.room.processes():
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            numbers = re.search(r"^NSpid:\s*(.*)$", status, re.MULTILINE)
            if "Name:\tsystemd\n" in status and numbers is not None and numbers[1].split()[1:] == ["1"]:
                return pid
        return 0

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}

    def power_off(self) -> None:
        """Kill everything in the container."""
        if self.leader and alive(self.leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGKILL)
        if self.container is not None:
            self.container.wait(timeout=PATIENCE)

    def run(self, *words: str, timeout: float = PATIENCE) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, to its end."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-p", "-C", "--root", "--wd", "--"]
        return subprocess.run([*enter, *words], capture_output=True, text=True, timeout=timeout, check=False)

    # The unit

    def systemctl(self, verb: str) -> "subprocess.CompletedProcess[str]":
        """Execute an action of systemctl, and wait for its end."""
        return self.run("systemctl", verb, UNIT)

    def show(self, name: str) -> str:
        """Read a property of the unit."""
        return self.run("systemctl", "show", "--value", "-p", name, UNIT).stdout.strip()

    @property
    def sentence(self) -> str:
        """The status line of `systemctl status`."""
        return self.show("StatusText")

    def start(self) -> None:
        """Start the unit; it is active when it serves."""
        done = self.systemctl("start")
        assert done.returncode == 0, done.stderr + self.log()
        assert self.serial_served() == serial(self.mint.newest)

    def log(self) -> str:
        """The end of the unit's log."""
        return self.run("journalctl", "-u", UNIT, "-o", "cat", "-n", "80").stdout

    @property
    def agent_pid(self) -> int:
        """The main process, by its outer pid."""
        return self.outside(int(self.show("MainPID")))

    def outside(self, pid: int) -> int:
        """The outer pid of a process in the container; 0 if it has exited."""
        for each in self.room.processes():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{each}/status").read_text(encoding="utf-8")
                if f"\nNSpid:\t{each}\t{pid}\n" in status:
                    return each
        return 0

    def install(self, name: str, old: str, new: str) -> None:
        """Install one more of our units, with a replacement in it."""
        text = installed(name)
        assert old in text
        (self.root / "etc/systemd/system" / name).write_text(text.replace(old, new), encoding="utf-8")
        self.run("systemctl", "daemon-reload")

    def listening(self) -> int:
        """Count the sockets that listen on the TLS port."""
        return len(self._listeners())

    def held_by_systemd(self) -> int:
        """Count those of them that process 1 holds."""
        held = {str(path.readlink()) for path in Path(f"/proc/{self.leader}/fd").iterdir()}
        return sum(f"socket:[{inode}]" in held for inode in self._listeners())

    def _listeners(self) -> list[str]:
        """Their inodes, from proc(5): the state 0A is LISTEN."""
        rows = (line.split() for line in Path("/proc/thread-self/net/tcp").read_text(encoding="ascii").splitlines()[1:])
        return [row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{self.tls.port:04X}")]

    # The agent

    def state(self) -> State:
        """The agent's state file."""
        return read_state(Path(f"/proc/{self.leader}/root/run/proxy-agent"))

    def serving(self) -> Epoch:
        """The serving epoch; AssertionError if there is none."""
        (serving,) = self.state().among(SERVING)
        return serving

    def serial_served(self) -> int:
        """The serial that a new client receives."""
        return serial_served(self.tls)

    def rotate(self, pair: Pair | None = None) -> None:
        """Write a pair into the directory."""
        IN_PLACE.again(self.certs, pair or self.mint.leaf())

    def served(self) -> None:
        """Wait until new clients receive the newest pair."""
        wanted = serial(self.mint.newest)
        eventually(lambda: self.serial_served() == wanted, what=f"serial {wanted:x} is served")

    def left(self) -> list[str]:
        """Return the remains of the service: processes, shared memory, sockets."""
        shm = self.run("sh", "-c", "ls /dev/shm; ls -d /run/proxy-agent* 2>/dev/null").stdout.split()
        return [*map(command_of, filter(_is_of_the_unit, self.room.processes())), *shm]


def _is_of_the_unit(pid: int) -> bool:
    try:
        return f"/{UNIT}\n" in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return False


_MASKED = (
    "systemd-networkd.service",
    "systemd-networkd-wait-online.service",
    "systemd-resolved.service",
    "systemd-udevd.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-update-utmp.service",
    "e2scrub_all.timer",
    "fstrim.timer",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
)


@contextmanager
def own_groups(directory: Path) -> Iterator[Path]:
    """Yield a directory of links, one to a new control group in each hierarchy that systemd uses."""
    directory.mkdir()
    name = f"agent-test-{os.getpid()}"
    made = [parent / name for parent in _parents()]
    try:
        for number, group in enumerate(made):
            group.mkdir()
            (directory / str(number)).symlink_to(group)
        yield directory
    finally:
        for group in made:
            for each, _, _ in os.walk(group, topdown=False):
                Path(each).rmdir()


def _parents() -> Iterator[Path]:
    """Return this process's group in systemd's own hierarchy of version 1, and in that of version 2 (cgroups(7))."""
    here = dict(line.split(":", 1)[1].split(":", 1) for line in Path("/proc/self/cgroup").read_text().splitlines())
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, options, *_ = line.split()
        name = "" if kind == "cgroup2" else "name=systemd"
        if kind in {"cgroup", "cgroup2"} and name in ("", *options.split(",")) and name in here:
            yield Path(where) / here[name].lstrip("/")


@contextmanager
def booted(room: Room, binary: Path, proxy_args: Sequence[str]) -> Iterator[SystemdInstance]:
    """Yield a fixture whose systemd runs and whose unit is not started."""
    with ExitStack() as stack:
        root = stack.enter_context(layer_over(Path("/"), room.directory / "system"))
        groups = stack.enter_context(own_groups(room.directory / "groups"))
        instance = SystemdInstance(room, root, binary, proxy_args, groups)
        stack.callback(instance.power_off)
        instance.furnish()
        instance.boot()
        yield instance
