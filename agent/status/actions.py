"""What can be asked of a running agent, and the words in which an attempt tells how it goes."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.http.message import Response
from agent.status.model import Status


@dataclass(frozen=True, slots=True)
class Progress:
    """Something that happened in an attempt, `at` seconds after it began."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class OperationResult:
    """How an attempt ended: `serving` is the one good end, every other word (`refused`, `failed` ...) has a reason.

    `executing` is said by an upgrade that is about to become the new program: whoever asked hears no more from this
    one, unless that fails and another outcome follows. `epoch` is the one that was made, None where none was.
    """

    word: str
    epoch: int | None = None
    reason: str = ""


Timeline = AsyncIterator[Progress | OperationResult]


class Actions(Protocol):
    """The agent as its operator sees it. What it refuses or cannot do is an `AgentError` whose message is passed on.

    Nothing here is undone when whoever asked goes away.
    """

    def restart(self, *, binary: bool, force: bool, now: bool) -> Timeline:
        """Make a new epoch; the last thing told is an outcome.

        `binary`: of the program as it is on disk now. `force`: even of what was refused before. `now`: without waiting
        for others to drain, or for a pause to end.
        """

    def upgrade(self) -> Timeline:
        """Replace the agent by the program as it is on disk; the last thing told is an outcome."""

    async def drain(self) -> str:
        """Drain the listeners; return in words how it ended. Who asks again waits for the drain that is under way."""

    async def stop(self) -> None:
        """Begin to stop, as by SIGTERM."""

    async def pause(self, seconds: float) -> None:
        """Hold rotations for so long, from now."""

    async def resume(self) -> None:
        """End a pause; nothing happens without one."""

    async def ready(self, wait: float) -> str:
        """Why the agent is not ready; empty: it is. Return as soon as it is, at latest after `wait` seconds."""

    async def state(self) -> Mapping[str, object]:
        """The state, as JSON takes it."""

    def overview(self) -> Status:
        """Everything that can be shown."""

    async def request(self, method: str, target: str, epoch: int | None) -> Response:
        """What the console of an epoch answers, of the one that serves if none is named."""
