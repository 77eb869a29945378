"""Reading and listing real files and other file types."""

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import pytest

from agent.certificates.contents import Unreadable
from agent.certificates.findings import Fault
from agent.host import files
from agent.host.files import Tree, list_directory, list_tree, matching, read_stable
from agent.host.watching import Watcher
from tests.system.eventually import PATIENCE

"""Seconds that a read may need at most; a machine under load needs much of it."""

Settled = Callable[[Collection[str]], Awaitable[None]]


async def at_rest(_: Collection[str]) -> None:
    """No writer exists."""


async def never(_: Collection[str]) -> None:
    """Wait for a writer that does not close."""
    await asyncio.Event().wait()


def after(*deeds: Callable[[], object]) -> Settled:
    """Execute each of these changes between two reads."""
    waiting = iter(deeds)

    async def settled(_: Collection[str]) -> None:
        next(waiting, lambda: None)()

    return settled


async def read(path: Path, settled: Settled = at_rest, settle_timeout: float = PATIENCE) -> bytes | Unreadable:
    contents = await read_stable([str(path)], settled=settled, settle_timeout=settle_timeout)
    assert list(contents) == [str(path)]
    return contents[str(path)]


async def test_a_file_at_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content" * 100_000)
    assert await read(tmp_path / "file") == b"content" * 100_000


async def test_a_link_is_read_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert await read(tmp_path / "link") == b"content"


async def test_two_reads_must_agree(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("0")
    settled = after(lambda: file.write_text("1"), file.unlink, lambda: file.write_text("3"))
    assert await read(file, settled) == b"3"


async def test_reads_that_never_agree_end_with_the_timeout(tmp_path: Path) -> None:
    file, numbers = tmp_path / "file", iter(range(1_000_000))

    async def restless(_: Collection[str]) -> None:
        file.write_text(str(next(numbers)))

    file.touch()
    assert await read(file, restless, settle_timeout=0.05) == str(next(numbers) - 1).encode()


async def test_a_writer_who_never_closes_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("so far")
    assert await read(tmp_path / "file", never, settle_timeout=0.01) == b"so far"


async def test_a_writer_is_waited_for_until_he_closes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    heard = asyncio.Event()
    watcher = Watcher(lambda _: heard.set(), notice=print, loop=asyncio.get_running_loop())
    watcher.watch([str(file)])
    with file.open("w") as writer:
        writer.write("half")
        writer.flush()
        await asyncio.wait_for(heard.wait(), PATIENCE)
        reading = asyncio.ensure_future(read(file, watcher.settled))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not reading.done()
        writer.write(" and whole")
    assert await reading == b"half and whole"
    watcher.close()


def unreadable(reason: str, *, passes: bool = False) -> Unreadable:
    return Unreadable(reason, Fault.UNREADABLE, passes)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM])
async def test_what_the_machine_is_short_of_passes(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("agent.host.files.os.open", fail)
    assert await read(tmp_path / "file") == unreadable(os.strerror(number).lower(), passes=True)


async def test_what_is_no_file_is_missing_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("../gone/tls.crt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        reasons = {
            name: await read(tmp_path / name) for name in ("none", "dangling", "fifo", "socket", "loop", "nul\0", "")
        }
    assert reasons == {
        "none": Unreadable("no such file or directory"),
        "dangling": Unreadable("it is a link to ../gone/tls.crt, and there is no such file"),
        "fifo": unreadable("not a regular file"),
        "socket": unreadable("no such device or address"),
        "loop": unreadable("too many levels of symbolic links"),
        "nul\0": Unreadable("its name contains a NUL byte"),
        "": unreadable("a directory, not a file"),
    }


async def test_what_may_not_be_read_is_missing(ordinary: Path) -> None:
    (ordinary / "key.pem").touch(mode=0o000)
    uid, owner = os.geteuid(), (ordinary / "key.pem").stat()
    why = f"permission denied to uid {uid} (mode 0000, owner {owner.st_uid}:{owner.st_gid})"
    assert await read(ordinary / "key.pem") == unreadable(why)


async def test_a_file_in_a_closed_directory_is_missing(ordinary: Path) -> None:
    (ordinary / "closed").mkdir()
    (ordinary / "closed" / "key.pem").touch()
    (ordinary / "closed").chmod(0)
    why = f"permission denied to uid {os.geteuid()}, which may not enter its directory"
    assert await read(ordinary / "closed" / "key.pem") == unreadable(why)
    (ordinary / "closed").chmod(0o700)


@pytest.mark.parametrize(("excess", "is_missing"), [(0, False), (1, True)])
async def test_sixteen_mebibytes_are_the_most(tmp_path: Path, excess: int, is_missing: bool) -> None:
    with (tmp_path / "file").open("wb") as sparse:
        sparse.truncate(files.LARGEST + excess)
    assert (await read(tmp_path / "file") == unreadable("larger than 16 MiB")) is is_missing


async def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as sparse:
        sparse.truncate(2**40)
    assert await read(tmp_path / "file") == unreadable("larger than 16 MiB")


async def test_the_loop_gets_its_turn_among_thousands_of_files(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.pem") for number in range(3_000)]
    for path in paths:
        Path(path).write_text(path)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    contents = await read_stable(paths, settled=at_rest, settle_timeout=PATIENCE)
    counting.cancel()
    assert contents == {path: path.encode() for path in paths}
    assert turns >= 2 * len(paths) // files._BATCH


def test_a_directory_lists_its_visible_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "..2024").mkdir()
    (tmp_path / "..2024" / "tls.key").touch()
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "tls.key").symlink_to("..data/tls.key")
    (tmp_path / "ca.crt").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    assert list_directory(str(tmp_path)) == [str(tmp_path / "ca.crt"), str(tmp_path / "tls.key")]


def test_a_tree_is_listed_so_many_levels_deep_and_through_links(tmp_path: Path) -> None:
    for name in ("a/fullchain.pem", "a/b/key.pem", "a/b/c/deep.pem", ".hidden/no.pem", "run/no.pem", "top.pem"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "again").symlink_to("../a")
    (tmp_path / "other").symlink_to("a/b")
    (tmp_path / "loop").symlink_to("loop")
    tree = list_tree(str(tmp_path), 3, f"{tmp_path}/run")
    assert isinstance(tree, Tree)
    assert sorted(path.removeprefix(f"{tmp_path}/") for path in tree.files) == [
        "a/again/fullchain.pem", "a/b/key.pem", "a/fullchain.pem", "other/c/deep.pem", "other/key.pem", "top.pem",
    ]  # fmt: skip
    below = ["", "/a", "/other", "/a/again", "/a/b", "/other/c"]
    assert sorted(tree.directories) == sorted(f"{tmp_path}{each}" for each in below)
    assert list_tree(str(tmp_path), 1) == Tree([f"{tmp_path}/top.pem"], [str(tmp_path)], {})


def test_a_tree_without_a_top_is_unreadable(tmp_path: Path) -> None:
    assert list_tree(str(tmp_path / "none"), 3) == Unreadable("no such file or directory")


def test_an_unreadable_directory_in_a_tree_is_named(ordinary: Path) -> None:
    (ordinary / "a").mkdir(mode=0)
    (ordinary / "top.pem").touch()
    tree = list_tree(str(ordinary), 3)
    assert isinstance(tree, Tree)
    top, below = str(ordinary), f"{ordinary}/a"
    assert (tree.files, tree.directories) == ([f"{top}/top.pem"], [top, below])
    assert tree.unreadable[below].startswith("permission denied to uid")


def test_a_directory_that_is_none_is_missing_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert list_directory(str(tmp_path / "none")) == Unreadable("no such file or directory")
    assert list_directory(str(tmp_path / "file")) == Unreadable("not a directory")
    assert list_directory("nul\0") == Unreadable("its name contains a NUL byte")


def test_matching_lists_paths_and_marks_directories(tmp_path: Path) -> None:
    for name in ("b.pem", "a.pem", ".hidden", "a\nb"):
        (tmp_path / name).touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub")
    (tmp_path / "loop").symlink_to("loop")
    assert matching(f"{tmp_path}/*") == [f"{tmp_path}/{name}" for name in ("a.pem", "b.pem", "link/", "loop", "sub/")]
    assert matching(f"{tmp_path}/none/*") == []
