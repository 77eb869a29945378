"""No memory for two proxies: the agent waits, or replaces if configured, and the kernel kills no process.

The control group is a real one of version 1, created by the test; without one, the tests are skipped.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGKILL

import pytest

from agent.host.memory import footprint
from tests.cli.agents import agent
from tests.system.agent_fixture import AgentFixture
from tests.system.certificates import NAME
from tests.system.eventually import eventually, throughout
from tests.system.loads import Loads, nothing_failed
from tests.system.room import alive

MOUNT = Path("/sys/fs/cgroup/memory")
ENTER = ("sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"')
UNLIMITED = -1
MIB = 1 << 20
ROTATIONS = 10


@dataclass(frozen=True)
class Group:
    """A memory control group."""

    path: Path

    def limit(self, size: int) -> None:
        """Set the limit in bytes."""
        (self.path / "memory.limit_in_bytes").write_text(str(size), encoding="ascii")

    def used(self) -> int:
        """Return the number of used bytes, without reclaimable ones."""
        stat = dict(line.split() for line in self._read("memory.stat").splitlines())
        return int(self._read("memory.usage_in_bytes")) - int(stat["total_inactive_file"])

    def kills(self) -> int:
        """Return the number of processes killed for lack of memory."""
        return int(self._read("memory.oom_control").rpartition("oom_kill ")[2])

    def _read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="ascii")


def removed(path: Path) -> bool:
    """Remove a group; OSError while a process is in it."""
    path.rmdir()
    return True


@contextmanager
def group_named(name: str) -> Iterator[Group]:
    """Create a group that is removed afterwards."""
    path = MOUNT / name
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no memory control group of version 1: {error.strerror}")
    try:
        yield Group(path)
    finally:
        eventually(lambda: removed(path), what="the group is empty")


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """A group that is created before the fixture's agent starts, and removed after its exit."""
    with group_named(f"agent-test-{datetime.now(UTC).timestamp():.6f}") as made:
        bed: AgentFixture = request.getfixturevalue("bed_apart")
        bed.program = [*ENTER, str(made.path), sys.executable, "-m", "agent"]
        yield made
        bed.stop()


def leave_room(bed: AgentFixture, group: Group, share: float, more: int = 0) -> None:
    """Leave this share of a second proxy's memory free, and this many bytes more."""
    found = footprint(bed.serving_pid())
    assert found is not None
    group.limit(group.used() + int(found.of_one_more * share) + more)


def said(bed: AgentFixture, event: str) -> int:
    """Count the agent's events of this name."""
    return sum(entry.name == event for entry in bed.journal.entries())


@pytest.mark.long
def test_ten_rotations_without_memory_for_two_wait_and_are_made_up_for_when_there_is(
    bed_apart: AgentFixture, group: Group, loads: Loads
) -> None:
    bed = bed_apart
    bed.start()
    serving = bed.serving()
    leave_room(bed, group, 0.5)
    loads.gentle(bed.tls, bed.plain)
    for number in range(1, ROTATIONS + 1):
        bed.rotate()
        eventually(lambda told=number: said(bed, "memory.short") >= told)  # type: ignore[misc]
        assert bed.serving() == serving
    throughout(lambda: said(bed, "memory.short") == ROTATIONS, span=1, what="each is said once", every=0.1)
    assert "memory.limit_in_bytes" in bed.journal.complaints("second proxy")[0].body
    group.limit(UNLIMITED)
    bed.served()
    assert group.kills() == 0
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.long
def test_with_just_enough_memory_a_rotation_causes_no_kill(bed_apart: AgentFixture, group: Group, loads: Loads) -> None:
    bed = bed_apart
    bed.start()
    loads.gentle(bed.tls, bed.plain)
    loads.more(20)
    leave_room(bed, group, 1.125, more=5 * MIB)
    bed.rotate()
    bed.served()
    bed.settled()
    assert group.kills() == 0
    assert said(bed, "memory.short") == 0
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_near_expiry_what_serves_is_replaced_where_that_is_allowed(
    bed_apart: AgentFixture, group: Group, loads: Loads
) -> None:
    bed = bed_apart
    bed.more_flags += ["--low-memory", "replace"]
    now = datetime.now(UTC)
    old_leaf = bed.mint.issuer.issue([NAME], not_before=now - timedelta(hours=10), not_after=now + timedelta(minutes=5))
    bed.mint.issued.append(old_leaf)
    bed.bootstrap.write(bed.config)
    bed.layout.first(bed.certs, bed.mint.newest)
    bed.launch()
    bed.ready()
    old = bed.serving_pid()
    leave_room(bed, group, 0.5)
    loads.gentle(bed.tls, bed.plain)
    bed.rotate()
    bed.served()
    assert not alive(old)
    assert said(bed, "service.replaced") == 1
    assert group.kills() == 0
    assert sum(report.reasons()["refused"] for report in loads.finish()) == 0


def test_a_proxy_that_the_kernel_kills_for_want_of_memory_is_named_and_started_again(
    bed_apart: AgentFixture, group: Group
) -> None:
    bed = bed_apart
    bed.start()
    old = bed.serving_pid()
    Path(f"/proc/{old}/oom_score_adj").write_text("1000", encoding="ascii")  # the first to be killed
    with pressure(bed, group):
        eventually(lambda: not alive(old), what="the kernel kills")
    bed.ready()
    assert any(": out of memory" in one.body for one in bed.journal.complaints(SIGKILL.name))


@contextmanager
def pressure(bed: AgentFixture, group: Group) -> Iterator[None]:
    """Let a process use more and more memory in the group."""
    hog = "import os\nkept = []\nwhile True:\n    kept.append(bytearray(os.urandom(1 << 12)) * 256)\n"
    group.limit(group.used() + 64 * MIB)
    process = bed.room.spawn([*ENTER, str(group.path), sys.executable, "-c", hog], log=bed.directory / "hog.log")
    try:
        yield
    finally:
        process.kill()
        process.wait()
        group.limit(UNLIMITED)


def test_an_upgrade_without_memory_for_two_agents_is_refused_without_a_kill(
    bed_apart: AgentFixture, group: Group, loads: Loads
) -> None:
    bed = bed_apart
    bed.start()
    loads.gentle(bed.tls, bed.plain)
    before, pid = bed.serving(), bed.agent_pid
    group.limit(group.used() + 8 * MIB)
    ran = agent("upgrade", "--run-dir", bed.run_dir)
    assert ran.code == 1
    assert "no memory" in ran.err + ran.out
    assert group.kills() == 0
    assert (bed.serving(), bed.agent_pid, bed.state().agent_pid) == (before, pid, pid)
    group.limit(UNLIMITED)
    ran = agent("upgrade", "--run-dir", bed.run_dir)
    assert ran.code == 0, ran
    assert bed.serving() == before
    nothing_failed(loads.finish(at_least=20))
