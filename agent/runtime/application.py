"""The application behind the proxy: where it tells its metrics, and asking it."""

import asyncio
import codecs
import ipaddress
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import h11

from agent.core.errors import UsageError
from agent.http.message import Response

_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class Application:
    """Where the application tells its metrics."""

    host: str
    port: int
    target: str
    authority: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `http://host[:port][/path]`; without a path it is /metrics. Raises `UsageError`."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 80
        except ValueError as error:
            message = f"cannot use --app-metrics {url}: {error}"
            raise UsageError(message) from error
        if parts.scheme != "http" or not host or parts.username is not None:
            message = f"cannot use --app-metrics {url}: it is not of the form http://host:port/path"
            raise UsageError(message)
        if not _is_address(host):
            codecs.lookup("idna")  # wanted at the first look-up of a name, when an upgrade may have replaced it
        query = f"?{parts.query}" if parts.query else ""
        return cls(host, port, (parts.path or "/metrics") + query, parts.netloc)

    @asynccontextmanager
    async def ask(self, headers: Iterable[tuple[str, str]]) -> AsyncIterator[Response]:
        """Make one request; the response's body is read from the connection while it is iterated over.

        Raises `OSError` if it does not answer, `ConnectionError` if what it says is not HTTP.
        """
        all_of_them = [("host", self.authority), ("connection", "close"), *headers]
        request = h11.Request(method="GET", target=self.target, headers=all_of_them)
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=_CHUNK)
        try:
            yield await _exchange(reader, writer, request)
        except h11.ProtocolError as error:
            message = f"cannot understand the answer of {self.authority}: {error}"
            raise ConnectionError(message) from error
        finally:
            writer.transport.abort()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: h11.Request) -> Response:
    machine = h11.Connection(h11.CLIENT)
    writer.write(b"".join(machine.send(event) or b"" for event in (request, h11.EndOfMessage())))
    await writer.drain()

    async def next_event() -> object:
        while (event := machine.next_event()) is h11.NEED_DATA:
            machine.receive_data(await reader.read(_CHUNK))
        return event

    async def body() -> AsyncIterator[bytes]:
        while isinstance(data := await next_event(), h11.Data):
            yield bytes(data.data)

    head = await next_event()
    while isinstance(head, h11.InformationalResponse):
        head = await next_event()
    if not isinstance(head, h11.Response):
        message = "cannot read the answer: the connection ended before it"
        raise ConnectionError(message)
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
    return Response(head.status_code, body(), headers)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
