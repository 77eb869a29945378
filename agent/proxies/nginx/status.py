"""NGINX's own server at a Unix socket, which is the epoch's admin interface: it answers, and counts (`stub_status`)."""

import math
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from agent.http import client
from agent.http.message import Request, Response
from agent.proxies.standalone import StandaloneAdmin

_TIMEOUT = 2.0
_PAGE = re.compile(
    r"Active connections: (?P<active>\d+)\s+server accepts handled requests\s+(?P<accepted>\d+) (?P<handled>\d+) "
    r"(?P<requests>\d+)\s+Reading: (?P<reading>\d+) Writing: (?P<writing>\d+) Waiting: (?P<waiting>\d+)"
)
_COUNTERS = ("accepted", "handled")
_STATES = ("active", "reading", "writing", "waiting")


class Status(StandaloneAdmin):
    """The server at `path`."""

    async def responds(self) -> bool:
        """Return True when a worker answers or nothing listens any more, False on another error."""
        try:
            await client.fetch(self.place, "/", timeout=math.inf)
        except OSError as error:
            return isinstance(error, FileNotFoundError | ConnectionRefusedError)
        return True

    async def is_live(self) -> bool:
        """Return whether a worker answers."""
        try:
            status, _ = await client.fetch(self.place, "/", timeout=_TIMEOUT)
        except OSError:
            return False
        return status == 200  # OK

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Return the counters in Prometheus's text format, with the names of NGINX's own exporter."""
        return self._exposition(request)

    @asynccontextmanager
    async def _exposition(self, request: Request) -> AsyncIterator[Response]:
        del request
        _, page = await client.fetch(self.place, "/stub_status", timeout=_TIMEOUT)
        yield Response(200, _once(exposition(page.decode("latin-1"))), (("content-type", "text/plain; version=0.0.4"),))


async def _once(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


def exposition(page: str) -> str:
    """Return the numbers of a `stub_status` page as metrics. Raises ValueError for another page."""
    found = _PAGE.search(page)
    if found is None:
        message = "it is no page of stub_status"
        raise ValueError(message)
    lines = []
    for name in _COUNTERS:
        lines += [f"# TYPE nginx_connections_{name}_total counter", f"nginx_connections_{name}_total {found[name]}"]
    lines += ["# TYPE nginx_http_requests_total counter", f"nginx_http_requests_total {found['requests']}"]
    for name in _STATES:
        lines += [f"# TYPE nginx_connections_{name} gauge", f"nginx_connections_{name} {found[name]}"]
    return "\n".join([*lines, ""])
