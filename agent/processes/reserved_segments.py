"""The shared-memory files that epochs are given, and the one kept for the next: /dev/shm may be full by then."""

import contextlib
import secrets

from agent.core.errors import MachineError
from agent.handoff.segment import HotRestartVersion, Segment
from agent.handoff.socket_paths import BASE_ID_LIMIT

_CLAIMS = 100  # base ids tried before something must be wrong


class ReservedSegments:
    """Claims base ids for the epochs of one user, `owner` (uid, gid). `spare`: what is kept for the next epoch."""

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self.spare: Segment | None = None
        self._owner = owner
        self._version: HotRestartVersion | None = None  # that of the spare one

    def claim(self, version: HotRestartVersion) -> Segment:
        """Return a segment for an epoch. Raises `MachineError` where none can be made and none was kept."""
        if self.spare is None or self._version != version:
            return _claimed(version, self._owner)
        spare, self.spare = self.spare, None
        return spare

    def keep_one(self, version: HotRestartVersion) -> None:
        """Have one for the next epoch, if there is room for it now."""
        if self.spare is not None and self._version != version:
            self.close()
        if self.spare is None:
            with contextlib.suppress(MachineError):
                self.spare, self._version = _claimed(version, self._owner), version

    def close(self) -> None:
        """Give the spare one back."""
        if self.spare is not None:
            self.spare.release()
            self.spare = None


def _claimed(version: HotRestartVersion, owner: tuple[int, int] | None) -> Segment:
    for _ in range(_CLAIMS):
        segment = Segment(secrets.randbelow(BASE_ID_LIMIT - 1) + 1)
        if segment.claim(version, owner):
            return segment
    message = f"cannot claim a base id: {_CLAIMS} files in /dev/shm are in the way"
    raise MachineError(message)
