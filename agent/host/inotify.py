"""inotify, read from the loop: directories in, what happened to their entries out.

watchdog's InotifyFD makes the system calls and keeps the books. Its thread is never started: events are read when the
descriptor is readable, so nothing waits for the 500 ms in which watchdog's emitter pairs moves. The facts are those of
inotify(7).
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
"""Entries coming, going and being opened up by a chmod; the directory itself moved or removed."""

# Without EXCL_UNLINK a writer that still holds a replaced file would be heard under the name of the new one.
_CONTENTS = Mask(
    _NAMES | InotifyConstants.IN_MODIFY | InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_EXCL_UNLINK
)
"""The same, and what is written into the files."""

_ONLY = CallbackId(0)
_REASONS = {
    errno.ENOSPC: "no inotify watch is left (raise fs.inotify.max_user_watches)",
    errno.EMFILE: "no inotify instance is left (raise fs.inotify.max_user_instances, or the limit of open files)",
}


def reason_of(error: OSError) -> str:
    """Say why inotify refused, with the limit to raise where one was met."""
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()


@dataclass(frozen=True, slots=True)
class DirectoryEvent:
    """Something happened to `name` in `directory`; without a name, to the directory itself; with neither, anywhere."""

    directory: str
    name: str
    mask: int

    @property
    def is_modified(self) -> bool:
        """Somebody wrote into the file, or cut it short, and has not closed it yet."""
        return bool(self.mask & InotifyConstants.IN_MODIFY)

    @property
    def is_closed(self) -> bool:
        """The writer closed the file, or the name has come to stand for another file or for none."""
        return bool(self.mask & (InotifyConstants.IN_CLOSE_WRITE | _COMING | _GOING))

    @property
    def is_about_contents(self) -> bool:
        """The name stands for the same file as before; only the bytes in it may be others."""
        return bool(self.mask & (InotifyConstants.IN_MODIFY | InotifyConstants.IN_CLOSE_WRITE))


class Inotify(InotifyFD):
    """One inotify instance over a set of directories; raises OSError when the kernel has none to give.

    An event in a directory that is reached by two paths (a bind mount) is heard once for each.
    """

    def __init__(self) -> None:
        try:
            super().__init__()
        except OSError:
            self._close_half_made()
            raise
        os.set_inheritable(self._inotify_fd, False)
        self._is_reading = False  # no thread reads: close() is to close, not to wake one
        self._directories: dict[WatchDescriptor, list[str]] = {}
        self._heard: list[DirectoryEvent] = []

    def fileno(self) -> int:
        """Give the descriptor that becomes readable when there is something to read()."""
        return self._inotify_fd

    def arm(self, passed: Collection[str], holders: Collection[str]) -> dict[str, str]:
        """Watch exactly these directories from now on; those that were refused come back with the reason.

        In those `passed` only names are heard of, in the `holders` also what is written. One that is no longer there,
        or no longer a directory, is left out without a word: whoever looked before arming looks again after it.
        """
        armed: dict[WatchDescriptor, list[str]] = {}
        refused: dict[str, str] = {}
        # Two paths may lead to one inode, which has one watch: the wider mask goes last and stays.
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
        """Give what has been heard, in order; call it only when the descriptor is readable, or it waits."""
        self._heard = []
        for event in self.read_events():
            self.handle_event(event)
        return self._heard

    def on_event(self, event: InotifyEvent) -> None:
        """Take an event from watchdog."""
        name = os.fsdecode(event.name)
        self._heard += [
            DirectoryEvent(directory, name, event.mask) for directory in self._directories.get(event.wd, ())
        ]

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Take the end of a watch from watchdog: its directory was removed or unmounted."""
        gone = self._directories.pop(wd, ())
        self._heard += [DirectoryEvent(directory, "", InotifyConstants.IN_IGNORED) for directory in gone]

    def on_queue_overflow(self) -> None:
        """Take from watchdog that events were lost: anything may have happened anywhere."""
        self._heard.append(DirectoryEvent("", "", InotifyConstants.IN_Q_OVERFLOW))

    def _watch(self, directory: str, mask: Mask) -> WatchDescriptor:
        descriptor = self._get_or_create_watch(os.fsencode(directory), mask)
        if descriptor.wd == -1:  # watchdog swallows EACCES and enters the failure in its books
            del self._watch_for_wd[descriptor.wd]
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)
        descriptor.callbacks[_ONLY] = self  # add_callback() would warn of one that is already there
        return descriptor.wd

    def _close_half_made(self) -> None:
        """Close the descriptor that watchdog loses when there is none left for its pipe."""
        half_made = getattr(self, "_inotify_fd", None)
        if half_made is not None:
            os.close(half_made)
