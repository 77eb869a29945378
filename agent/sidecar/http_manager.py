"""The HTTP/1.1 filter: one task per client connection, and their statistics."""

import asyncio
from collections.abc import Mapping
from functools import partial

from agent.sidecar.client import Client
from agent.sidecar.counters import HttpCounters, ListenerHttpCounters
from agent.sidecar.draining import Draining
from agent.sidecar.http_conversation import ServerConnection
from agent.sidecar.http_pool import Pool
from agent.sidecar.http_service import Service
from agent.sidecar.model import HttpManager
from agent.sidecar.routing import Routing


class HttpConnectionManager:
    """Serves each client connection in its own task."""

    def __init__(
        self,
        settings: HttpManager,
        routing: Routing,
        pools: Mapping[str, Pool],
        counters: HttpCounters,
        listener_counters: ListenerHttpCounters,
        draining: Draining,
    ) -> None:
        self._service = Service(settings, routing, pools, counters, listener_counters, draining)
        self._counters = counters
        self._tasks: set[asyncio.Task[None]] = set()

    def arrived(self, *, is_secure: bool) -> None:
        """Count a new connection."""
        self._counters.downstream_cx_total.add()
        self._counters.downstream_cx_active.add()
        if is_secure:
            self._counters.downstream_cx_ssl_total.add()
            self._counters.downstream_cx_ssl_active.add()

    def left(self, *, is_secure: bool) -> None:
        """Count the end of a connection."""
        self._counters.downstream_cx_active.sub()
        self._counters.downstream_cx_destroy.add()
        if is_secure:
            self._counters.downstream_cx_ssl_active.sub()

    def serve(self, client: Client) -> None:
        """Start the task that serves the connection."""
        conversation = ServerConnection(self._service, client)
        task = asyncio.get_running_loop().create_task(conversation.run())
        client.session = _Session(task)
        self._tasks.add(task)
        task.add_done_callback(partial(self._over, conversation, client))

    async def ended(self) -> None:
        """Wait until the tasks of all aborted sessions have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _over(self, conversation: ServerConnection, client: Client, task: asyncio.Task[None]) -> None:
        """Close the connection, even if its task was cancelled before it ran."""
        self._tasks.discard(task)
        conversation.close()
        client.leave()


class _Session:
    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def abort(self) -> None:
        self._task.cancel()
