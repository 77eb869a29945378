"""The status server's routes.

GET  /                        the page and its files
GET  /healthz/live, /ready    for kubelets and load balancers
GET  /status                  the status as JSON; /status/schema.json describes it, /events streams it
GET  /metrics                 all metrics; /stats/prometheus is the same
GET  /stats                   the proxies' statistics, summed up, one per line
GET  /app-health/, /app-lifecycle/   probes of the application, if configured
POST /drain, /quitquitquit    only if enabled, from this machine, and not from a web page
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import parse_qs

from agent.core.errors import AgentError
from agent.http.hosts import Handler, is_loopback
from agent.http.message import Headers, Request, Response
from agent.http.server import affordable_clients
from agent.status.actions import Actions
from agent.status.event_stream import WATCHERS_LIMIT, Stream
from agent.status.health import Health
from agent.status.model import Status, document
from agent.status.page import Page
from agent.status.statistics import Statistics

_FRESH: Final = 0.1  # seconds
_BROWSERS: Final = frozenset({"origin", "sec-fetch-site"})  # headers that a web page cannot omit or forge
_APPLICATION: Final = ("/app-health/", "/app-lifecycle/")
_JSON: Final[Headers] = (("content-type", "application/json"), ("cache-control", "no-store"))


class Routes:
    """Dispatches each request to its handler.

    `actions`: None if actions are disabled; `note` is called with each requested action. `app_probes`: None if none is
    configured.
    """

    def __init__(
        self,
        overview: Callable[[], Status],
        health: Health,
        statistics: Statistics,
        metrics: Handler,
        actions: Actions | None,
        note: Callable[[str], None],
        app_probes: Handler | None = None,
    ) -> None:
        # With few descriptors, leave room for health probes.
        self.stream = Stream(overview, max(1, min(WATCHERS_LIMIT, affordable_clients() // 4)))
        self._overview = overview
        self._document: bytes | None = None  # a cached response, for `_FRESH` seconds
        self._actions = actions
        self._note = note
        self._app_probes = app_probes or _no_prober
        self._begun: set[asyncio.Task[None]] = set()
        page = Page()
        self._handlers: dict[str, Handler] = {
            **dict.fromkeys(page.paths, page.answer),
            "/events": self.stream.answer,
            "/healthz/live": health.answer,
            "/healthz/ready": health.answer,
            "/status": self._status,
            "/stats": statistics.answer,
            "/metrics": metrics,
            "/stats/prometheus": metrics,
            "/drain": self._drain,
            "/quitquitquit": self._quit,
        }

    def changed(self) -> None:
        """Drop the cached status and notify event streams."""
        self._document = None
        self.stream.changed()

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        room = self._handlers.get(request.path)
        if room is None and request.path.startswith(_APPLICATION):
            return await self._app_probes(request)
        if room is None:
            return Response(404, f"there is no {request.path}; see / or /status\n".encode(errors="replace"))
        return await room(request)

    async def close(self) -> None:
        """Cancel running actions."""
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)

    async def _status(self, request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return _not_allowed("GET, HEAD")
        return Response(200, self._newest(), _JSON)

    def _newest(self) -> bytes:
        """Return the status document, cached for `_FRESH` seconds unless it changes."""
        if self._document is None:
            self._document = document(self._overview())
            asyncio.get_running_loop().call_later(_FRESH, self._forget)
        return self._document

    def _forget(self) -> None:
        self._document = None

    # Actions

    async def _drain(self, request: Request) -> Response:
        return self._act(request, "draining", lambda actions: actions.drain())

    async def _quit(self, request: Request) -> Response:
        now = _is_set("now", request.target)
        return self._act(request, "stopping", lambda actions: actions.stop(now=now))

    def _act(self, request: Request, word: str, action: Callable[[Actions], Coroutine[Any, Any, object]]) -> Response:
        if request.method != "POST":
            return _not_allowed("POST")
        if self._actions is None:
            return _forbidden("actions by HTTP are off; start the agent with --http-actions, or use its control socket")
        if any(name in _BROWSERS for name, _ in request.headers):
            return _forbidden("requests from a browser are rejected; send it from another program")
        if not is_loopback(request.address):
            return _forbidden("actions are accepted from this machine only")
        self._note(f"{request.path.removeprefix('/')} was requested by HTTP from {request.address}")
        task = asyncio.get_running_loop().create_task(_unheard(action(self._actions)))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return Response(200, f"{word}\n".encode())


def _is_set(name: str, target: str) -> bool:
    """Return whether a flag is in a query: alone, or with a value that means yes."""
    values = parse_qs(target.partition("?")[2], keep_blank_values=True).get(name, ["no"])
    return values[-1].lower() in {"", "1", "true", "yes"}


async def _no_prober(request: Request) -> Response:
    return Response(400, f"no prober is configured for {request.path}; see --app-probers\n".encode(errors="replace"))


async def _unheard(action: Coroutine[Any, Any, object]) -> None:
    with contextlib.suppress(AgentError):  # it is already logged
        await action


def _not_allowed(methods: str) -> Response:
    return Response(405, b"method not allowed\n", (("allow", methods), ("content-type", "text/plain")))


def _forbidden(why: str) -> Response:
    return Response(403, f"{why}\n".encode())
