"""Watching: wakes the agent when what is read under some paths may have become something else.

Directories are watched and never files, each one that a path leads through: a watch on a file dies with the first
rename over it, and one on the last directory only does not hear of a link exchanged further up. What has really changed
is for content to decide; here nothing may be missed, and nothing that cannot matter may wake anybody.
"""

import asyncio
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, Literal, ParamSpec, TypeVar

from agent.host.inotify import DirectoryEvent, Inotify, reason_of
from agent.host.mounts import MountEvents, MountTable, read_mounts
from agent.host.path_resolver import PathResolver, join, look
from agent.host.stat_poller import Glance, StatPoller, glance

RETRY = 60.0
"""Seconds until a refused directory is tried again: limits are raised, and other programs end."""

PAUSE = 0.05
"""Seconds between two reads of files whose writers cannot be heard."""

_ROUNDS = 8
"""Walks in a row that may each find a changed path before the loop gets its turn."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something watched may read differently now; `writing` are the files somebody has modified and not yet closed."""

    writing: frozenset[str]


@dataclass(frozen=True, slots=True)
class Mode:
    """How changes are noticed: polling if any path has to be, and then the reasons."""

    kind: Literal["inotify", "polling"]
    reason: str


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _touching(method: Callable[Concatenate["Watcher", _P], _T]) -> Callable[Concatenate["Watcher", _P], _T]:
    """Tell before and after that the file system is touched of the watcher's own accord: it may not answer."""

    @wraps(method)
    def touching(self: "Watcher", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        self._on_touch(True)
        try:
            return method(self, *args, **kwargs)
        finally:
            self._on_touch(False)

    return touching


class Watcher:
    """Calls `on_change` at most once a turn of the loop while anything under the watched paths may have changed.

    Where the kernel does not tell (network mounts, exhausted limits, directories that may not be read), the status of
    every hop is looked at each `poll_every` seconds; that is told once to `notice`, with the reason. `on_touch` is told
    True before it looks at the file system of its own accord, and False after it. To be used in the loop's thread only.
    """

    def __init__(
        self,
        on_change: Callable[[Change], None],
        *,
        notice: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
        poll_every: float = 1.0,
        on_touch: Callable[[bool], None] = lambda _: None,
        mounts: Callable[[], MountTable] = read_mounts,
    ) -> None:
        self._on_change = on_change
        self._notice = notice
        self._on_touch = on_touch
        self._loop = loop
        self._poll_every = poll_every
        self._mounts = mounts
        self._paths: frozenset[str] = frozenset()
        self._survey = PathResolver()
        self._unheard: dict[str, str] = {}  # directory: why its events do not reach us
        self._lone: dict[str, str] = {}  # file that is a mount of its own: the name it is watched by
        self._being_written: set[tuple[str, str]] = set()
        self._said: set[str] = set()
        self._moved = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        self._glancing = StatPoller(self._glance, self._see, every=poll_every, loop=loop)
        self._inotify: Inotify | None = None
        self._mount_events = self._hear_mounts()

    @property
    def writing(self) -> frozenset[str]:
        """The watched files, and files in watched directories, that were modified and are not yet closed."""
        return frozenset().union(*(self._survey.names_of(*place) for place in self._being_written))

    @property
    def mode(self) -> Mode:
        """How changes are noticed at present."""
        reasons = {*self._unheard.values(), *(f"{name} is a mount of a single file" for name in self._lone.values())}
        return Mode("polling", "; ".join(sorted(reasons))) if reasons else Mode("inotify", "")

    def watch(self, paths: Iterable[str]) -> None:
        """Watch exactly these files and directories from now on, whether they exist or not.

        Whatever changes after this returns is reported, so read after it and nothing is lost. A directory stands for
        its entries but not for theirs; names that begin with a dot count only where a link leads through them.
        """
        wanted = frozenset(paths)
        if wanted != self._paths:
            self._paths = wanted
            self._follow()

    async def settled(self, paths: Collection[str]) -> None:
        """Return when none of `paths` is being written; where that cannot be heard, after a pause of PAUSE seconds."""
        if self.mode.kind == "polling":
            await asyncio.sleep(PAUSE)
        while not self.writing.isdisjoint(paths):
            await self._moved.wait()

    def close(self) -> None:
        """Report nothing any more and give every descriptor back."""
        self._glancing.stop()
        self._walk_later(None)
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
        if self._mount_events is not None:
            self._loop.remove_reader(self._mount_events.fileno())
            self._mount_events.close()
            self._mount_events = None

    @_touching
    def _hear(self, inotify: Inotify) -> None:
        """Take what inotify has to say; report what concerns us, and first walk anew if a path may lead elsewhere."""
        heard = [one for one in inotify.read() if not one.name or self._survey.concerns(one.directory, one.name)]
        for one in heard:
            self._note_writer(one)
        names = {(one.directory, one.name) for one in heard if not one.is_about_contents}
        if any(not name or self._survey.is_bent(directory, name) for directory, name in names):
            self._follow()
        if heard:
            self._report()

    def _note_writer(self, heard: DirectoryEvent) -> None:
        place = (heard.directory, heard.name)
        if not heard.name:  # a directory gone, or events lost: what was known of its writers is of no use any more
            self._being_written = {one for one in self._being_written if heard.directory not in {"", one[0]}}
        elif heard.is_modified:
            self._being_written.add(place)
        elif heard.is_closed:
            self._being_written.discard(place)

    @_touching
    def _see(self) -> None:
        """A glance differs from the one before."""
        self._follow()
        self._report()

    def _hear_of_mounts(self, events: MountEvents) -> None:
        events.acknowledge()
        self._walk_again()

    @_touching
    def _walk_again(self) -> None:
        before = (self._survey, self._lone)
        self._follow()
        if (self._survey, self._lone) != before:
            self._report()

    def _report(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        self._on_change(Change(self.writing))

    def _follow(self) -> None:
        """Walk, watch what was passed, and walk again: what was exchanged before it was watched shows then."""
        self._walk_later(None)
        survey = PathResolver.of(self._paths)
        for _ in range(_ROUNDS):
            self._survey = survey
            self._arm()
            survey = PathResolver.of(self._paths)
            if survey == self._survey:
                return
        self._walk_later(0)

    def _arm(self) -> None:
        table = self._mounts()
        silent = _silent(self._survey.directories(), table)
        refused = self._listen(self._survey.directories() - silent.keys())
        self._unheard = silent | refused
        self._lone = _lone_files(self._survey, table)
        self._explain()
        if self._unheard or self._lone:
            self._glancing.start()
        else:
            self._glancing.stop()
        if refused:
            self._walk_later(RETRY)

    def _listen(self, directories: set[str]) -> dict[str, str]:
        """Hear of these directories; give those that were refused, with the reason."""
        if self._inotify is None:
            try:
                self._inotify = Inotify()
            except OSError as error:
                return dict.fromkeys(directories, reason_of(error))
            self._loop.add_reader(self._inotify.fileno(), self._hear, self._inotify)
        holders = self._survey.holders()
        return self._inotify.arm(directories - holders, directories & holders)

    def _hear_mounts(self) -> MountEvents | None:
        """Hear of a directory that is mounted over, which inotify does not tell; without /proc we do without."""
        try:
            events = MountEvents()
        except OSError:
            return None
        self._loop.add_reader(events.fileno(), self._hear_of_mounts, events)
        return events

    @_touching
    def _glance(self) -> Glance:
        places = set(self._lone).union(*(self._survey.places(directory) for directory in self._unheard))
        return glance(places)

    def _walk_later(self, seconds: float | None) -> None:
        """Walk again after so many seconds, in place of any earlier plan; None for no plan."""
        if self._later is not None:
            self._later.cancel()
        self._later = None if seconds is None else self._loop.call_later(seconds, self._walk_again)

    def _explain(self) -> None:
        """Tell what is not watched, once for each reason, and what to expect of files that are mounts of their own."""
        for why in sorted(set(self._unheard.values())):
            directories = sorted(one for one, reason in self._unheard.items() if reason == why)
            more = f" and {len(directories) - 1} more" if len(directories) > 1 else ""
            self._say_once(
                why, f"cannot watch {directories[0]}{more}: {why}; looking every {self._poll_every:g} s instead"
            )
        for name in self._lone.values():
            self._say_once(
                name,
                f"cannot follow replacements of {name}: it is a mount of a single file (subPath), which keeps the old "
                "file for ever; mount its directory instead",
            )

    def _say_once(self, topic: str, text: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            self._notice(text)


def _silent(directories: Iterable[str], table: MountTable) -> dict[str, str]:
    """Find the directories on mounts that send no events, with the reason."""
    under = {directory: table.under(directory) for directory in directories}
    return {
        directory: f"the {mount.kind} mount at {mount.point} does not tell of changes made elsewhere"
        for directory, mount in under.items()
        if mount is not None and mount.is_silent
    }


def _lone_files(survey: PathResolver, table: MountTable) -> dict[str, str]:
    """Find the watched files that are mounts of their own: writes reach them from a directory that we do not see."""
    lone: dict[str, str] = {}
    for point in table.points:
        directory, name = os.path.split(point)
        names = survey.names_of(directory, name)
        if names and look(directory, name) is None:
            lone[join(directory, name)] = min(names)
    return lone
