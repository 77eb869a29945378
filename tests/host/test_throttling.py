import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.host.throttling import Throttled, read
from tests.system.eventually import PATIENCE

MODERN = "nr_periods 9\nnr_throttled {}\nthrottled_usec {}\n"
OLD = "nr_periods 9\nnr_throttled {}\nthrottled_time {}\n"


class Machine:
    """A /proc and cgroup mounts in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.proc, self.mount = directory / "proc", directory / "cgroup"
        (self.proc / "self").mkdir(parents=True)

    def belongs(self, *memberships: str) -> None:
        (self.proc / "self/cgroup").write_text("".join(f"{line}\n" for line in memberships))

    def mounts(self, kind: str, root: str = "/", options: str = "rw", point: str = "") -> None:
        with (self.proc / "self/mountinfo").open("a") as table:
            table.write(f"31 23 0:28 {root} {self.mount}{point} rw,relatime shared:9 - {kind} {kind} {options}\n")

    def group(self, path: str, text: str, *numbers: int) -> None:
        (self.mount / path).mkdir(parents=True, exist_ok=True)
        (self.mount / path / "cpu.stat").write_text(text.format(*numbers))

    def read(self) -> Throttled:
        return read(proc=self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_our_group_and_those_above_it_count(machine: Machine) -> None:
    machine.belongs("0::/pods/pod1")
    machine.mounts("cgroup2")
    machine.group("pods/pod1", MODERN, 3, 1_500_000)
    machine.group("pods", MODERN, 2, 500_000)
    machine.group("", "usage_usec 7\n")
    machine.group("pods/pod2", MODERN, 100, 100)
    assert machine.read() == Throttled(5, 2.0)


def test_a_container_that_sees_only_its_own_group_finds_it_at_the_root(machine: Machine) -> None:
    machine.belongs("0::/docker/abc")
    machine.mounts("cgroup2", root="/docker/abc")
    machine.group("", MODERN, 3, 0)
    assert machine.read() == Throttled(3, 0.0)


def test_version_1_counts_where_it_has_the_controller(machine: Machine) -> None:
    machine.belongs("9:cpuacct,cpu:/pods", "4:memory:/elsewhere", "1:name=systemd:/x", "0::/y")
    machine.mounts("cgroup2", point="/unified")
    machine.mounts("cgroup", options="rw,memory", point="/memory")
    machine.mounts("cgroup", options="rw,cpuacct,cpu", point="/cpu")
    machine.group("cpu/pods", OLD, 3, 1_500_000_000)
    machine.group("unified/y", MODERN, 100, 100)
    assert machine.read() == Throttled(3, 1.5)


def test_version_2_counts_where_version_1_has_other_controllers_only(machine: Machine) -> None:
    machine.belongs("9:cpuset:/pods", "0::/y")
    machine.mounts("cgroup", options="rw,cpuset", point="/cpuset")
    machine.mounts("cgroup2", point="/unified")
    machine.group("unified/y", MODERN, 1, 0)
    assert machine.read() == Throttled(1, 0.0)


@pytest.mark.parametrize("text", ["", "nr_throttled\n", "nr_throttled -3\nthrottled_usec x\n"])
def test_what_cannot_be_read_is_not_throttled(machine: Machine, text: str) -> None:
    assert machine.read() == Throttled()
    machine.belongs("0::/pods", "nonsense", "")
    with (machine.proc / "self/mountinfo").open("w") as table:
        table.write("nonsense\n1 2 3 4 - cgroup2\n")
    machine.mounts("cgroup2")
    machine.group("pods", text)
    assert machine.read() == Throttled()


WORKING = """
import os, sys, time
from pathlib import Path
from agent.host.throttling import read
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
before, until = read(), time.monotonic() + 10
while read().seconds == before.seconds and time.monotonic() < until:  # counted later than the period
    pass
now = read()
print(now.periods - before.periods, now.seconds - before.seconds)
"""


@pytest.fixture
def slow_group() -> Iterator[Path]:
    """A group that may run for a tenth of the time."""
    mine = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":cpu:" in line or "0::" in line)
    old = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists()
    if os.geteuid() or not old or ":cpu:" not in mine:
        pytest.skip("wants root and a cpu controller of version 1")
    group = Path("/sys/fs/cgroup/cpu") / mine.partition(":cpu:")[2].lstrip("/") / f"test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("10000")
        yield group
    finally:
        group.rmdir()


@pytest.mark.root
def test_real_throttling_is_seen_in_a_real_group(slow_group: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", WORKING, str(slow_group)], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    periods, seconds = told.stdout.split()
    assert int(periods) >= 1
    assert float(seconds) > 0
