"""A small agent that publishes the statuses of a scenario, at a real status server in its own thread."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from agent.http.message import Request, Response
from agent.http.server import Server
from agent.status.event_stream import Stream
from agent.status.model import Status, document
from agent.status.page import Page
from tests.system.eventually import PATIENCE


class Stage:
    """Publishes one status until the next one is set. Between `close` and `open`, its address does not answer."""

    def __init__(self, first: Status) -> None:
        self._shown = first
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._page = Page()
        self._port = 0
        self._server: Server | None = None
        self.stream = Stream(lambda: self._shown)
        self.open()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self._port}/"

    def show(self, overview: Status) -> None:
        """Publish this status."""
        self._shown = overview
        self._loop.call_soon_threadsafe(self.stream.changed)

    def open(self) -> None:
        """Start to answer."""
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self._server = Server(self._answer)
        self._run(self._server.start(listener))

    def close(self) -> None:
        """Stop answering."""
        assert self._server is not None
        self._run(self._server.close())

    def end(self) -> None:
        """Close, and end the thread."""
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=PATIENCE)

    async def _answer(self, request: Request) -> Response:
        if request.path == "/events":
            return await self.stream.answer(request)
        if request.path == "/status":
            return Response(200, document(self._shown), (("content-type", "application/json"),))
        return await self._page.answer(request)


@contextmanager
def staged(first: Status) -> Iterator[Stage]:
    """Yield a stage."""
    made = Stage(first)
    try:
        yield made
    finally:
        made.end()
