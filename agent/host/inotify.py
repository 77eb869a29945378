"""inotify, read from the loop: watches directories and returns events of their entries.

watchdog's `InotifyFD` makes the system calls and tracks the watches. Its thread is never started: events are read when
the descriptor is readable, without the 500 ms in which watchdog's emitter pairs moves. See inotify(7).
"""

import errno
import os
from collections.abc import Collection
from dataclasses import dataclass

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

_PLACE = InotifyConstants.IN_ONLYDIR | InotifyConstants.IN_DONT_FOLLOW
_COMING = InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO
_GOING = InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM
_ITSELF = InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF

_NAMES = Mask(_PLACE | _COMING | _GOING | _ITSELF | InotifyConstants.IN_ATTRIB)
"""Entries added, removed or changed by a chmod; the directory itself moved or removed."""

# Without IN_EXCL_UNLINK, writes to a replaced file that is still open would be reported under the new file's name.
_CONTENTS = Mask(
    _NAMES | InotifyConstants.IN_MODIFY | InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_EXCL_UNLINK
)
"""The same, and writes to the files."""

_ONLY = CallbackId(0)
_REASONS = {
    errno.ENOSPC: "no inotify watch is left (raise fs.inotify.max_user_watches)",
    errno.EMFILE: "no inotify instance is left (raise fs.inotify.max_user_instances, or the limit of open files)",
}


def reason_of(error: OSError) -> str:
    """Describe an inotify error, with the limit to raise if one was reached."""
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()


@dataclass(frozen=True, slots=True)
class DirectoryEvent:
    """An event for `name` in `directory`.

    Without a name it concerns the directory itself; without both, events were lost and any directory may have changed.
    """

    directory: str
    name: str
    mask: int

    @property
    def is_modified(self) -> bool:
        """Whether the file was written or truncated, and is not closed yet."""
        return bool(self.mask & InotifyConstants.IN_MODIFY)

    @property
    def is_closed(self) -> bool:
        """Whether the writer closed the file, or the name now refers to another file or none."""
        return bool(self.mask & (InotifyConstants.IN_CLOSE_WRITE | _COMING | _GOING))

    @property
    def is_about_contents(self) -> bool:
        """Whether the name refers to the same file and only its bytes may have changed."""
        return bool(self.mask & (InotifyConstants.IN_MODIFY | InotifyConstants.IN_CLOSE_WRITE))


class Inotify(InotifyFD):
    """One inotify instance for a set of directories. Raises `OSError` if none is available.

    A directory reached by two paths (a bind mount) yields each event once per path.
    """

    def __init__(self) -> None:
        try:
            super().__init__()
        except OSError:
            self._close_half_made()
            raise
        os.set_inheritable(self._inotify_fd, False)
        self._is_reading = False  # no thread reads, so close() must close instead of waking one
        self._directories: dict[WatchDescriptor, list[str]] = {}
        self._heard: list[DirectoryEvent] = []

    def fileno(self) -> int:
        """Return the descriptor that is readable when `read` has events."""
        return self._inotify_fd

    def arm(self, passed: Collection[str], holders: Collection[str]) -> dict[str, str]:
        """Watch exactly these directories; return those that failed, with the reason.

        For `passed` only names are watched, for `holders` also writes. A path that is missing or no longer a directory
        is silently omitted: callers must resolve their paths again after this call.
        """
        armed: dict[WatchDescriptor, list[str]] = {}
        refused: dict[str, str] = {}
        # Two paths may lead to one inode, which has one watch: the wider mask is set last and remains.
        for directory, mask in [*((one, _NAMES) for one in passed), *((one, _CONTENTS) for one in holders)]:
            try:
                armed.setdefault(self._watch(directory, mask), []).append(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                refused[directory] = reason_of(error)
        self.remove_callbacks([(descriptor, _ONLY) for descriptor in self._directories.keys() - armed.keys()])
        self._directories = armed
        return refused

    def read(self) -> list[DirectoryEvent]:
        """Return the events in order; blocks unless the descriptor is readable."""
        self._heard = []
        for event in self.read_events():
            self.handle_event(event)
        return self._heard

    def on_event(self, event: InotifyEvent) -> None:
        """Handle an event from watchdog."""
        name = os.fsdecode(event.name)
        self._heard += [
            DirectoryEvent(directory, name, event.mask) for directory in self._directories.get(event.wd, ())
        ]

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Handle the end of a watch: its directory was removed or unmounted."""
        gone = self._directories.pop(wd, ())
        self._heard += [DirectoryEvent(directory, "", InotifyConstants.IN_IGNORED) for directory in gone]

    def on_queue_overflow(self) -> None:
        """Handle lost events: any directory may have changed."""
        self._heard.append(DirectoryEvent("", "", InotifyConstants.IN_Q_OVERFLOW))

    def _watch(self, directory: str, mask: Mask) -> WatchDescriptor:
        descriptor = self._get_or_create_watch(os.fsencode(directory), mask)
        if descriptor.wd == -1:  # watchdog swallows EACCES and records the failed watch
            del self._watch_for_wd[descriptor.wd]
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)
        descriptor.callbacks[_ONLY] = self  # add_callback() would warn about an existing one
        return descriptor.wd

    def _close_half_made(self) -> None:
        """Close the descriptor that watchdog leaks if no more are available for its pipe."""
        half_made = getattr(self, "_inotify_fd", None)
        if half_made is not None:
            os.close(half_made)
