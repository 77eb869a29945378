"""Reserves shared-memory segments for epochs, one ahead, since /dev/shm may be full later."""

import contextlib
import secrets

from agent.core.errors import MachineError
from agent.handoff.segment import HotRestartVersion, Segment
from agent.handoff.socket_paths import BASE_ID_LIMIT

_CLAIMS = 100  # attempts to find a free base id


class ReservedSegments:
    """Claims base ids for epochs of `owner` (uid, gid). `spare`: reserved for the next epoch.

    `upcoming` is the base id that is claimed next. The state file has it before that, so that the next agent finds the
    segment of an agent that was killed right after the claim.
    """

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self.spare: Segment | None = None
        self.upcoming = _any_base_id()
        self._owner = owner
        self._version: HotRestartVersion | None = None  # of `spare`

    def claim(self, version: HotRestartVersion) -> Segment:
        """Return a segment, the spare if it fits. Raises `MachineError` if none can be made."""
        if self.spare is None or self._version != version:
            return self._claimed(version)
        spare, self.spare = self.spare, None
        return spare

    def keep_one(self, version: HotRestartVersion | None) -> None:
        """Reserve a segment for the next epoch, if it needs one and there is room."""
        if self.spare is not None and self._version != version:
            self.close()
        if self.spare is None and version is not None:
            with contextlib.suppress(MachineError):
                self.spare, self._version = self._claimed(version), version

    def close(self) -> None:
        """Release the spare segment."""
        if self.spare is not None:
            self.spare.release()
            self.spare = None

    def _claimed(self, version: HotRestartVersion) -> Segment:
        for _ in range(_CLAIMS):
            segment, self.upcoming = Segment(self.upcoming), _any_base_id()
            if segment.claim(version, self._owner):
                return segment
        message = f"cannot reserve a base id: {_CLAIMS} files in /dev/shm have the same names"
        raise MachineError(message)


def _any_base_id() -> int:
    return secrets.randbelow(BASE_ID_LIMIT - 1) + 1
