"""Like `test_memory`, in a control group of version 2 that the kernel kills as a whole.

If the memory controller is version 1's, as beside an older container runtime, the tests run themselves once more in a
second kernel: those with the sidecar in user-mode-linux, those with Envoy in an emulated machine.
"""

import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually, throughout
from tests.system.kernels import Kernel, emulated, user_mode
from tests.system.loads import Loads, nothing_failed
from tests.system.proxies import needed
from tests.system.room import alive
from tests.system.test_memory import ENTER, ROTATIONS, Group, leave_room, removed, said, start_near_expiry

MOUNT = Path("/sys/fs/cgroup")
PROJECT = Path(__file__).parents[2]
INIT = Path(__file__).with_name("kernel_init.sh")
IN_KERNEL = 600  # seconds for one test: a program with many system calls is ten times slower in user-mode-linux
IN_ALL = 1800  # seconds for both and the boot: the emulated machine needs five minutes on a free core

pytestmark = [pytest.mark.root, pytest.mark.long]


def has_version_2() -> bool:
    """Return whether groups created here have the limits of version 2."""
    try:
        return "memory" in (MOUNT / "cgroup.subtree_control").read_text(encoding="ascii").split()
    except OSError:
        return False


@dataclass(frozen=True)
class Unified(Group):
    """A memory control group of version 2."""

    def limit(self, size: int | None) -> None:
        """Set the limit in bytes; None: no limit."""
        (self.path / "memory.max").write_text("max" if size is None else str(size), encoding="ascii")

    def used(self) -> int:
        """Return the number of used bytes, without reclaimable ones."""
        return int(self._read("memory.current")) - self._table("memory.stat")["inactive_file"]

    def kills(self) -> int:
        """Return the number of processes killed for lack of memory."""
        return self._table("memory.events")["oom_kill"]

    def _table(self, name: str) -> dict[str, int]:
        return {key: int(value) for key, value in (line.split() for line in self._read(name).splitlines())}


@contextmanager
def unified(name: str) -> Iterator[Unified]:
    """Create a group that the kernel kills as a whole if memory is lacking; it is removed afterwards."""
    path = MOUNT / name
    path.mkdir()
    try:
        (path / "memory.oom.group").write_text("1", encoding="ascii")
        yield Unified(path)
    finally:
        eventually(lambda: removed(path), what="the group is empty")


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Unified]:
    """A group that is created before the fixture's agent starts, and removed after its exit."""
    if not has_version_2():
        pytest.skip("no memory control group of version 2")
    with unified(f"agent-test-{datetime.now(UTC).timestamp():.6f}") as made:
        instance: AgentFixture = request.getfixturevalue("unstarted")
        instance.program = [*ENTER, str(made.path), sys.executable, "-m", "agent"]
        yield made
        instance.stop()


@pytest.mark.timeout(IN_KERNEL)
def test_ten_rotations_wait_with_memory_for_one_and_a_half(
    unstarted: AgentFixture, group: Unified, loads: Loads
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
    throughout(lambda: said(instance, "memory.short") == ROTATIONS, span=3, what="each is said once", every=0.2)
    words = [entry.body for entry in instance.journal.entries() if entry.name == "memory.short"]
    assert all(f"MiB are free by {group.path}/memory.max, and a second proxy needs" in each for each in words)
    assert instance.serving() == serving
    group.limit(None)
    instance.served()
    assert group.kills() == 0
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.timeout(IN_KERNEL)
def test_near_expiry_the_serving_epoch_is_replaced_with_memory_for_one_and_a_half(
    unstarted: AgentFixture, group: Unified, loads: Loads
) -> None:
    instance = unstarted
    instance.more_flags += ["--low-memory", "replace", "--hold", "1m"]
    start_near_expiry(instance)
    old = instance.serving_pid()
    leave_room(instance, group, 0.5)
    loads.gentle(instance.tls, instance.plain)
    instance.rotate()
    instance.served()
    words = [entry.body for entry in instance.journal.entries() if entry.name == "service.replaced"]
    assert not alive(old)
    assert len(words) == 1
    assert group.kills() == 0
    reports = loads.finish()
    assert sum(report.reasons()["refused"] for report in reports) == 0


def below_tmp(*paths: Path) -> str:
    """Return the paths that a new /tmp would hide, separated by colons; a dash for none."""
    return ":".join(str(path) for path in paths if path.is_relative_to("/tmp")) or "-"


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        pytest.param(user_mode, "sidecar", id="user-mode-linux"),  # Envoy's allocator needs 48 bits of address
        pytest.param(emulated, "envoy", id="qemu"),
    ],
)
@pytest.mark.skipif(has_version_2(), reason="the tests above run on version 2 already")
@pytest.mark.timeout(IN_ALL + 60)
def test_both_hold_in_a_kernel_that_has_version_2(kernel: Kernel, kind: str) -> None:
    token = f"agent-{uuid.uuid4().hex[:12]}"
    binary = needed(kind).binary
    kept = below_tmp(Path(sys.prefix), PROJECT, binary.parent)
    program = [str(INIT), token, str(PROJECT), kept, sys.executable, str(Path(__file__)), f"[{kind}]"]
    with tempfile.TemporaryDirectory() as home:
        line = kernel(Path(home), {f"AGENT_{kind.upper()}": str(binary)}, program)
        ran = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=IN_ALL, check=False)
    output = ran.stdout.decode(errors="replace")
    assert f"{token} 0" in output.splitlines(), output + ran.stderr.decode(errors="replace")
    assert "2 passed" in output, output
