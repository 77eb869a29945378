"""The watcher over a loader that returns what a test has told it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.core.errors import BadInput, MachineError
from agent.core.events import Event, RevisionMissing, RevisionReady
from agent.core.policy import Policy
from agent.core.revision import Revision
from agent.host import clock
from agent.inputs import watch as module
from agent.inputs.finding_log import FindingLog
from agent.inputs.loader import Loader, LoadResult
from agent.inputs.programs import Programs
from agent.inputs.revisions import LoadedRevision, RevisionStore
from agent.inputs.rotation_schedule import RotationSchedule
from agent.inputs.settings import Settings
from agent.inputs.watch import InputWatcher
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.pki import Authority

KIND = Envoy(Flags(), 1.0)
PROGRAM = Path("/no/such/proxy")
PATIENCE = 10.0  # seconds that a test waits for another thread at the most
TURNS = 1000  # of the loop, at the most, until something has happened
NOTHING = LoadResult(None)


@dataclass
class Disk:
    """A loader that returns one result after another, the last one for ever; `busy` holds it up."""

    results: list[LoadResult | Exception]
    loads: int = 0
    ended: int = 0
    strays_reported: int = 0
    busy: asyncio.Event | None = None
    silent: tuple[tuple[Path, ...], str] | None = None
    covered: int = 0
    reports: FindingLog = field(default_factory=lambda: FindingLog(0.0))
    programs: Any = field(default_factory=lambda: SimpleNamespace(path=PROGRAM))

    async def load(self) -> LoadResult:
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        self.loads += 1
        try:
            if self.busy is not None:
                await self.busy.wait()
        finally:
            self.ended += 1
        if isinstance(result, Exception):
            raise result
        return result

    def complaints(self) -> tuple[()]:
        return ()

    async def report_strays(self) -> None:
        self.strays_reported += 1


class Thread:
    """In place of the thread for files: nothing changes on the disk but what a test says."""

    mode = "told"

    def __init__(self, on_change: Callable[[], None], notice: Callable[[str], None]) -> None:
        self.on_change, self.notice, self.closed = on_change, notice, False
        self.newest_change = 0

    def changes(self) -> None:
        self.newest_change += 1
        self.on_change()

    async def call(self, function: Callable[[], object]) -> object:
        return function()

    async def close(self) -> None:
        self.closed = True


@dataclass
class Watching:
    """A watcher at work, and what it has posted and recorded."""

    watcher: InputWatcher
    disk: Disk
    task: asyncio.Task[None]
    posted: list[Event]
    recorded: list[str]

    @property
    def thread(self) -> Thread:
        return cast("Thread", self.watcher._files)

    async def until(self, happened: Callable[[], object]) -> None:
        for _ in range(TURNS):
            if happened():
                return
            await asyncio.sleep(0)
        pytest.fail("it does not happen")

    async def loaded(self, number: int = 1) -> None:
        """Wait until that many loads have been dealt with, and no other has begun."""
        await self.until(lambda: self.disk.ended == number)
        for _ in range(10):
            await asyncio.sleep(0)
        assert self.disk.loads == number

    async def again(self) -> None:
        """Load once more."""
        number = self.disk.ended + 1
        self.watcher.reload_soon()
        await self.loaded(number)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 1000.0 seconds past the start of the machine, and no thread reads files."""
    monkeypatch.setattr(clock, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(module, "DiskThread", Thread)


def settings(directory: Path, **more: object) -> Settings:
    plain = Settings(str(PROGRAM), KIND, (directory,), None, (), directory, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    return replace(plain, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def watching(*results: LoadResult | Exception, busy: bool = False, **more: object) -> AsyncIterator[Watching]:
    """Watch; `busy`: the loads are held up."""
    posted, recorded = list[Event](), list[str]()
    configured = settings(Path("/certs"), **more)
    watcher = InputWatcher(
        configured,
        Programs(PROGRAM, KIND, None),
        RevisionStore(),
        posted.append,
        lambda: recorded.append(watcher.missing),
    )
    disk = Disk(list(results), busy=asyncio.Event() if busy else None)
    watcher.loader = cast("Loader", disk)
    watcher.timing = cast("RotationSchedule", SimpleNamespace(not_before=lambda loaded: loaded.not_before))
    task = asyncio.create_task(watcher.watch())
    made = Watching(watcher, disk, task, posted, recorded)
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def loaded(name: str, not_before: float = 0.0) -> LoadedRevision:
    return cast("LoadedRevision", SimpleNamespace(revision=Revision(name, "digest"), not_before=not_before))


def texts(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    return [(vars(each)["event"], each.levelno, each.getMessage()) for each in caplog.records if each.name == "agent"]


# What is posted


async def test_a_loaded_revision_is_posted_with_the_time_from_which_it_may_serve(told: None) -> None:
    async with watching(LoadResult(loaded("a", 7.0)), LoadResult(loaded("b", 8.0))) as it:
        await it.loaded()
        await it.again()
    assert it.posted == [
        RevisionReady(at=1000.0, revision=Revision("a", "digest"), not_before=7.0),
        RevisionReady(at=1000.0, revision=Revision("b", "digest"), not_before=8.0),
    ]


async def test_a_revision_is_posted_with_the_first_change_since_the_last_load(
    told: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(*(LoadResult(loaded(name)) for name in "abc")) as it:
        await it.loaded()
        for now in (2000.0, 3000.0):
            monkeypatch.setattr(clock, "monotonic", lambda now=now: now)
            it.thread.changes()
        await it.loaded(2)
        await it.again()
    assert [event.changed_at for event in it.posted if isinstance(event, RevisionReady)] == [None, 2000.0, None]


async def test_what_is_missing_is_posted_with_what_is_refused(told: None) -> None:
    async with watching(LoadResult(None, ("/a", "/b"), refused=("/c is empty", "/d is old"))) as it:
        await it.loaded()
        assert it.posted == [RevisionMissing(at=1000.0, what="/a, /b; /c is empty; /d is old")]
        assert "/a, /b" in it.watcher.missing
        assert "/c" not in it.watcher.missing


async def test_a_revision_is_posted_though_something_beside_it_is_missing(told: None) -> None:
    async with watching(LoadResult(loaded("a"), missing=("/b",), refused=("/c",))) as it:
        await it.loaded()
    assert [type(event) for event in it.posted] == [RevisionReady]


async def test_nothing_is_posted_for_a_load_that_tells_nothing(told: None) -> None:
    async with watching(NOTHING) as it:
        before = it.watcher.missing
        await it.loaded()
    assert (it.posted, it.watcher.missing, bool(before)) == ([], before, True)


@pytest.mark.parametrize("waits", [True, False])
async def test_files_that_an_agent_waits_for_are_logged_once(
    waits: bool, told: None, caplog: pytest.LogCaptureFixture
) -> None:
    missing = [LoadResult(None, (name,)) for name in ("/a", "/a", "/b")]
    async with watching(*missing, policy=Policy(wait=waits)) as it:
        await it.loaded()
        await it.again()
        await it.again()
    logged = [(event, text) for event, _, text in texts(caplog)]
    assert [event for event, _ in logged] == (["files.awaited"] * 2 if waits else [])
    assert ["/a" in text for _, text in logged] == ([True, False] if waits else [])


# When it loads


async def test_a_change_on_the_disk_makes_a_load_and_quiet_makes_none(
    told: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "agent")
    async with watching(NOTHING) as it:
        await it.loaded()
        it.thread.changes()
        await it.loaded(2)
    assert texts(caplog) == []


async def test_changes_during_a_load_make_one_more(told: None) -> None:
    async with watching(NOTHING, busy=True) as it:
        await it.until(lambda: it.disk.loads)
        for _ in range(3):
            it.thread.changes()
        assert it.disk.busy is not None
        it.disk.busy.set()
        await it.loaded(2)


@pytest.mark.parametrize("asks", ["nobody", "reload", "load"])
async def test_changes_that_a_load_has_read_make_no_other_unless_one_is_asked_for(told: None, asks: str) -> None:
    async with watching(NOTHING, busy=True) as it:
        await it.until(lambda: it.disk.loads)
        it.thread.changes()
        it.disk.covered = it.thread.newest_change
        request = asyncio.ensure_future(it.watcher.load()) if asks == "load" else None
        if asks == "reload":
            it.watcher.reload_soon()
        await asyncio.sleep(0)
        assert it.disk.busy is not None
        it.disk.busy.set()
        await it.loaded(1 if asks == "nobody" else 2)
        if request is not None:
            assert await request is NOTHING


async def test_a_change_after_those_that_a_load_has_read_makes_another(told: None) -> None:
    async with watching(NOTHING, busy=True) as it:
        await it.until(lambda: it.disk.loads)
        it.thread.changes()
        it.disk.covered = it.thread.newest_change
        it.thread.changes()
        assert it.disk.busy is not None
        it.disk.busy.set()
        await it.loaded(2)


async def test_the_time_of_a_change_is_of_one_that_was_not_read_yet(
    told: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(LoadResult(loaded("a")), busy=True) as it:
        await it.until(lambda: it.disk.loads)
        it.thread.changes()
        it.disk.covered = it.thread.newest_change
        assert it.disk.busy is not None
        it.disk.busy.set()
        await it.loaded()
        monkeypatch.setattr(clock, "monotonic", lambda: 2000.0)
        it.thread.changes()
        await it.loaded(2)
        assert [cast("RevisionReady", each).changed_at for each in it.posted] == [None, 2000.0]


async def test_a_load_that_names_a_time_is_repeated_then_without_a_change(told: None) -> None:
    async with watching(LoadResult(None, again_at=1000.0), LoadResult(None, again_at=999.0), NOTHING) as it:
        await it.loaded(3)


async def test_unused_files_are_reported_once_after_the_first_revision(told: None) -> None:
    async with watching(NOTHING, LoadResult(loaded("a")), LoadResult(loaded("b"))) as it:
        counts = []
        await it.loaded()
        for _ in range(3):
            counts.append(it.disk.strays_reported)
            await it.again()
    assert [*counts, it.disk.strays_reported] == [0, 1, 1, 1]


# Operators


async def test_an_operator_gets_a_load_that_began_after_the_request(told: None) -> None:
    first, second = LoadResult(loaded("a")), LoadResult(loaded("b"))
    async with watching(first, second, busy=True) as it:
        await it.until(lambda: it.disk.loads)
        answers = [asyncio.create_task(it.watcher.load()) for _ in range(2)]
        await asyncio.sleep(0)
        assert it.disk.busy is not None
        it.disk.busy.set()
        assert await asyncio.gather(*answers) == [second, second]
        await it.loaded(2)


async def test_an_operator_who_is_gone_holds_nobody_up(told: None) -> None:
    async with watching(NOTHING, busy=True) as it:
        await it.until(lambda: it.disk.loads)
        gone, there = (asyncio.create_task(it.watcher.load()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert it.disk.busy is not None
        it.disk.busy.set()
        assert await there is NOTHING
        await it.loaded(2)
        assert not it.task.done()


# Failures of the machine


@pytest.mark.parametrize("error", [MachineError("no descriptors left"), OSError(28, "No space left")])
async def test_a_failure_of_the_machine_is_logged_once_and_tried_again_in_a_second(
    error: Exception, told: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(error, error, NOTHING, error, NOTHING) as it:
        await it.loaded()
        answer = asyncio.create_task(it.watcher.load())
        await it.loaded(2)
        result = await answer
        await it.again()
        await it.again()
    assert (result.loaded, result.again_at, result.missing) == (None, 1001.0, ())
    assert [str(error) in text for text in result.refused] == [True]
    assert [(event, level, str(error) in text) for event, level, text in texts(caplog)] == [
        ("disk.unusable", logging.ERROR, True),
        ("disk.unusable", logging.ERROR, True),
    ]
    assert it.posted == []


@pytest.mark.parametrize("bug", [BadInput("a bug"), ValueError("a bug")])
async def test_a_bug_ends_the_watch(bug: Exception, told: None) -> None:
    async with watching(bug) as it:
        with pytest.raises(type(bug), match="a bug"):
            await it.task


async def test_a_watch_that_is_cancelled_cancels_its_load(told: None) -> None:
    async with watching(NOTHING, busy=True) as it:
        await it.until(lambda: it.disk.loads)
        it.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await it.task
        await it.until(lambda: it.disk.ended)


async def test_a_degraded_watch_is_a_warning(told: None, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(NOTHING) as it:
        it.thread.notice("no inotify watches left")
        assert it.watcher.mode == "told"
        assert texts(caplog) == [("watch.degraded", logging.WARNING, "no inotify watches left")]
        await it.watcher.close()
        assert it.thread.closed


# A disk that hangs


class Hanging:
    """File systems of which some do not answer."""

    def __init__(self, silent: Iterable[Path]) -> None:
        self.silent = [*silent]
        self.asked: list[list[Path]] = []

    async def __call__(self, paths: Iterable[Path]) -> list[Path]:
        self.asked.append([*paths])
        return [path for path in self.asked[-1] if path in self.silent]


@pytest.fixture
def hanging(told: None, monkeypatch: pytest.MonkeyPatch) -> Hanging:
    """The directory of certificates hangs, and every load is asked about at once."""
    monkeypatch.setattr(module, "_SLOW", 0.0)
    made = Hanging([Path("/certs"), Path("/w")])
    monkeypatch.setattr(module, "silent_ones", made)
    return made


async def test_a_disk_that_hangs_is_named_to_every_operator(hanging: Hanging, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(NOTHING, LoadResult(loaded("a")), busy=True, watched=(Path("/w"),)) as it:
        early = asyncio.create_task(it.watcher.load())
        await it.until(lambda: it.disk.silent)
        late = await it.watcher.load()
        result = await early
        assert it.disk.silent is not None
        paths, text = it.disk.silent
        assert paths == (Path("/certs"), Path("/w"))
        assert "/certs, /w" in text
        assert result == late == LoadResult(None, refused=(text,))
        assert it.recorded == [text]
        assert texts(caplog) == [("disk.silent", logging.ERROR, text)]
        assert it.posted == []
        assert it.disk.loads == 1


async def test_a_disk_that_hangs_is_asked_about_until_it_is_known(hanging: Hanging) -> None:
    hanging.silent.clear()
    async with watching(NOTHING, busy=True) as it:
        await it.until(lambda: len(hanging.asked) == 3)
        assert (it.disk.silent, it.recorded) == (None, [])
        hanging.silent.append(PROGRAM)
        await it.until(lambda: it.disk.silent)
        asked = len(hanging.asked)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(hanging.asked) == asked


async def test_every_place_of_the_operator_is_asked_about(hanging: Hanging) -> None:
    more = {"watched": (Path("/w"),), "config": Path("/etc/envoy.yaml")}
    async with watching(NOTHING, busy=True, **more) as it:
        await it.until(lambda: it.disk.silent)
    assert hanging.asked == [[Path("/certs"), Path("/w"), Path("/etc/envoy.yaml"), PROGRAM]]


async def test_a_disk_that_answers_again_is_logged_and_its_load_counts(
    hanging: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent")
    async with watching(LoadResult(loaded("a")), busy=True) as it:
        await it.until(lambda: it.disk.silent)
        assert it.disk.busy is not None
        it.disk.busy.set()
        await it.loaded()
        assert it.disk.silent is None
        assert [(event, level) for event, level, _ in texts(caplog)] == [
            ("disk.silent", logging.ERROR),
            ("disk.answers", logging.INFO),
        ]
        assert [type(event) for event in it.posted] == [RevisionReady]


async def test_operators_who_asked_before_the_load_and_during_it_hear_of_the_hanging_disk(hanging: Hanging) -> None:
    """The first is answered by the load that hangs; the second would have been by the next."""
    hanging.silent.clear()
    async with watching(NOTHING, NOTHING, busy=True) as it:
        first = asyncio.create_task(it.watcher.load())
        await it.until(lambda: hanging.asked)
        second = asyncio.create_task(it.watcher.load())
        gone = asyncio.create_task(it.watcher.load())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        hanging.silent.append(Path("/certs"))
        results = [await first, await second]
        assert ["/certs" in each.refused[0] for each in results] == [True, True]


# With a real thread, watch and loader


async def test_a_file_that_appears_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    posted: asyncio.Queue[Event] = asyncio.Queue()
    watcher = InputWatcher(
        settings(tmp_path), Programs(PROGRAM, KIND, None), RevisionStore(), posted.put_nowait, lambda: None
    )
    task = asyncio.create_task(watcher.watch())
    try:
        async with asyncio.timeout(PATIENCE):
            first = await posted.get()
            assert isinstance(first, RevisionMissing)
            assert str(tmp_path) in first.what
            leaf = Authority.create("ca").issue(["a.test"])
            (tmp_path / "tls.key").write_bytes(leaf.key_pem)
            (tmp_path / "tls.crt").write_bytes(leaf.chain_pem)
            while isinstance(event := await posted.get(), RevisionMissing) and str(tmp_path) in event.what:
                pass
        assert watcher.missing.endswith(str(PROGRAM))
        assert watcher.mode in {"inotify", "polling"}
        asked = asyncio.create_task(watcher.load())
        assert (await asked).missing == (str(PROGRAM),)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await watcher.close()
