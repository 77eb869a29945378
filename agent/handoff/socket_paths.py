"""Paths of one epoch's Unix sockets, and their length limit.

Every proxy runs as restart epoch 1 of its own base id. It binds `parent_1` and `child_1`, sends requests to `parent_0`
and replies to `child_2`; the agent binds both of those. The child sockets exist a second time for forwarded UDP. The
number in a name is `base id x 10 + epoch % 3`, which Envoy computes in 32 bits: base ids stay below 214,748,364.
"""

from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import UsageError

BASE_ID_LIMIT = 100_000_000  # fits 32 bits and keeps paths short
PATH_LIMIT = 107  # sun_path has 108 bytes including the final zero, see unix(7)

_LONGEST_NAME = len("/4294967295/hr_udp_parent_") + len(str(BASE_ID_LIMIT * 10))


@dataclass(frozen=True, slots=True)
class SocketPaths:
    """The paths of one epoch's sockets, in its own directory."""

    directory: Path
    base_id: int

    @property
    def prefix(self) -> Path:
        """The proxy's `--socket-path`."""
        return self.directory / "hr"

    @property
    def agent_as_parent(self) -> Path:
        """Where the epoch sends its requests."""
        return self._path("parent", 0)

    @property
    def agent_as_child(self) -> Path:
        """Where the epoch sends its replies."""
        return self._path("child", 2)

    @property
    def epoch_as_parent(self) -> Path:
        """Where the epoch receives requests."""
        return self._path("parent", 1)

    @property
    def epoch_as_child(self) -> Path:
        """Where the epoch receives replies."""
        return self._path("child", 1)

    @property
    def udp_agent_as_child(self) -> Path:
        """Where the epoch forwards datagrams that it no longer handles."""
        return self._path("udp_child", 2)

    @property
    def udp_epoch_as_child(self) -> Path:
        """Where the epoch receives forwarded datagrams."""
        return self._path("udp_child", 1)

    def _path(self, role: str, epoch: int) -> Path:
        return self.directory / f"hr_{role}_{self.base_id * 10 + epoch}"


def check_room(run_directory: Path) -> None:
    """Raise `UsageError` if an epoch's socket paths would be too long below this directory.

    Envoy checks each name only when it binds it, and aborts half-way; the agent checks before the first start.
    """
    excess = len(str(run_directory).encode()) + _LONGEST_NAME - PATH_LIMIT
    if excess > 0:
        message = (
            f"cannot use the run directory {run_directory}: its path is {excess} bytes too long for the Unix sockets "
            f"in it (at most {PATH_LIMIT - _LONGEST_NAME}); choose a shorter --run-dir"
        )
        raise UsageError(message)
