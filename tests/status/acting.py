"""A small agent with prescribed actions, behind a real control socket."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from agent.core.errors import AgentError
from agent.http import client
from agent.http.message import Response
from agent.status.actions import OperationResult, Progress, Timeline
from agent.status.control import NAME, Control
from agent.status.model import Status
from tests.status import sample
from tests.system.eventually import PATIENCE

GOOD = (Progress(0.0, "epoch 8 starts"), Progress(0.25, "epoch 8 is at the gate"), OperationResult("serving", 8))


class Acting:
    """Records requests. Each line of the timeline, and the end of a drain, wait until `may_go_on` is set."""

    def __init__(self, *timeline: Progress | OperationResult | Exception) -> None:
        self.timeline = timeline or GOOD
        self.asked: list[str] = []
        self.notes: list[str] = []
        self.reason = ""
        self.refusal: AgentError | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.asked_something = asyncio.Event()
        self.ended = asyncio.Event()

    def restart(self, *, binary: bool, force: bool, now: bool) -> Timeline:
        wishes = [name for name, wished in (("binary", binary), ("force", force), ("now", now)) if wished]
        self._ask(" ".join(["restart", *wishes]))
        return self._tell()

    def upgrade(self) -> Timeline:
        self._ask("upgrade")
        return self._tell()

    async def drain(self) -> str:
        self._ask("drain")
        self._refuse()
        await self.may_go_on.wait()
        self.ended.set()
        return "drained, no connection is left"

    async def stop(self, *, now: bool = False) -> None:
        self._ask("stop now" if now else "stop")
        self._refuse()

    async def pause(self, seconds: float) -> None:
        self._ask(f"pause {seconds:g}")
        self._refuse()

    async def resume(self) -> None:
        self._ask("resume")
        self._refuse()

    async def ready(self, wait: float) -> str:
        self._ask("ready")
        try:
            async with asyncio.timeout(wait):
                await self.may_go_on.wait()
        except TimeoutError:
            return self.reason or "it waits for its play to go on"
        return self.reason

    async def state(self) -> Mapping[str, object]:
        return {"serving": 8, "draining": [7]}

    def overview(self) -> Status:
        self._ask("overview")
        return sample.overview()

    async def request(self, method: str, target: str, epoch: int | None) -> Response:
        self._ask(f"request {method} {target} {epoch}")
        self._refuse()
        return Response(418, b"told by a console\n", (("content-type", "text/x-console"),))

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self.asked_something.set()

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def _tell(self) -> AsyncIterator[Progress | OperationResult]:
        for item in self.timeline:
            await self.may_go_on.wait()
            if isinstance(item, Exception):
                raise item
            yield item
        self.ended.set()


@asynccontextmanager
async def controlled(directory: Path, actions: Acting) -> AsyncIterator[Control]:
    """Open a control socket for this agent in a directory."""
    control = Control(actions, actions.notes.append)
    await control.open(directory)
    try:
        yield control
    finally:
        await control.close()


async def ask(directory: Path, method: str, target: str) -> tuple[int, str]:
    """Send one request to the control socket there."""
    status, body = await client.fetch(directory / NAME, target, method=method, timeout=PATIENCE)
    return status, body.decode()
