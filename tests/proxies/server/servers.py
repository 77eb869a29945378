"""Servers in this process, on sockets that a test hands them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.pki import Authority, Leaf

AUTHORITY = Authority.create("a server's")
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass
class Answers:
    """What a server answers, and the requests and names that it saw. None: never; empty: it closes the connection."""

    answer: bytes | None = OK
    requests: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is None:
                await reader.read()
            writer.write(self.answer or b"")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort() if self.answer is None else writer.close()


def context(leaf: Leaf, directory: Path, seen: Callable[[str | None], None] = lambda _: None) -> ssl.SSLContext:
    """Return a context that serves this leaf; `seen` is called with the name that a client asks for."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = directory / "pair.pem"
    pair.write_bytes(leaf.chain_pem + leaf.key_pem)
    made.load_cert_chain(pair)
    made.sni_callback = lambda _, name, __: seen(name)
    return made


@asynccontextmanager
async def serving(
    answers: Answers,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    path: Path | None = None,
    sock: socket.socket | None = None,
) -> AsyncIterator[asyncio.Server]:
    """Serve during the block: at a free port, at a path, or on a socket."""
    if path is not None:
        server = await asyncio.start_unix_server(answers.serve, path=path)
    elif sock is not None:
        server = await asyncio.start_server(answers.serve, sock=sock, ssl=tls)
    else:
        server = await asyncio.start_server(answers.serve, host, 0, ssl=tls)
    try:
        yield server
    finally:
        server.close()
        await asyncio.sleep(0)
