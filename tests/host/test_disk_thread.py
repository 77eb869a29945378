"""The thread for files: what runs where, what is reported to whom, and a file system that does not respond."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from agent.certificates.contents import Unreadable
from agent.host import disk_thread, inotify, known_files, watching
from agent.host.disk_thread import DiskThread, silent_ones
from tests.host.signal_printer import refuse_instance
from tests.system.eventually import PATIENCE


class Owner:
    """Collects what a thread reports, and in which thread it was told."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.noticed = asyncio.Event()
        self.notices: list[str] = []
        self.threads: set[int] = set()

    def on_change(self) -> None:
        self.threads.add(threading.get_ident())
        self.changed.set()

    def notice(self, text: str) -> None:
        self.threads.add(threading.get_ident())
        self.notices.append(text)
        self.noticed.set()


@asynccontextmanager
async def disk() -> AsyncIterator[tuple[DiskThread, Owner]]:
    owner = Owner()
    thread = DiskThread(owner.on_change, owner.notice)
    try:
        yield thread, owner
    finally:
        await thread.close()
        assert disk_threads() == []


def disk_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "disk"]


async def happens(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await event.wait()


async def test_what_changes_at_once_is_one_change_that_reads_follow(tmp_path: Path) -> None:
    async with disk() as (thread, owner):
        await thread.watch([str(tmp_path)])
        before = await thread.settle()
        (tmp_path / "tls.crt").write_bytes(b"chain")
        await happens(owner.changed)
        (tmp_path / "tls.key").write_bytes(b"key")
        settled = await thread.settle()
        assert settled > before
        await thread.read([str(tmp_path / "tls.key")], 1.0)
        assert thread.newest_change == settled, "the second file came before"


async def test_a_change_after_it_settled_has_another_number(tmp_path: Path) -> None:
    async with disk() as (thread, owner):
        await thread.watch([str(tmp_path)])
        settled = await thread.settle()
        (tmp_path / "tls.crt").write_bytes(b"chain")
        await happens(owner.changed)
        assert thread.newest_change > settled


def timers(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    scheduled: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]  # of CPython's loop
    return [each for each in scheduled if not each.cancelled()]


class Fifo:
    """A named pipe without a writer: whatever opens it for reading hangs, as on a file system that does not respond."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._begun = threading.Event()

    def hang(self) -> str:
        self._begun.set()
        return self.path.read_text()

    async def hangs(self) -> None:
        """Wait until a thread hangs here, or is about to."""
        assert await asyncio.to_thread(self._begun.wait, PATIENCE)

    def respond(self) -> None:
        self.path.write_text("at last")


async def test_a_call_runs_in_another_thread_with_its_arguments_and_its_result_returns() -> None:
    def work(*args: int, key: str) -> tuple[tuple[int, ...], str, str, bool]:
        return args, key, threading.current_thread().name, threading.current_thread().daemon

    async with disk() as (thread, _):
        assert await thread.call(work, 1, 2, key="three") == ((1, 2), "three", "disk", True)


async def test_an_exception_of_a_call_is_raised_and_the_next_call_works() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async with disk() as (thread, _):
        with pytest.raises(ZeroDivisionError):
            await thread.call(fail)
        assert await thread.call(len, "four") == 4


async def test_files_are_read_and_listed(tmp_path: Path) -> None:
    chain, missing = tmp_path / "tls.crt", tmp_path / "missing"
    chain.write_bytes(b"\0chain")
    async with disk() as (thread, _):
        contents = await thread.read([str(chain), str(missing)], 5)
        assert contents[str(chain)] == b"\0chain"
        assert isinstance(contents[str(missing)], Unreadable)
        assert await thread.list(str(tmp_path)) == [str(chain)]
        assert isinstance(await thread.list(str(missing)), Unreadable)


async def test_an_unchanged_content_is_one_object_until_it_is_forgotten(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    Path(path).write_bytes(b"content")
    async with disk() as (thread, _):
        first = (await thread.read([path], PATIENCE))[path]
        assert (await thread.read([path], PATIENCE))[path] is first
        await thread.forget_unused()
        await thread.forget_unused()
        again = (await thread.read([path], PATIENCE))[path]
    assert again == first
    assert again is not first


@asynccontextmanager
async def at_rest(*paths: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[DiskThread, list[str]]]:
    """A thread that knows these files, and the list of its looks at them from then on."""
    looks: list[str] = []
    monkeypatch.setattr(known_files, "SETTLED", 0.0)
    async with disk() as (thread, _):
        read = thread._contents.read

        def noted(path: str) -> bytes | Unreadable:
            looks.append(path)
            return read(path)

        monkeypatch.setattr(thread._contents, "read", noted)
        await thread.watch(map(str, paths))
        for path in paths:
            path.write_bytes(b"old")
        await thread.settle()
        for _ in range(2):  # the second read believes the status that the first has seen
            await thread.read([*map(str, paths)], PATIENCE)
        looks.clear()
        yield thread, looks


async def test_files_at_rest_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "one", tmp_path / "other"]
    async with at_rest(*paths, monkeypatch=monkeypatch) as (thread, looks):
        assert await thread.read([*map(str, paths)], PATIENCE) == {str(path): b"old" for path in paths}
        assert looks == [*map(str, paths)]
        paths[1].write_bytes(b"new")
        await thread.settle()
        looks.clear()
        await thread.read([*map(str, paths)], PATIENCE)
        assert looks == [str(paths[0]), str(paths[1]), str(paths[1])], "what was opened has to read the same twice"


async def test_a_change_between_two_looks_is_looked_for_in_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    async with at_rest(first, second, monkeypatch=monkeypatch) as (thread, _):
        read = thread._contents.read

        def meanwhile(path: str) -> bytes | Unreadable:
            content = read(path)
            if path == str(first) and content == b"old":
                first.write_bytes(b"new")
                second.write_bytes(b"new")
            return content

        monkeypatch.setattr(thread._contents, "read", meanwhile)
        assert set((await thread.read([str(first), str(second)], PATIENCE)).values()) == {b"new"}


async def test_polled_files_are_looked_at_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inotify.Inotify, "__init__", refuse_instance)
    monkeypatch.setattr(watching, "PAUSE", 0.0)
    path = tmp_path / "file"
    async with at_rest(path, monkeypatch=monkeypatch) as (thread, looks):
        assert thread.mode == "polling"
        await thread.read([str(path)], PATIENCE)
        assert looks == [str(path)] * 2


async def test_digests_are_read_without_the_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    here, gone = str(tmp_path / "a"), str(tmp_path / "b")
    async with disk() as (thread, _):
        digests = await thread.digests([here, gone], PATIENCE)
    assert digests[here] == sha256(b"content").digest()
    assert isinstance(digests[gone], Unreadable)


async def test_a_file_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    chain = tmp_path / "tls.crt"
    async with disk() as (thread, owner):
        await thread.watch([str(chain)])
        with chain.open("w") as writer:
            writer.write("half")
            writer.flush()
            await happens(owner.changed)
            reading = asyncio.ensure_future(thread.read([str(chain)], PATIENCE))
            await thread.call(lambda: None)
            assert not reading.done()
            writer.write(" and half")
        assert await reading == {str(chain): b"half and half"}


async def test_a_file_that_is_never_closed_is_read_after_the_time_limit(tmp_path: Path) -> None:
    chain = tmp_path / "tls.crt"
    async with disk() as (thread, owner):
        await thread.watch([str(chain)])
        with chain.open("w") as writer:
            writer.write("half")
            writer.flush()
            await happens(owner.changed)
            assert await thread.read([str(chain)], 0.01) == {str(chain): b"half"}


async def test_a_change_is_reported_in_the_thread_of_the_owner(tmp_path: Path) -> None:
    async with disk() as (thread, owner):
        await thread.watch(str(path) for path in [tmp_path])
        assert thread.mode == "inotify"
        assert not owner.changed.is_set()
        for number in range(3):
            owner.changed.clear()
            (tmp_path / f"{number}").touch()
            await happens(owner.changed)
        assert owner.threads == {threading.get_ident()}
        assert not owner.notices


async def test_another_set_of_paths_takes_the_place_of_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with disk() as (thread, owner):
        await thread.watch([str(first)])
        await thread.watch([str(second)])
        (first / "file").touch()
        for _ in range(10):
            await thread.call(lambda: None)
        assert not owner.changed.is_set()
        (second / "file").touch()
        await happens(owner.changed)


async def test_without_inotify_the_mode_is_polling_and_the_owner_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inotify.Inotify, "__init__", refuse_instance)
    async with disk() as (thread, owner):
        await thread.watch([str(tmp_path)])
        assert thread.mode == "polling"
        await happens(owner.noticed)
        assert ["max_user_instances" in notice for notice in owner.notices] == [True]
        assert owner.threads == {threading.get_ident()}


async def test_while_a_call_hangs_the_loop_goes_on_and_later_calls_wait(tmp_path: Path) -> None:
    fifo = Fifo(tmp_path / "fifo")
    async with disk() as (thread, _):
        hanging = asyncio.ensure_future(thread.call(fifo.hang))
        later = asyncio.ensure_future(thread.call(lambda: "later"))
        await fifo.hangs()
        assert not hanging.done()
        assert not later.done()
        fifo.respond()
        assert await hanging == "at last"
        assert await later == "later"


async def test_a_caller_that_is_cancelled_does_not_end_the_thread(tmp_path: Path) -> None:
    fifo = Fifo(tmp_path / "fifo")
    async with disk() as (thread, _):
        hanging = asyncio.ensure_future(thread.call(fifo.hang))
        await fifo.hangs()
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        fifo.respond()
        assert await thread.call(len, "four") == 4


async def test_close_does_not_wait_for_ever_for_a_call_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_thread, "_LEAVE", 0.01)
    fifo, owner = Fifo(tmp_path / "fifo"), Owner()
    thread = DiskThread(owner.on_change, owner.notice)
    hanging = asyncio.ensure_future(thread.call(fifo.hang))
    await fifo.hangs()
    async with asyncio.timeout(PATIENCE):
        await thread.close()
    (left,) = disk_threads()
    hanging.cancel()
    await asyncio.sleep(0)
    fifo.respond()
    left.join(PATIENCE)
    assert not disk_threads()


async def test_close_ends_the_thread_and_a_second_close_does_nothing() -> None:
    owner = Owner()
    thread = DiskThread(owner.on_change, owner.notice)
    await thread.close()
    assert not disk_threads()
    await thread.close()


async def test_close_ends_what_has_not_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The agent may stop while it reads its first files; asyncio would report tasks that were left."""
    (tmp_path / "a").touch()
    async with disk() as (thread, _):
        waiting = [asyncio.create_task(each) for each in (thread.settle(), thread.read([str(tmp_path / "a")], 9))]
        await asyncio.sleep(0)
        await thread.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    del waiting
    gc.collect()
    assert all(isinstance(each, asyncio.CancelledError) for each in results)
    assert caplog.messages == []


async def test_a_watcher_that_waits_too_long_for_the_file_system_counts_as_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads the files then finds out that they do not respond."""
    monkeypatch.setattr(disk_thread, "_ANSWER", 0.001)
    fifo = Fifo(tmp_path / "fifo")
    hangs = iter([fifo.hang])
    read = inotify.Inotify.read

    def read_late(self: inotify.Inotify) -> list[inotify.DirectoryEvent]:
        for hang in hangs:
            hang()
        return [one for one in read(self) if not one.name]  # none that is itself a change

    monkeypatch.setattr(inotify.Inotify, "read", read_late)
    async with disk() as (thread, owner):
        await thread.watch([str(tmp_path)])
        (tmp_path / "file").touch()
        await happens(owner.changed)
        fifo.respond()


async def test_after_close_a_watcher_that_waits_is_no_change_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_thread, "_LEAVE", 0.01)
    fifo, owner, loop = Fifo(tmp_path / "fifo"), Owner(), asyncio.get_running_loop()
    hangs = iter([fifo.hang])
    monkeypatch.setattr(inotify.Inotify, "read", lambda _: [hang() for hang in hangs][:0])
    thread = DiskThread(owner.on_change, owner.notice)
    await thread.watch([str(tmp_path)])
    (tmp_path / "file").touch()
    await fifo.hangs()
    await asyncio.sleep(0)
    assert len(timers(loop)) == 1
    (left,) = disk_threads()
    await thread.close()
    assert timers(loop) == []
    fifo.respond()
    left.join(PATIENCE)
    assert not owner.changed.is_set()


async def test_a_watcher_that_does_not_wait_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def note(delay: float, *rest: Callable[..., object]) -> asyncio.TimerHandle:
        spans.append(delay)
        return call_later(1e6 if delay == 1.0 else delay, *rest)

    monkeypatch.setattr(loop, "call_later", note)
    async with disk() as (thread, owner):
        await thread.watch([str(tmp_path)])
        (tmp_path / "file").touch()
        await happens(owner.changed)
        await thread.call(lambda: None)
        await asyncio.sleep(0)
        waiting = timers(loop)
    assert 1.0 in spans
    assert not waiting


async def test_paths_that_respond_are_not_silent_whatever_the_answer(ordinary: Path) -> None:
    locked = ordinary / "locked"
    locked.mkdir(0)
    paths = [ordinary, ordinary / "missing", locked / "file", Path("/nul\0name"), Path("/" + "x" * 300)]
    assert await silent_ones(paths) == []
    assert await silent_ones([]) == []
    locked.chmod(0o700)


async def test_paths_that_do_not_respond_are_named_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_thread, "_ANSWER", 0.05)
    fifo, stat = Fifo(tmp_path / "fifo"), os.stat

    def stat_late(path: Path, **rest: bool) -> os.stat_result:
        if path == fifo.path:
            fifo.hang()
        return stat(path, **rest)

    monkeypatch.setattr(os, "stat", stat_late)
    assert await silent_ones(iter([tmp_path, fifo.path, tmp_path / "missing"])) == [fifo.path]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    (hanging,) = [each for each in threading.enumerate() if "fifo" in each.name]
    assert hanging.daemon
    fifo.respond()
    hanging.join(PATIENCE)
    assert not hanging.is_alive()


async def test_the_answer_of_all_is_not_waited_for_longer_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_thread, "_ANSWER", 1e6)
    async with asyncio.timeout(PATIENCE):
        assert await silent_ones([Path("/"), Path("/proc")]) == []
