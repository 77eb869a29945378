"""The disk, looked at whenever something on it changes, and whenever somebody asks for it."""

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

_LOOK_AGAIN = 1.0  # seconds until the disk is looked at again after the machine refused something
_SLOW = 5.0  # seconds of a look after which it is asked whether something hangs


class InputWatcher:
    """Posts what the disk holds. `missing`: what there is to wait for before the first revision."""

    def __init__(
        self, settings: Settings, programs: Programs, storeroom: RevisionStore, post: Callable[[Event], None]
    ) -> None:
        self.spoke: Callable[[], None] = lambda: None  # is called when what there is to say is another thing
        self.missing = "the disk is looked at"
        self._settings = settings
        self._post = post
        self._changed = asyncio.Event()
        self._asked: list[asyncio.Future[LoadResult]] = []
        self._files = DiskThread(
            self._changed.set, notice=lambda text: log_event(logging.WARNING, "watch.degraded", text)
        )
        self.timing = RotationSchedule(settings)
        self.intake = Loader(settings, programs, storeroom, self._files)

    @property
    def mode(self) -> str:
        """How changes are noticed: inotify, or polling."""
        return self._files.mode

    def look_soon(self) -> None:
        """Look again, though nothing may have changed."""
        self._changed.set()

    async def look(self) -> LoadResult:
        """Return what a look gave that began after this question; while the disk hangs, that it does."""
        if self.intake.silent is not None:
            return LoadResult(None, refused=(self.intake.silent[1],))
        answer: asyncio.Future[LoadResult] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._changed.set()
        return await answer

    async def watch(self) -> None:
        """Look for as long as this runs."""
        said_strays = False
        while True:
            self._changed.clear()
            asked, self._asked = self._asked, []
            look = await self._look_patiently(asked)
            self._tell(look)
            for answer in asked:
                if not answer.done():
                    answer.set_result(look)
            if not said_strays and look.material is not None:
                said_strays = True
                await self.intake.report_strays()
            await wait_for_change(self._changed, look.again_at)

    def _tell(self, look: LoadResult) -> None:
        if look.material is not None:
            revision, not_before = look.material.revision, self.timing.not_before(look.material)
            self._post(on.RevisionReady(at=clock.monotonic(), revision=revision, not_before=not_before))
        elif look.missing:
            missing = ", ".join(look.missing)
            self.missing = f"waiting for {missing}"
            if self._settings.policy.wait:
                self.intake.reports.once("files.awaited", self.missing)
            self._post(on.RevisionMissing(at=clock.monotonic(), what="; ".join([missing, *look.refused])))

    async def _look_patiently(self, asked: Collection[asyncio.Future[LoadResult]]) -> LoadResult:
        """Look; where the disk hangs meanwhile, say so, and keep nobody waiting who asked."""
        look = asyncio.ensure_future(self._look())
        try:
            while not (await asyncio.wait([look], timeout=_SLOW))[0]:
                if self.intake.silent is None and (silent := await silent_ones(self._operators_places())):
                    self._say_silent(silent, [*asked, *self._asked])
        finally:
            look.cancel()
        if self.intake.silent is not None:
            self.intake.silent = None
            log_event(logging.INFO, "disk.answers", "the disk answers again")
        return look.result()

    def _operators_places(self) -> list[Path]:
        settings = self._settings
        return [*settings.scopes, *filter(None, [settings.config]), self.intake.programs.path]

    def _say_silent(self, silent: Sequence[Path], asked: Iterable[asyncio.Future[LoadResult]]) -> None:
        names = ", ".join(map(str, silent))
        text = f"cannot read {names}: the file system does not answer; what serves goes on serving"
        self.intake.silent = tuple(silent), text
        self.missing = text
        log_event(logging.ERROR, "disk.silent", text)
        for answer in asked:
            if not answer.done():
                answer.set_result(LoadResult(None, refused=(text,)))
        self.spoke()

    async def _look(self) -> LoadResult:
        """Look; where even that fails, say it once and look again in a while."""
        reports = self.intake.reports
        try:
            look = await self.intake.look()
        except (MachineError, OSError) as error:
            text = f"{error}; what serves goes on serving"
            reports.once("disk.unusable", text, logging.ERROR)
            return LoadResult(None, again_at=clock.monotonic() + _LOOK_AGAIN, refused=(text,))
        reports.once("disk.unusable", "")
        return look

    async def close(self) -> None:
        """Watch no more."""
        await self._files.close()
