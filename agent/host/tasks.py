"""Background tasks that are not awaited: referenced while they run, logged if they fail."""

import asyncio
import logging
from collections.abc import Coroutine

from agent.host.log import log_event


class Tasks:
    """Owns background tasks. An exception in one is a bug: it is logged with its traceback."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run `work` in the background."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel all running tasks and wait for them."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_event(logging.ERROR, "bug", f"{task.get_name()} failed: please report this", error=error)
