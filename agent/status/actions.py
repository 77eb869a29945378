"""Operations on a running agent, and the items in which they report their progress."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.http.message import Response
from agent.status.model import Status


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of an attempt, `at` seconds after the attempt began."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class OperationResult:
    """How an attempt ended: `serving`, or another word (`refused`, `failed` …) with a reason.

    `executing` is sent by an upgrade that is about to execute the new program: nothing follows, unless that fails and
    another result is sent. `epoch` is the new epoch's number, None if none was started.
    """

    word: str
    epoch: int | None = None
    reason: str = ""


Timeline = AsyncIterator[Progress | OperationResult]


class Actions(Protocol):
    """The operations that the agent offers to its operator.

    An operation that is refused or fails raises `AgentError`, whose message is sent to the client. A client that
    disconnects cancels nothing.
    """

    def restart(self, *, binary: bool, force: bool, now: bool) -> Timeline:
        """Start a new epoch; the last item is an `OperationResult`.

        `binary`: with the program now on disk. `force`: even with inputs that were refused before. `now`: without
        waiting for other epochs to drain or for a pause to end.
        """

    def upgrade(self) -> Timeline:
        """Replace the agent with the program on disk; the last item is an `OperationResult`."""

    async def drain(self) -> str:
        """Drain the listeners; return in words how it ended. Concurrent calls share one drain."""

    async def stop(self, *, now: bool = False) -> None:
        """Begin to stop, as on SIGTERM; `now` without a drain."""

    async def pause(self, seconds: float) -> None:
        """Pause rotations for this long, from now."""

    async def resume(self) -> None:
        """End a pause, if there is one."""

    async def ready(self, wait: float) -> str:
        """Wait up to `wait` seconds for readiness; return why it is not ready, or empty."""

    async def state(self) -> Mapping[str, object]:
        """Return the state for JSON."""

    def overview(self) -> Status:
        """Return the status snapshot."""

    async def request(self, method: str, target: str, epoch: int | None) -> Response:
        """Return the response of an epoch's admin interface, by default of the serving epoch."""
