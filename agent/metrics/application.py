"""The metrics endpoint of the application behind the proxy."""

import ipaddress
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from agent.core.errors import UsageError
from agent.http.client import stream
from agent.http.message import Request, Response


@dataclass(frozen=True, slots=True)
class Application:
    """The address of the application's metrics endpoint."""

    host: str
    port: int
    target: str
    authority: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse `http://host[:port][/path]`; the path defaults to /metrics. Raises `UsageError`."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, 80 if parts.port is None else parts.port
            if host and not _is_address(host):
                host.encode("idna")  # also loads the codec: at the first look-up, an upgrade may have replaced its file
        except ValueError as error:
            message = f"cannot use --app-metrics {url!r}: {error}"
            raise UsageError(message) from error
        if parts.scheme != "http" or not host or not port or parts.username is not None or not _is_plain(url):
            message = f"cannot use --app-metrics {url!r}: it is not of the form http://host:port/path"
            raise UsageError(message)
        query = f"?{parts.query}" if parts.query else ""
        return cls(host, port, (parts.path or "/metrics") + query, parts.netloc)

    @asynccontextmanager
    async def ask(self, headers: Iterable[tuple[str, str]]) -> AsyncIterator[Response]:
        """Send one request; the response's body is read from the connection during iteration.

        Raises `OSError` if the application does not answer, `ConnectionError` if the response is not HTTP.
        """
        request = Request("GET", self.target, tuple(headers))
        async with stream((self.host, self.port), request, self.authority) as response:
            yield response


def _is_plain(url: str) -> bool:
    """Return whether HTTP can carry it as it is: ASCII without blanks and control characters."""
    return url.isascii() and url.isprintable() and " " not in url


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
