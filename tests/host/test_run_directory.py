import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.errors import MachineError, RunDirectoryHeld
from agent.host.run_directory import RunDirectory, add_tree
from tests.host.conftest import NOBODY


@contextmanager
def opened(path: Path, **more: bool) -> Iterator[RunDirectory]:
    made = RunDirectory(path, **more)
    try:
        yield made
    finally:
        made.close()


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b") as made:
        assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    with opened(tmp_path / "a" / "b", traversable=True) as made:
        assert stat.S_IMODE(made.path.stat().st_mode) == 0o711


def test_a_proxy_of_another_user_reaches_its_links_whatever_the_umask(tmp_path: Path) -> None:
    """The units set UMask=0077."""
    before = os.umask(0o077)
    try:
        with opened(tmp_path / "run", traversable=True) as made:
            path = made.make_epoch(1, None, {"bin/sidecar": "/bin/true", "here": "/bin/true"})
    finally:
        os.umask(before)
    assert [stat.S_IMODE((path / each).stat().st_mode) for each in ("", "bin")] == [0o700, 0o755]


def test_a_second_agent_that_is_refused_leaves_the_mode_as_it_is(tmp_path: Path) -> None:
    """Proxies of another user reach their sockets through this directory."""
    with opened(tmp_path / "run", traversable=True) as made:
        with pytest.raises(RunDirectoryHeld):
            RunDirectory(made.path)
        assert stat.S_IMODE(made.path.stat().st_mode) == 0o711


def test_a_directory_that_anybody_may_write_into_is_closed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with opened(tmp_path / "run") as made:
        assert stat.S_IMODE(made.path.stat().st_mode) == 0o700


def test_a_second_agent_is_refused_and_the_first_named(tmp_path: Path) -> None:
    with opened(tmp_path / "run"):
        code = "from agent.host.run_directory import RunDirectory; from pathlib import Path; import sys\n"
        code += "RunDirectory(Path(sys.argv[1]))"
        ran = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True, check=False
        )
        assert "RunDirectoryHeld" in ran.stderr
        assert f"another agent (pid {os.getpid()}) does; choose another --run-dir" in ran.stderr


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    with opened(tmp_path / "run"), pytest.raises(RunDirectoryHeld):
        RunDirectory(tmp_path / "run")
    with opened(tmp_path / "run"):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(MachineError, match="not a directory of this user"):
        RunDirectory(tmp_path / "link")
    (tmp_path / "real" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="cannot lock"):
        RunDirectory(tmp_path / "real")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    with pytest.raises(MachineError, match="not a directory of this user"):
        RunDirectory(tmp_path / "run")


def test_a_file_in_its_place_or_no_permission_is_a_machine_error(ordinary: Path) -> None:
    (ordinary / "file").write_text("x")
    with pytest.raises(MachineError, match="choose a writable --run-dir"):
        RunDirectory(ordinary / "file")
    with pytest.raises(MachineError, match="choose a writable --run-dir"):
        RunDirectory(Path("/proc/nowhere"))


def test_a_directory_that_others_use_is_not_taken_over(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "precious").write_text("x")
    with pytest.raises(MachineError), opened(shared):
        pass


def test_what_was_remembered_is_recalled_by_the_next_agent(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as made:
        assert made.recall() == {}
        made.remember({"next_epoch": 7})
    with opened(tmp_path / "run") as made:
        assert made.recall() == {"next_epoch": 7}
        assert stat.S_IMODE((made.path / "state.json").stat().st_mode) == 0o600
        assert {entry.name for entry in made.path.iterdir()} == {"lock", "state.json"}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"7"])
def test_a_memory_that_makes_no_sense_is_none(tmp_path: Path, content: bytes) -> None:
    with opened(tmp_path / "run") as made:
        (made.path / "state.json").write_bytes(content)
        assert made.recall() == {}


def test_a_memory_that_cannot_be_written_is_a_machine_error_and_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as made:
        (made.path / "state.json").mkdir()
        with pytest.raises(MachineError, match="cannot write"):
            made.remember({})
        assert {entry.name for entry in made.path.iterdir()} == {"lock", "state.json"}


def test_an_epoch_gets_an_empty_directory_of_its_own(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as made:
        first = made.make_epoch(3, None)
        (first / "hr_parent_0").write_text("left")
        again = made.make_epoch(3, None)
        assert again == first
        assert not list(again.iterdir())
        assert stat.S_IMODE(again.stat().st_mode) == 0o700
        made.remove_epoch(3)
        made.remove_epoch(3)
        assert not first.exists()


def test_run_may_be_emptied_while_the_agent_runs(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as made:
        (made.path / "lock").unlink()
        made.path.rmdir()
        assert made.make_epoch(4, None).is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root")
def test_an_epoch_of_another_user_owns_its_directory(tmp_path: Path) -> None:
    with opened(tmp_path / "run", traversable=True) as made:
        assert made.make_epoch(1, (NOBODY, NOBODY)).stat().st_uid == NOBODY


def test_a_tree_is_added_once_with_links_and_files(tmp_path: Path) -> None:
    home = tmp_path / "1"
    home.mkdir()
    add_tree(home, {"files-1/a": "/dev/fd/7", "files-1/sub/b": b"text"}, None)
    assert (home / "files-1/a").readlink() == Path("/dev/fd/7")
    assert (home / "files-1/sub/b").read_bytes() == b"text"
    assert (home / "files-1/sub/b").stat().st_mode & 0o777 == 0o600
    add_tree(home, {"files-1/a": "/dev/fd/8", "files-2/a": "/dev/fd/9"}, None)
    assert (home / "files-1/a").readlink() == Path("/dev/fd/7"), "equal names mean equal content"
    assert (home / "files-2/a").readlink() == Path("/dev/fd/9")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]


def test_an_empty_tree_makes_nothing(tmp_path: Path) -> None:
    add_tree(tmp_path / "none", {}, None)


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_a_proxys_user_cannot_make_the_agent_write_elsewhere(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name appears after the agent has looked for it: nothing is written through it, and nothing stays beside."""
    home, elsewhere = tmp_path / "1", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    planted = home / "files-1"
    if kind == "link":
        planted.symlink_to(elsewhere)
    else:
        (planted / "a").mkdir(parents=True)
    monkeypatch.setattr("os.path.lexists", lambda _: False)
    with pytest.raises(MachineError, match=r"^cannot make the files of an epoch in "):
        add_tree(home, {"files-1/a": b"key"}, None)
    monkeypatch.undo()
    assert list(elsewhere.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "elsewhere"]
