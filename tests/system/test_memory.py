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
        instance: AgentFixture = request.getfixturevalue("unstarted")
        instance.program = [*ENTER, str(made.path), sys.executable, "-m", "agent"]
        yield made
        instance.stop()


def start_near_expiry(instance: AgentFixture) -> None:
    """Start the agent with a certificate in the last tenth of its life."""
    now = datetime.now(UTC)
    old_leaf = instance.mint.issuer.issue(
        [NAME], not_before=now - timedelta(hours=10), not_after=now + timedelta(minutes=5)
    )
    instance.mint.issued.append(old_leaf)
    instance.bootstrap.write(instance.config)
    instance.layout.first(instance.certs, instance.mint.newest)
    instance.launch()
    instance.ready()


def leave_room(instance: AgentFixture, group: Group, share: float, more: int = 0) -> None:
    """Leave this share of a second proxy's memory free, and this many bytes more."""
    found = footprint(instance.serving_pid())
    assert found is not None
    group.limit(group.used() + int(found.of_one_more * share) + more)


def said(instance: AgentFixture, event: str) -> int:
    """Count the agent's events of this name."""
    return sum(entry.name == event for entry in instance.journal.entries())


@pytest.mark.long
def test_ten_rotations_without_memory_for_two_wait_and_are_made_up_for_when_there_is(
    unstarted: AgentFixture, group: Group, loads: Loads
) -> None:
    instance = unstarted
    instance.start()
    serving = instance.serving()
    leave_room(instance, group, 0.5)
    loads.gentle(instance.tls, instance.plain)
    for number in range(1, ROTATIONS + 1):
        instance.rotate()
        eventually(lambda told=number: said(instance, "memory.short") >= told)  # type: ignore[misc]
        assert instance.serving() == serving
    throughout(lambda: said(instance, "memory.short") == ROTATIONS, span=1, what="each is said once", every=0.1)
    assert "memory.limit_in_bytes" in instance.journal.complaints("second proxy")[0].body
    group.limit(UNLIMITED)
    instance.served()
    assert group.kills() == 0
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.long
def test_with_just_enough_memory_a_rotation_causes_no_kill(unstarted: AgentFixture, group: Group, loads: Loads) -> None:
    instance = unstarted
    instance.start()
    loads.gentle(instance.tls, instance.plain)
    loads.more(20)
    leave_room(instance, group, 1.125, more=5 * MIB)
    instance.rotate()
    instance.served()
    instance.settled()
    assert group.kills() == 0
    assert said(instance, "memory.short") == 0
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_near_expiry_what_serves_is_replaced_where_that_is_allowed(
    unstarted: AgentFixture, group: Group, loads: Loads
) -> None:
    instance = unstarted
    instance.more_flags += ["--low-memory", "replace"]
    start_near_expiry(instance)
    old = instance.serving_pid()
    leave_room(instance, group, 0.5)
    loads.gentle(instance.tls, instance.plain)
    instance.rotate()
    instance.served()
    assert not alive(old)
    assert said(instance, "service.replaced") == 1
    assert group.kills() == 0
    assert sum(report.reasons()["refused"] for report in loads.finish()) == 0


def test_a_proxy_that_the_kernel_kills_for_want_of_memory_is_named_and_started_again(
    unstarted: AgentFixture, group: Group
) -> None:
    instance = unstarted
    instance.start()
    old = instance.serving_pid()
    Path(f"/proc/{old}/oom_score_adj").write_text("1000", encoding="ascii")  # the first to be killed
    with pressure(instance, group):
        eventually(lambda: not alive(old), what="the kernel kills")
    instance.ready()
    assert any(": out of memory" in one.body for one in instance.journal.complaints(SIGKILL.name))


@contextmanager
def pressure(instance: AgentFixture, group: Group) -> Iterator[None]:
    """Let a process use more and more memory in the group."""
    hog = "import os\nkept = []\nwhile True:\n    kept.append(bytearray(os.urandom(1 << 12)) * 256)\n"
    group.limit(group.used() + 64 * MIB)
    process = instance.room.spawn(
        [*ENTER, str(group.path), sys.executable, "-c", hog], log=instance.directory / "hog.log"
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()
        group.limit(UNLIMITED)


@pytest.mark.long
def test_an_upgrade_without_memory_for_two_agents_is_refused_without_a_kill(
    unstarted: AgentFixture, group: Group, loads: Loads
) -> None:
    instance = unstarted
    instance.start()
    loads.gentle(instance.tls, instance.plain)
    before, pid = instance.serving(), instance.agent_pid
    group.limit(group.used() + 8 * MIB)
    ran = agent("upgrade", "--run-dir", instance.run_dir)
    assert ran.code == 1
    assert "no memory" in ran.err + ran.out
    assert group.kills() == 0
    assert (instance.serving(), instance.agent_pid, instance.state().agent_pid) == (before, pid, pid)
    group.limit(UNLIMITED)
    ran = agent("upgrade", "--run-dir", instance.run_dir)
    assert ran.code == 0, ran
    assert instance.serving() == before
    nothing_failed(loads.finish(at_least=20))
