"""The disk of the run directory is full, or becomes read-only: crashes are answered, and no client is lost."""

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.room import Room, kill

pytestmark = pytest.mark.root

MakeDisk = Callable[..., "Disk | Frozen"]


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        mode = path.stat().st_mode & 0o7777
        _run("mount", "-t", "tmpfs", "-o", f"size=1m,nr_inodes=200,mode={mode:o}", "tests", path)

    def fill(self) -> None:
        """Use all bytes and all inodes."""
        with contextlib.suppress(OSError):
            (self.path / "bytes").write_bytes(bytes(2 << 20))
        with contextlib.suppress(OSError):
            for number in range(1000):
                (self.path / f"filler-{number}").touch()

    def clear(self) -> None:
        """Free the space again."""
        for each in (*self.path.glob("filler-*"), self.path / "bytes"):
            each.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        _run("umount", "-l", self.path)


class Frozen:
    """A directory in which no entry can be created, renamed or removed, as on a disk that became read-only.

    A real file system cannot be remounted read-only while files in it are open for writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    def fill(self) -> None:
        """Make it immutable."""
        _run("chattr", "+i", self.path)

    def clear(self) -> None:
        """Make it mutable again."""
        _run("chattr", "-i", self.path)

    close = clear


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=PATIENCE, capture_output=True)


@pytest.fixture
def full(room: Room) -> Iterator[MakeDisk]:
    """Create disks by kind, and remove them at the end."""
    disks: list[Disk | Frozen] = []

    def make(path: Path, kind: str = "full") -> Disk | Frozen:
        disks.append(Disk(path) if kind == "full" else Frozen(path))
        return disks[-1]

    yield make
    for disk in disks:
        disk.close()


def crashed(instance: AgentFixture) -> None:
    """Kill the proxy and wait until the agent logs that the next one serves."""
    instance.journal.mark()
    kill(instance.serving_pid())
    eventually(lambda: instance.journal.named("epoch.serving"), what="the next one serves")


HOW = pytest.mark.parametrize("how", ["full", pytest.param("read-only", marks=pytest.mark.long)])


@HOW
def test_a_crash_is_answered_and_a_rotation_goes_on(
    how: str, full: MakeDisk, unstarted: AgentFixture, loads: Loads
) -> None:
    instance = unstarted
    disk = full(instance.run_dir, how)
    instance.start()
    loads.gentle(instance.tls, instance.plain)
    disk.fill()
    crashed(instance)
    instance.rotate()
    instance.served()
    reports = loads.finish(at_least=20)
    assert sum(report.reasons()["refused"] for report in reports) == 0
    disk.clear()
    eventually(instance.serving, what="the state is written again")
    instance.rotate()
    instance.served()
    instance.committed()
    instance.settled()
    assert (instance.run_dir / str(instance.serving().number)).is_dir(), "the next one lives where it should"


@pytest.mark.long
@HOW
def test_a_stop_leaves_nothing_elsewhere(how: str, full: MakeDisk, unstarted: AgentFixture) -> None:
    instance = unstarted
    disk = full(instance.run_dir, how)
    instance.start()
    disk.fill()
    crashed(instance)
    assert instance.agent is not None
    instance.agent.send_signal(signal.SIGTERM)
    assert instance.exited() == 0
    assert list(instance.room.shm.iterdir()) == []
    assert instance.journal.bugs() == []
    disk.clear()
    (instance.run_dir / "control").unlink(
        missing_ok=True
    )  # where no entry can be removed, this one could not be either


@pytest.mark.long
@HOW
def test_an_agent_that_comes_back_finds_what_lives_elsewhere(
    how: str, full: MakeDisk, unstarted: AgentFixture, loads: Loads
) -> None:
    instance = unstarted
    instance.more_flags += ["--survive"]
    disk = full(instance.run_dir, how)
    instance.start()
    disk.fill()
    crashed(instance)
    disk.clear()
    before = eventually(instance.serving, what="the state is written again")
    loads.gentle(instance.tls, instance.plain)
    instance.kill_agent()
    instance.launch()
    instance.ready()
    assert instance.serving() == before, "it is adopted"
    instance.rotate()
    instance.served()
    nothing_failed(loads.finish(at_least=20))


def test_with_shared_memory_full_a_crash_is_answered(full: MakeDisk, unstarted: AgentFixture) -> None:
    instance = unstarted
    disk = full(instance.room.shm)
    instance.room.shm.chmod(0o1777)
    instance.start()
    disk.fill()
    crashed(instance)
    disk.clear()
    instance.rotate()
    instance.served()
    instance.committed()
