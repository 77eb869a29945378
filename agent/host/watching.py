"""Watches paths and reports when their content may have changed.

It watches every directory that a path passes through, never files: a watch on a file ends with the first rename over
it, and a watch on the last directory alone misses a link replaced further up. The caller compares contents to see what
changed; the watcher misses no change and reports none that cannot matter.
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
"""Seconds until a failed watch is retried: limits may be raised, and other programs may exit."""

PAUSE = 0.05
"""Seconds between two reads of polled files, for which writers are not detected."""

_ROUNDS = 8
"""Path resolutions in a row, while paths keep changing, before control returns to the loop."""


@dataclass(frozen=True, slots=True)
class Change:
    """Watched content may have changed; `writing` are files modified and not yet closed."""

    writing: frozenset[str]


@dataclass(frozen=True, slots=True)
class Mode:
    """How changes are detected: `polling`, with the reasons, if any path requires it."""

    kind: Literal["inotify", "polling"]
    reason: str


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _touching(method: Callable[Concatenate["Watcher", _P], _T]) -> Callable[Concatenate["Watcher", _P], _T]:
    """Call `on_touch` before and after a method that accesses a file system, which may hang."""

    @wraps(method)
    def touching(self: "Watcher", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        self._on_touch(True)
        try:
            return method(self, *args, **kwargs)
        finally:
            self._on_touch(False)

    return touching


class Watcher:
    """Calls `on_change`, at most once per loop iteration, when watched content may have changed.

    Where the kernel sends no events (network mounts, exhausted limits, unreadable directories), each path component is
    polled with stat every `poll_every` seconds; `notice` is called once with the reason. `on_touch` is called with True
    before a file system access that the watcher starts itself, and with False after it. Use only in the loop's thread.
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
        self._unheard: dict[str, str] = {}  # directory: why it sends no events
        self._lone: dict[str, str] = {}  # file that is itself a mount: the path it is watched as
        self._being_written: set[tuple[str, str]] = set()
        self._said: set[str] = set()
        self._moved = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        self._glancing = StatPoller(self._glance, self._see, every=poll_every, loop=loop)
        self._inotify: Inotify | None = None
        self._mount_events = self._hear_mounts()

    @property
    def writing(self) -> frozenset[str]:
        """The watched files, and files in watched directories, modified and not yet closed."""
        return frozenset().union(*(self._survey.names_of(*place) for place in self._being_written))

    @property
    def mode(self) -> Mode:
        """How changes are currently detected."""
        reasons = {*self._unheard.values(), *(f"{name} is a mount of a single file" for name in self._lone.values())}
        return Mode("polling", "; ".join(sorted(reasons))) if reasons else Mode("inotify", "")

    def watch(self, paths: Iterable[str]) -> None:
        """Watch exactly these files and directories, whether they exist or not.

        All changes after the return are reported, so a read afterwards misses none. A directory includes its entries
        but not their entries; names that begin with a dot count only if a link passes through them.
        """
        wanted = frozenset(paths)
        if wanted != self._paths:
            self._paths = wanted
            self._follow()

    async def settled(self, paths: Collection[str]) -> None:
        """Return when none of `paths` is being written; in polling mode, wait `PAUSE` seconds first."""
        if self.mode.kind == "polling":
            await asyncio.sleep(PAUSE)
        while not self.writing.isdisjoint(paths):
            await self._moved.wait()

    def close(self) -> None:
        """Stop watching and close all descriptors."""
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
        """Read inotify events and report relevant ones, after resolving paths that may differ."""
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
        if not heard.name:  # the directory was removed, or events were lost: its recorded writers are invalid
            self._being_written = {one for one in self._being_written if heard.directory not in {"", one[0]}}
        elif heard.is_modified:
            self._being_written.add(place)
        elif heard.is_closed:
            self._being_written.discard(place)

    @_touching
    def _see(self) -> None:
        """Handle a change detected by polling."""
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
        """Resolve and watch until the result is stable: a change before the watch shows up then."""
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
        """Watch these directories with inotify; return the failed ones with the reason."""
        if self._inotify is None:
            try:
                self._inotify = Inotify()
            except OSError as error:
                return dict.fromkeys(directories, reason_of(error))
            self._loop.add_reader(self._inotify.fileno(), self._hear, self._inotify)
        holders = self._survey.holders()
        return self._inotify.arm(directories - holders, directories & holders)

    def _hear_mounts(self) -> MountEvents | None:
        """Watch the mount table, since inotify does not report mounts; return None without /proc."""
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
        """Schedule a new resolution after so many seconds, replacing any earlier one; None: none."""
        if self._later is not None:
            self._later.cancel()
        self._later = None if seconds is None else self._loop.call_later(seconds, self._walk_again)

    def _explain(self) -> None:
        """Report unwatched directories once per reason, and the limits of single-file mounts."""
        for why in sorted(set(self._unheard.values())):
            directories = sorted(one for one, reason in self._unheard.items() if reason == why)
            more = f" and {len(directories) - 1} more" if len(directories) > 1 else ""
            self._say_once(
                why, f"cannot watch {directories[0]}{more}: {why}; polling every {self._poll_every:g} s instead"
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
    """Return the directories on mounts that send no events, with the reason."""
    under = {directory: table.under(directory) for directory in directories}
    return {
        directory: f"the {mount.kind} mount at {mount.point} does not report changes made elsewhere"
        for directory, mount in under.items()
        if mount is not None and mount.is_silent
    }


def _lone_files(survey: PathResolver, table: MountTable) -> dict[str, str]:
    """Return the watched files that are single-file mounts, with one watched name each.

    Writes reach them from a directory outside of this namespace.
    """
    lone: dict[str, str] = {}
    for point in table.points:
        directory, name = os.path.split(point)
        names = survey.names_of(directory, name)
        if names and look(directory, name) is None:
            lone[join(directory, name)] = min(names)
    return lone
