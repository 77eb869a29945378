"""Available memory, from trees of files as the kernel writes them, and from the kernel itself."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.host import control_groups
from agent.host.memory import HOST, Footprint, Free, OomWatch, footprint, free, host_available

GIB = 1 << 30
MIB = 1 << 20
UNLIMITED = 0x7FFFFFFFFFFFF000  # the value of v1 without a limit


class Machine:
    """A /proc and a cgroup mount in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.mount = directory / "cgroup"
        write(self.proc / "vmstat", {"nr_free_pages": 5950000, "oom_kill": 40})

    def belongs(self, *memberships: str) -> None:
        (self.proc / "self").mkdir(exist_ok=True)
        (self.proc / "self/cgroup").write_text("".join(f"{line}\n" for line in memberships))

    def mounts(self, kind: str, root: str = "/", options: str = "rw", point: str = "") -> None:
        """Add a line to the mount table, with a field that the kernel adds for shared mounts."""
        (self.proc / "self").mkdir(exist_ok=True)
        with (self.proc / "self/mountinfo").open("a") as table:
            table.write(f"31 23 0:28 {root} {self.mount}{point} rw,relatime shared:9 - {kind} {kind} {options}\n")

    def group(self, path: str, files: Mapping[str, object]) -> None:
        for name, content in files.items():
            write(self.mount / path / name, content)

    def free(self, host: int = 64 * GIB) -> Free:
        return free(proc=self.proc, host=lambda: host)

    def name(self, path: str) -> str:
        return str(self.mount / path)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (f"{name} {number}" for name, number in content.items()) if isinstance(content, dict) else [str(content)]
    path.write_text("".join(f"{row}\n" for row in rows))


def v2(limit: object = "max", high: object = "max", current: int = 0, inactive: int = 0) -> dict[str, object]:
    stat = {"anon": current - inactive, "file": inactive, "inactive_file": inactive, "active_file": 7}
    return {"memory.max": limit, "memory.high": high, "memory.current": current, "memory.stat": stat}


def v1(limit: int = UNLIMITED, usage: int = 0, inactive: int = 0, hierarchy: int = 1) -> dict[str, object]:
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": usage,
        "memory.stat": {"inactive_file": 1, "total_inactive_file": inactive},
        "memory.use_hierarchy": hierarchy,
    }


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def modern(machine: Machine) -> Machine:
    machine.belongs("0::/pods/pod1/proxy")
    machine.mounts("cgroup2")
    return machine


@pytest.fixture
def old(machine: Machine) -> Machine:
    machine.belongs("9:cpu,cpuacct:/elsewhere", "4:memory:/pods/pod1", "1:name=systemd:/x", "0::/y")
    machine.mounts("cgroup", options="rw,cpu,cpuacct", point="/cpu")
    machine.mounts("cgroup", options="rw,memory", point="/memory")
    machine.mounts("cgroup2", point="/unified")
    return machine


def test_what_a_group_may_have_is_its_limit_without_what_it_holds_and_the_kernel_would_not_give_up(
    modern: Machine,
) -> None:
    modern.group("pods/pod1/proxy", v2(500 * MIB, current=300 * MIB, inactive=100 * MIB))
    assert modern.free() == Free(300 * MIB, modern.name("pods/pod1/proxy/memory.max"))


@pytest.mark.parametrize(
    ("own", "pod", "left", "name"),
    [
        (v2(500 * MIB, current=100 * MIB), v2(600 * MIB, current=300 * MIB), 300, "pods/pod1/memory.max"),
        (v2(500 * MIB, current=100 * MIB), v2(GIB, current=300 * MIB), 400, "pods/pod1/proxy/memory.max"),
        (v2(500 * MIB, 200 * MIB, current=150 * MIB), v2(), 50, "pods/pod1/proxy/memory.high"),
        (v2(), v2("max", 200 * MIB, current=150 * MIB), 50, "pods/pod1/memory.high"),
        (v2(100 * MIB, current=150 * MIB), v2(), 0, "pods/pod1/proxy/memory.max"),
        (v2(0, current=0), v2(), 0, "pods/pod1/proxy/memory.max"),
        ({}, v2(GIB, current=GIB // 2), 512, "pods/pod1/memory.max"),
        (v2(200 * MIB, current=10 * MIB, inactive=20 * MIB), v2(), 200, "pods/pod1/proxy/memory.max"),
    ],
    ids=["pod", "own", "high", "pod's high", "beyond", "nothing", "not counted by itself", "read at two times"],
)
def test_the_tightest_limit_on_the_way_up_counts(
    modern: Machine, own: dict[str, object], pod: dict[str, object], left: int, name: str
) -> None:
    modern.group("pods/pod1/proxy", own)
    modern.group("pods/pod1", pod)
    assert modern.free() == Free(left * MIB, modern.name(name))


def test_the_host_counts_too_where_it_has_less_than_the_group_may_have(modern: Machine) -> None:
    modern.group("pods/pod1/proxy", v2(500 * MIB))
    assert modern.free(host=80 * MIB) == Free(80 * MIB, HOST)


def test_a_container_that_sees_only_its_own_group_finds_it_at_the_root(machine: Machine) -> None:
    machine.belongs("0::/")
    machine.mounts("cgroup2")
    machine.group("", v2(500 * MIB, current=100 * MIB))
    assert machine.free() == Free(400 * MIB, machine.name("memory.max"))


@pytest.mark.parametrize(
    ("membership", "root", "inside"),
    [
        ("/docker/abc", "/docker/abc", ""),
        ("/docker/abc/sub", "/docker/abc", "sub"),
        ("/docker/abcdef", "/docker/abc", ""),  # a group outside the mounted hierarchy
        ("/../other", "/", "other"),
    ],
)
def test_paths_are_those_of_the_mount(machine: Machine, membership: str, root: str, inside: str) -> None:
    machine.belongs(f"0::{membership}")
    machine.mounts("cgroup2", root=root)
    machine.group("def", v2(1 * MIB))
    machine.group(inside, v2(500 * MIB, current=100 * MIB))
    assert machine.free() == Free(400 * MIB, machine.name(f"{inside}/memory.max".lstrip("/")))


def test_version_1_counts_where_it_has_the_memory_controller(old: Machine) -> None:
    old.group("memory/pods/pod1", v1(usage=300 * MIB))
    old.group("memory/pods", v1(500 * MIB, usage=400 * MIB, inactive=50 * MIB))
    old.group("memory", v1())
    old.group("unified/y", v2(1 * MIB))
    assert old.free() == Free(150 * MIB, old.name("memory/pods/memory.limit_in_bytes"))


def test_a_group_of_version_1_that_does_not_count_those_below_it_is_no_limit(old: Machine) -> None:
    old.group("memory/pods/pod1", v1(500 * MIB, usage=100 * MIB, hierarchy=0))
    old.group("memory/pods", v1(1 * MIB, hierarchy=0))
    assert old.free() == Free(400 * MIB, old.name("memory/pods/pod1/memory.limit_in_bytes"))


def test_version_2_counts_where_version_1_has_other_controllers_only(machine: Machine) -> None:
    machine.belongs("9:cpu:/elsewhere", "0::/mine")
    machine.mounts("cgroup", options="rw,cpu", point="/cpu")
    machine.mounts("cgroup2", point="/unified")
    machine.group("unified/mine", v2(500 * MIB, current=100 * MIB))
    assert machine.free() == Free(400 * MIB, machine.name("unified/mine/memory.max"))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory.max": 500 * MIB},
        {"memory.max": "", "memory.high": "", "memory.current": ""},
        {"memory.max": "garbage", "memory.high": "-1", "memory.current": 5},
        v2(),
    ],
    ids=["missing", "half", "empty", "garbage", "unlimited"],
)
def test_files_that_say_nothing_set_no_limit(modern: Machine, files: dict[str, object]) -> None:
    modern.group("pods/pod1/proxy", files)
    assert modern.free() == Free(64 * GIB, HOST)


def test_without_proc_there_is_the_host(tmp_path: Path) -> None:
    assert free(proc=tmp_path / "nowhere", host=lambda: 5) == Free(5, HOST)
    assert OomWatch(proc=tmp_path / "nowhere").kills() == 0


def test_a_limit_without_statistics_counts_all_that_is_held(modern: Machine) -> None:
    files = v2(500 * MIB, current=300 * MIB, inactive=100 * MIB)
    del files["memory.stat"]
    modern.group("pods/pod1/proxy", files)
    assert modern.free().bytes == 200 * MIB


def test_this_machine_has_some_memory_left() -> None:
    found = free()
    assert 0 < found.bytes <= host_available() + GIB
    assert found.limit_name == HOST or Path(found.limit_name).is_file()
    assert OomWatch().kills() == 0


def kill(machine: Machine, path: str, name: str, kills: int, groups: int | None = None) -> None:
    """Increment the kernel's kill counter."""
    events = {"low": 0, "high": 9, "max": 9, "oom": 3, "oom_kill": kills}
    machine.group(path, {name: events | ({} if groups is None else {"oom_group_kill": groups})})


def test_each_kill_is_counted_once(modern: Machine) -> None:
    kill(modern, "pods/pod1/proxy", "memory.events.local", 7, 0)
    watch = OomWatch(proc=modern.proc)
    assert watch.kills() == 0
    kill(modern, "pods/pod1/proxy", "memory.events.local", 9, 0)
    assert (watch.kills(), watch.kills()) == (2, 0)
    kill(modern, "pods/pod1/proxy", "memory.events.local", 10, 1)
    assert (watch.kills(), watch.kills()) == (1, 0)
    kill(modern, "pods/pod1/proxy", "memory.events.local", 10, 2)
    assert (watch.kills(), watch.kills()) == (1, 0)


def test_what_was_killed_in_groups_inside_ours_is_not_one_of_ours(modern: Machine) -> None:
    kill(modern, "pods/pod1/proxy", "memory.events.local", 0, 0)
    kill(modern, "pods/pod1/proxy", "memory.events", 0, 0)
    watch = OomWatch(proc=modern.proc)
    kill(modern, "pods/pod1/proxy", "memory.events", 5, 0)
    assert watch.kills() == 0


@pytest.mark.parametrize("path", ["pods/pod1/proxy", "pods/pod1"], ids=["before 5.2", "not counted by itself"])
def test_the_next_best_events_count(modern: Machine, path: str) -> None:
    kill(modern, path, "memory.events", 1)
    watch = OomWatch(proc=modern.proc)
    kill(modern, path, "memory.events", 2)
    assert watch.kills() == 1


def test_version_1_counts_in_its_oom_control(old: Machine) -> None:
    path = "memory/pods/pod1/memory.oom_control"
    write(old.mount / path, {"oom_kill_disable": 0, "under_oom": 0, "oom_kill": 1})
    watch = OomWatch(proc=old.proc)
    write(old.mount / path, {"oom_kill_disable": 0, "under_oom": 0, "oom_kill": 2})
    assert (watch.kills(), watch.kills()) == (1, 0)


def test_without_a_group_the_whole_machine_counts(machine: Machine) -> None:
    watch = OomWatch(proc=machine.proc)
    write(machine.proc / "vmstat", {"oom_kill": 41})
    assert watch.kills() == 1


def test_a_counter_that_starts_again_is_no_kill(modern: Machine) -> None:
    kill(modern, "pods/pod1/proxy", "memory.events.local", 7)
    watch = OomWatch(proc=modern.proc)
    kill(modern, "pods/pod1/proxy", "memory.events.local", 0)
    assert watch.kills() == 0


def test_the_footprint_has_a_peak_that_stays_when_the_memory_is_given_back() -> None:
    script = "x = bytearray(b'x') * (64 << 20); del x; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        found = footprint(child.pid)
        child.stdin.write(b"\n")
    assert found is not None
    assert found.peak > 64 * MIB
    assert 0 < found.anonymous < 64 * MIB
    assert 64 * MIB - found.anonymous < found.of_one_more <= found.peak
    assert found.mapped_files > 0


def test_one_more_takes_what_is_not_shared_with_the_first() -> None:
    assert Footprint(100, 20, 70, 1).of_one_more == 30
    assert Footprint(100, 50, 70, 1).of_one_more == 50


def test_a_process_that_is_gone_or_dead_has_none() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert footprint(child.pid) is None
    assert footprint(2**22 + 1) is None


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Create a group of version 1 with 30 MiB beside ours; skip the test if that is not possible."""
    group = control_groups.find("memory")
    if group is None or group.version != 1 or os.geteuid() != 0:
        pytest.skip("wants root and a memory controller of version 1")
    made = group.directories[-1] / f"test-{os.getpid()}"
    made.mkdir()
    try:
        (made / "memory.limit_in_bytes").write_text(str(30 * MIB))
        yield made
    finally:
        made.rmdir()


LOOKING = """
import os, subprocess, sys
from agent.host.memory import OomWatch, free
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
watch, before = OomWatch(), free()
code = subprocess.run([sys.executable, "-S", "-c", "x = b'x' * (100 << 20)"]).returncode
print(before.bytes, before.limit_name, code, watch.kills(), watch.kills())
"""


@pytest.mark.root
def test_a_real_kill_is_seen_in_a_real_group(small_group: Path) -> None:
    told = subprocess.run([sys.executable, "-c", LOOKING, str(small_group)], capture_output=True, text=True, check=True)
    left, name, *kills = told.stdout.split()
    assert 10 * MIB < int(left) <= 30 * MIB
    assert name == str(small_group / "memory.limit_in_bytes")
    assert kills == ["-9", "1", "0"]
