"""The control group of this process, from files as the kernel writes them (cgroups(7), proc_pid_mountinfo(5))."""

from pathlib import Path

import pytest

from agent.host.control_groups import Group, find, number, table, text

V2 = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MEMORY = "31 23 0:28 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory"
V1_CPU = "32 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_NAMED = "33 23 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd"
DISK = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,memory"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "self").mkdir()
    return tmp_path


def write(proc: Path, memberships: str, mounts: str) -> None:
    (proc / "self/cgroup").write_text(memberships)
    (proc / "self/mountinfo").write_text(mounts)


def directories(group: Group | None) -> list[str]:
    assert group is not None
    return [str(each) for each in group.directories]


def test_a_group_of_version_2_has_its_directory_and_all_above_it_up_to_the_mount(proc: Path) -> None:
    write(proc, "0::/user.slice/app.service\n", f"{DISK}\n{V2}\n")
    found = find("memory", proc=proc)
    assert found is not None
    assert found.version == 2
    assert directories(found) == [
        "/sys/fs/cgroup/user.slice/app.service",
        "/sys/fs/cgroup/user.slice",
        "/sys/fs/cgroup",
    ]


def test_a_group_of_version_1_is_that_of_the_controller_that_is_asked_for(proc: Path) -> None:
    write(proc, "5:cpu,cpuacct:/busy\n4:memory:/pods/a\n1:name=systemd:/init\n", f"{V1_NAMED}\n{V1_CPU}\n{V1_MEMORY}\n")
    assert directories(find("memory", proc=proc)) == [
        "/sys/fs/cgroup/memory/pods/a",
        "/sys/fs/cgroup/memory/pods",
        "/sys/fs/cgroup/memory",
    ]
    assert directories(find("cpu", proc=proc))[0] == "/sys/fs/cgroup/cpu,cpuacct/busy"
    assert directories(find("cpuacct", proc=proc))[0] == "/sys/fs/cgroup/cpu,cpuacct/busy"


@pytest.mark.parametrize("mounts", [f"{V2}\n{V1_MEMORY}", f"{V1_MEMORY}\n{V2}"], ids=["2 first", "1 first"])
def test_version_1_counts_where_both_have_the_process(proc: Path, mounts: str) -> None:
    write(proc, "0::/new\n4:memory:/old\n", mounts)
    found = find("memory", proc=proc)
    assert found is not None
    assert found.version == 1
    assert directories(found)[0] == "/sys/fs/cgroup/memory/old"


def test_version_2_counts_where_version_1_lacks_the_controller(proc: Path) -> None:
    write(proc, "5:cpu,cpuacct:/busy\n0::/new\n", f"{V1_CPU}\n{V2}\n")
    assert directories(find("memory", proc=proc))[0] == "/sys/fs/cgroup/new"


def test_version_2_counts_where_the_process_has_no_group_of_the_mounted_version_1(proc: Path) -> None:
    write(proc, "0::/new\n", f"{V1_MEMORY}\n{V2}\n")
    found = find("memory", proc=proc)
    assert found is not None
    assert found.version == 2


@pytest.mark.parametrize(
    ("memberships", "mounts"),
    [
        ("", ""),
        ("0::/a\n", ""),
        ("", V2),
        ("0::/a\n", DISK),
        ("4:memory:/a\n", DISK),
        ("4:memory:/a\n", V2),
        ("0::/a\n", V1_MEMORY),
        ("4:memory:/a\n", V1_CPU),
        ("3:mem:/a\n2:memory2:/a\n1:name=memory:/a\n", V1_MEMORY),
        ("4:memory:/a\n", V1_MEMORY.replace("rw,memory", "rw,memory2,noprefix")),
        ("garbage\n\n:::\n5\n", "garbage\n\n - \n - cgroup2\nx - cgroup2 cgroup2 rw\n1 2 3 - cgroup2 cgroup2 rw\n"),
        ("4:memory:/a\n", "x - cgroup cgroup rw,memory\n1 2 3 / - cgroup cgroup rw,memory\n"),
        ("7::/a\n", V2),
        ("0:cpu:/a\n", V2),
    ],
    ids=[
        "empty files",
        "no mount",
        "no membership",
        "another file system",
        "another file system with such an option",
        "only in version 1, only 2 mounted",
        "only in version 2, only 1 mounted",
        "another controller mounted",
        "names that resemble it",
        "options that resemble it",
        "garbage",
        "cut off",
        "no hierarchy 0",
        "hierarchy 0 with controllers",
    ],
)
def test_there_is_no_group_where_the_files_name_none(proc: Path, memberships: str, mounts: str) -> None:
    write(proc, memberships, mounts)
    assert find("memory", proc=proc) is None


def test_without_files_there_is_no_group(tmp_path: Path) -> None:
    assert find("memory", proc=tmp_path) is None


@pytest.mark.parametrize(
    ("root", "membership", "expected"),
    [
        ("/", "/", ""),
        ("/", "/a:b", "/a:b"),
        ("/docker/abc", "/docker/abc", ""),
        ("/docker/abc", "/docker/abc/sub", "/sub"),
        ("/docker/abc", "/docker/abcdef", ""),
        ("/docker/abc", "/other", ""),
        ("/docker/abc/", "/docker/abc/sub", "/sub"),
        ("/", "/../../escape", "/escape"),
        ("/", "//doubled///slash", "/doubled/slash"),
    ],
)
def test_the_directory_is_below_the_group_that_is_mounted_as_the_root(
    proc: Path, root: str, membership: str, expected: str
) -> None:
    write(proc, f"0::{membership}\n", f"30 23 0:27 {root} /cgroup rw - cgroup2 cgroup2 rw\n")
    assert directories(find("memory", proc=proc))[0] == f"/cgroup{expected}"
    assert directories(find("memory", proc=proc))[-1] == "/cgroup"


def test_the_mount_at_the_root_of_the_file_system_ends_the_way_up(proc: Path) -> None:
    write(proc, "0::/a/b\n", "30 23 0:27 / / rw - cgroup2 cgroup2 rw\n")
    assert directories(find("memory", proc=proc)) == ["/a/b", "/a", "/"]


def test_optional_fields_of_the_mount_table_do_not_matter(proc: Path) -> None:
    write(proc, "0::/a\n", "30 23 0:27 / /cgroup rw shared:1 master:2 propagate_from:3 unbindable - cgroup2 none rw\n")
    assert directories(find("memory", proc=proc)) == ["/cgroup/a", "/cgroup"]


def test_the_files_of_this_process_are_read_where_no_others_are_named() -> None:
    assert find("memory") == find("memory", proc=Path("/proc"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"4096\n", 4096),
        (b"0", 0),
        (b" 7 \n\n", 7),
        (b"18446744073709551615\n", (1 << 64) - 1),
        (b"max\n", None),
        (b"", None),
        (b"-1\n", None),
        (b"1 2\n", None),
        (b"1.5\n", None),
        (b"0x10\n", None),
        (b"\xff\xfe", None),
    ],
)
def test_a_number_is_decimal_and_anything_else_is_none(tmp_path: Path, content: bytes, expected: int | None) -> None:
    (tmp_path / "memory.max").write_bytes(content)
    assert number(tmp_path / "memory.max") == expected


def test_a_file_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, tmp_path / ("x" * 300)):
        assert text(path) == ""
        assert number(path) is None
        assert table(path) == {}


def test_text_that_is_no_utf_8_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\xffb")
    assert text(tmp_path / "file") == "a\ufffdb"


def test_a_table_has_names_and_numbers_and_ignores_the_rest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(
        "oom_kill 3\nVmRSS:\t  96 kB\nempty\n\nnegative -1\nword max\n  indented 4\ntwice 1\ntwice 2\nzero 0\n"
    )
    assert table(tmp_path / "file") == {"oom_kill": 3, "VmRSS:": 96, "indented": 4, "twice": 2, "zero": 0}
