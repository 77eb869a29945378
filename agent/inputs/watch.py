"""Watches the disk: loads revisions on changes and on request."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from agent.core import events as on
from agent.core.errors import MachineError
from agent.core.events import Event
from agent.host import clock
from agent.host.disk_thread import DiskThread, silent_ones
from agent.host.log import log_event
from agent.inputs.loader import Loader, LoadResult, wait_for_change
from agent.inputs.programs import Programs
from agent.inputs.revisions import RevisionStore
from agent.inputs.rotation_schedule import RotationSchedule
from agent.inputs.settings import Settings

_LOOK_AGAIN = 1.0  # seconds until a new load after the machine refused something
_SLOW = 5.0  # seconds of a load after which it checks for hanging file systems


class InputWatcher:
    """Posts the revisions on disk. `missing`: what the first revision still lacks.

    `post` queues an event; `record` is called for a complaint that has no event.
    """

    def __init__(
        self,
        settings: Settings,
        programs: Programs,
        revisions: RevisionStore,
        post: Callable[[Event], None],
        record: Callable[[], None],
    ) -> None:
        self._record = record
        self.missing = "the files on disk are being read"
        self.is_usable = False  # whether the last finished load could use every file on disk
        self._settings = settings
        self._post = post
        self._changed = asyncio.Event()
        self._changed_at: float | None = None  # the first change since the last load began
        self._is_requested = False  # a load even without a change
        self._asked: list[asyncio.Future[LoadResult]] = []
        self._files = DiskThread(
            self._note_change, notice=lambda text: log_event(logging.WARNING, "watch.degraded", text)
        )
        self.timing = RotationSchedule(settings)
        self.loader = Loader(settings, programs, revisions, self._files)

    @property
    def mode(self) -> str:
        """How changes are detected: inotify or polling."""
        return self._files.mode

    def _note_change(self) -> None:
        if self._changed_at is None:
            self._changed_at = clock.monotonic()
        self._changed.set()

    def reload_soon(self) -> None:
        """Load again, even without a change."""
        self._is_requested = True
        self._changed.set()

    async def load(self) -> LoadResult:
        """Return the result of a load that begins after this call, or an error if the disk hangs."""
        if self.loader.silent is not None:
            return LoadResult(None, refused=(self.loader.silent[1],))
        answer: asyncio.Future[LoadResult] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.reload_soon()
        return await answer

    async def watch(self) -> None:
        """Load on every change, until cancelled."""
        said_strays = False
        while True:
            self._changed.clear()
            self._is_requested = False
            changed_at, self._changed_at = self._changed_at, None
            asked, self._asked = self._asked, []
            result = await self._load_patiently(asked)
            self._tell(result, changed_at)
            for answer in asked:
                if not answer.done():
                    answer.set_result(result)
            if not said_strays and result.loaded is not None:
                said_strays = True
                await self.loader.report_strays()
            self._forget_covered()
            await wait_for_change(self._changed, result.again_at)

    def _forget_covered(self) -> None:
        """Do not load again for changes that the last load has read, as the second file of a pair."""
        if not self._is_requested and self.loader.covered == self._files.newest_change:
            self._changed.clear()
            self._changed_at = None

    def _tell(self, result: LoadResult, changed_at: float | None) -> None:
        self.is_usable = result.loaded is not None and not result.refused and not any(self.loader.complaints())
        if result.loaded is not None:
            revision, not_before = result.loaded.revision, self.timing.not_before(result.loaded)
            ready = on.RevisionReady(
                at=clock.monotonic(), revision=revision, not_before=not_before, changed_at=changed_at
            )
            self._post(ready)
        elif result.missing:
            missing = ", ".join(result.missing)
            self.missing = f"waiting for {missing}"
            if self._settings.policy.wait:
                self.loader.reports.once("files.awaited", self.missing)
            self._post(on.RevisionMissing(at=clock.monotonic(), what="; ".join([missing, *result.refused])))

    async def _load_patiently(self, asked: Collection[asyncio.Future[LoadResult]]) -> LoadResult:
        """Load; if the disk hangs, log it and answer the waiting calls with that error."""
        result = asyncio.ensure_future(self._load())
        try:
            while not (await asyncio.wait([result], timeout=_SLOW))[0]:
                if self.loader.silent is None and (silent := await silent_ones(self._operators_places())):
                    self._say_silent(silent, [*asked, *self._asked])
        finally:
            result.cancel()
        if self.loader.silent is not None:
            self.loader.silent = None
            log_event(logging.INFO, "disk.answers", "the disk answers again")
        return result.result()

    def _operators_places(self) -> list[Path]:
        settings = self._settings
        return [*settings.scopes, *filter(None, [settings.config, settings.override]), self.loader.programs.path]

    def _say_silent(self, silent: Sequence[Path], asked: Iterable[asyncio.Future[LoadResult]]) -> None:
        names = ", ".join(map(str, silent))
        text = f"cannot read {names}: the file system does not answer; the serving epoch continues"
        self.loader.silent = tuple(silent), text
        self.missing = text
        log_event(logging.ERROR, "disk.silent", text)
        for answer in asked:
            if not answer.done():
                answer.set_result(LoadResult(None, refused=(text,)))
        self._record()

    async def _load(self) -> LoadResult:
        """Load; log a failure of the machine once, and schedule a retry."""
        reports = self.loader.reports
        try:
            result = await self.loader.load()
        except (MachineError, OSError) as error:
            text = f"{error}; the serving epoch continues"
            reports.once("disk.unusable", text, logging.ERROR)
            return LoadResult(None, again_at=clock.monotonic() + _LOOK_AGAIN, refused=(text,))
        reports.once("disk.unusable", "")
        return result

    async def close(self) -> None:
        """Stop watching."""
        await self._files.close()
