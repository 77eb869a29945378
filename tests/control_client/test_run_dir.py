import fcntl
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from agent.control_client import run_dir
from agent.control_client.run_dir import NoAgent, chosen, nobody_there
from agent.core.errors import MachineError
from agent.host.run_directory import RunDirectory

_DYING = """
import os, sys
from pathlib import Path
from agent.host.run_directory import RunDirectory
RunDirectory(Path(sys.argv[1]))
print(os.getpid(), flush=True)
os._exit(9)
"""


@pytest.mark.parametrize(
    ("variables", "writable", "wanted"),
    [
        ({}, "/run", "/run/proxy-agent"),
        ({"RUNTIME_DIRECTORY": "/run/one:/run/two"}, "/run", "/run/one"),
        ({"XDG_RUNTIME_DIR": "/tmp"}, "/run", "/run/proxy-agent"),
        ({"XDG_RUNTIME_DIR": "/tmp"}, "/tmp", "/tmp/proxy-agent"),
        ({"XDG_RUNTIME_DIR": "/nowhere"}, "", f"/dev/shm/proxy-agent-{os.getuid()}"),
        ({}, "", f"/dev/shm/proxy-agent-{os.getuid()}"),
    ],
    ids=str,
)
def test_the_default_run_directory(
    variables: dict[str, str], writable: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "access", lambda path, _: path == writable)
    assert run_dir.default() == wanted


@pytest.mark.skipif(os.getuid() != 0, reason="wants root")
def test_a_directory_that_another_user_made_first_is_skipped(tmp_path: Path) -> None:
    wanted = str(tmp_path / "proxy-agent-0")
    assert run_dir._first_own(wanted) == wanted
    Path(wanted).mkdir()
    os.chown(wanted, 65534, 65534)
    (tmp_path / "proxy-agent-0.1").symlink_to("/proc/self")
    os.chown(tmp_path / "proxy-agent-0.1", 65534, 65534, follow_symlinks=False)
    assert run_dir._first_own(wanted) == f"{wanted}.2"
    Path(f"{wanted}.2").mkdir()
    assert run_dir._first_own(wanted) == f"{wanted}.2", "the agent's own, where its clients look too"


@pytest.mark.skipif(os.getuid() != 0, reason="wants root")
def test_if_other_users_made_all_candidates_none_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_dir, "_NAMES", 3)
    for name in ("mine", "mine.1", "mine.2"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 65534, 65534)
    with pytest.raises(MachineError, match=r"other users have made .*/mine and 2 more; choose a --run-dir"):
        run_dir._first_own(str(tmp_path / "mine"))


@pytest.mark.skipif(os.getuid() != 0, reason="wants root")
@pytest.mark.parametrize(("mode", "trusted"), [(0o755, True), (0o1777, False), (0o775, False)])
def test_the_owner_of_a_directory_is_believed_where_only_root_can_have_put_it(
    tmp_path: Path, mode: int, trusted: bool
) -> None:
    """systemd creates one in /run for a unit with `User=`; in /tmp any user can create one."""
    tmp_path.chmod(mode)
    directory = tmp_path / "proxy-agent"
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    assert run_dir.is_trusted(65534, str(directory)) is trusted
    assert run_dir.is_trusted(0, str(directory))
    assert not run_dir.is_trusted(1000, str(directory))


def test_without_a_directory_only_root_and_our_own_user_are_trusted(tmp_path: Path) -> None:
    assert run_dir.is_trusted(os.getuid(), str(tmp_path / "nowhere"))
    assert not run_dir.is_trusted(os.getuid() + 1, str(tmp_path / "nowhere"))


def test_what_is_said_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_RUN_DIR", "/from/environment")
    assert chosen("/given") == "/given"
    assert chosen(None) == "/from/environment"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert str(nobody_there(f"{tmp_path}/gone")) == (
        f"cannot reach an agent at {tmp_path}/gone: there is no such directory; "
        "start one, or name its directory with --run-dir"
    )


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a directory" in str(nobody_there(f"{tmp_path}/file")).lower()


def test_a_directory_without_an_agent_is_recognised(tmp_path: Path) -> None:
    assert "it is no agent's run directory" in str(nobody_there(str(tmp_path)))


def test_an_exited_agent_is_reported_with_its_pid(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _DYING, str(tmp_path / "r")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    pid = made.stdout.strip()
    found = nobody_there(f"{tmp_path}/r")
    assert isinstance(found, NoAgent)
    assert str(found) == f"cannot reach the agent at {tmp_path}/r: the last one (pid {pid}) has exited; start one"


def test_an_agent_that_takes_no_orders_yet_is_there(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "r")
    try:
        said = str(nobody_there(f"{tmp_path}/r"))
    finally:
        directory.close()
    expected = f"it runs (pid {os.getpid()}), but does not accept commands yet"
    assert said == f"cannot reach the agent at {tmp_path}/r: {expected}"


@pytest.mark.parametrize(
    ("lock", "age", "alive"),
    [
        (f"{os.getpid()}", 0, True),
        (f" {os.getpid()}\n", 0, True),
        (f"{os.getpid()}", 1_000_000_000, False),
        ("", 0, False),
        ("0", 0, False),
        ("-1", 0, False),
        ("self", 0, False),
        ("../1", 0, False),
        ("99999999999999999999", 0, False),
        ("\0", 0, False),
    ],
    ids=[
        "us",
        "us with blanks",
        "a pid that another had",
        "nobody",
        "zero",
        "negative",
        "a name",
        "a path",
        "huge",
        "NUL",
    ],
)
def test_the_last_agent_lives_if_its_process_is_older_than_its_lock(
    lock: str, age: int, alive: bool, tmp_path: Path
) -> None:
    (tmp_path / "lock").write_text(lock)
    when = (tmp_path / "lock").stat().st_mtime - age
    os.utime(tmp_path / "lock", (when, when))
    assert run_dir.lives(str(tmp_path)) is alive


def test_where_there_is_no_lock_nobody_lives(tmp_path: Path) -> None:
    assert not run_dir.lives(str(tmp_path))
    assert not run_dir.lives(str(tmp_path / "nowhere"))


def test_an_agent_in_the_midst_of_an_upgrade_is_there(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(str(os.getpid()))
    assert f"it runs (pid {os.getpid()})" in str(nobody_there(str(tmp_path)))


def test_an_agent_that_wrote_no_pid_yet_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    assert "(pid unknown) has exited" in str(nobody_there(str(tmp_path)))


def test_a_directory_whose_name_is_too_long_is_no_agents(tmp_path: Path) -> None:
    found = nobody_there(f"{tmp_path}/{'x' * 300}")
    assert isinstance(found, NoAgent)
    assert "name too long" in str(found)


def test_an_agent_whose_pid_is_not_visible_here_is_known_by_its_lock(tmp_path: Path) -> None:
    """It runs in another PID namespace, or wrote no pid yet."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not run_dir.lives(str(tmp_path))
        assert "it runs (pid unknown), but does not accept commands yet" in str(nobody_there(str(tmp_path)))
    assert "has exited" in str(nobody_there(str(tmp_path)))


@pytest.mark.parametrize(("later", "alive"), [(1, True), (-1, True), (-10, False)])
def test_a_process_that_started_after_the_lock_was_taken_is_another_one(
    later: int, alive: bool, tmp_path: Path
) -> None:
    """The kernel's clock and a file's time may differ by two seconds."""
    (tmp_path / "lock").write_text(str(os.getpid()))
    when = psutil.Process().create_time() + later
    os.utime(tmp_path / "lock", (when, when))
    assert run_dir.lives(str(tmp_path)) is alive


def test_a_lock_that_vanishes_is_not_held(tmp_path: Path) -> None:
    assert not run_dir._is_locked(str(tmp_path / "lock"))


def test_a_lock_that_we_may_not_read_is_told_like_a_directory(ordinary: Path) -> None:
    (ordinary / "lock").touch(0)
    found = nobody_there(str(ordinary))
    assert not isinstance(found, NoAgent)
    assert "permission denied" in str(found)


def test_who_is_not_trusted_is_named_by_his_uid() -> None:
    error = run_dir.distrusted(1234, "/run/x")
    assert "uid 1234" in str(error)
    assert "/run/x" in str(error)
    assert not isinstance(error, NoAgent)


def test_who_may_not_look_is_told_whom_to_be(ordinary: Path) -> None:
    closed = ordinary / "closed"
    closed.mkdir(mode=0)
    try:
        found = nobody_there(str(closed))
    finally:
        closed.chmod(0o700)
    assert isinstance(found, MachineError)
    assert not isinstance(found, NoAgent)
    assert "permission denied; run this as root or as the agent's user" in str(found)
