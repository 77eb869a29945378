"""HAProxy's command line interface at an inherited Unix socket, which is the epoch's admin interface.

It answers as soon as the process runs its loop, so one command that is sent before the start tells when it serves. From
SIGUSR1 on it takes no connection.
"""

import asyncio
import errno
import math
import re
import socket
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agent.core.errors import MachineError
from agent.http import client
from agent.http.held import held_socket
from agent.http.message import Request, Response
from agent.proxies.haproxy import socket_transfer
from agent.proxies.haproxy.socket_transfer import Passed
from agent.proxies.standalone import StandaloneAdmin, StandaloneConfiguration

_FAMILY = re.compile(r"^(?:unix|ipv4|ipv6)@")
_TIMEOUT = 5.0
_LONGEST = 16 << 20
_NOBODY = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.EACCES})


class Console(StandaloneAdmin):
    """The console at `path`, and HAProxy's own exporter of metrics at `metrics`, both Unix sockets.

    `refusals` are HAProxy's reasons for rejecting what was pushed, the last push's.
    """

    def __init__(self, path: Path, metrics: Path, configuration: StandaloneConfiguration) -> None:
        super().__init__(path, configuration)
        self.metrics = metrics
        self.refusals: list[str] = []

    async def command(self, text: str, timeout: float = _TIMEOUT) -> str:
        """Send one command with its payload; return the whole answer. Raises `MachineError`."""
        try:
            async with asyncio.timeout(None if timeout == math.inf else timeout):
                return await self._exchange(text.encode("latin-1"))
        except TimeoutError as error:
            message = f"cannot ask HAProxy at {self.path}: no answer within {timeout:g} s"
            raise MachineError(message) from error
        except OSError as error:
            message = f"cannot ask HAProxy at {self.path}: {error.strerror or error}"
            raise MachineError(message) from error

    async def _exchange(self, command: bytes) -> str:
        with held_socket(self.path) as way:
            reader, writer = await asyncio.open_unix_connection(way)
        try:
            writer.write(command)
            await writer.drain()
            taken = bytearray()
            while part := await reader.read(1 << 16):
                taken += part
                if len(taken) > _LONGEST:
                    message = f"the answer is longer than {_LONGEST} bytes"
                    raise ConnectionError(message)
            return taken.decode("latin-1")
        finally:
            writer.transport.abort()

    def take_sockets(self) -> list[Passed]:
        """Request duplicates of all its listening sockets; the caller owns them. It blocks. Raises `MachineError`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            try:
                with held_socket(self.path) as way:
                    connection.connect(way)
            except OSError as error:
                message = f"cannot ask HAProxy at {self.path} for its sockets: {error.strerror or error}"
                raise MachineError(message) from error
            return socket_transfer.receive(connection)

    async def responds(self) -> bool:
        """Return True when it responds or is unreachable, False on another error."""
        try:
            await self._exchange(b"show info\n")
        except OSError as error:
            return error.errno in _NOBODY
        return True

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Return the metrics of HAProxy's own exporter."""
        _, mark, query = request.target.partition("?")
        return client.stream(self.metrics, Request(request.method, f"/metrics{mark}{query}", request.headers))

    async def rejections(self) -> list[str]:
        """Return its reasons for rejecting a push."""
        return list(self.refusals)


def own_addresses(consoles: Collection[str]) -> frozenset[str]:
    """Return the addresses of the operator's own `stats socket` lines, in the form of a `ListenAddress`."""
    plain = (_FAMILY.sub("", each) for each in consoles)
    return frozenset(f"unix://{each}" if each.startswith("/") else f"tcp://{each}" for each in plain)
