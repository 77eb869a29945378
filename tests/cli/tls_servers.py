"""Listeners of the tests: TLS in several configurations, and listeners without TLS."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.pki import Authority, Leaf


def context(directory: Path, leaf: Leaf, *, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a server's context that shows this leaf."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*pair_in(directory, leaf))
    if newest is not None:
        made.maximum_version = newest
    return made


def pair_in(directory: Path, leaf: Leaf) -> tuple[Path, Path]:
    """Write a leaf with its key; return the path."""
    chain, key = directory / "shop.crt", directory / "shop.key"
    chain.write_bytes(leaf.chain_pem)
    key.write_bytes(leaf.key_pem)
    return chain, key


def wanting(made: ssl.SSLContext, authority: Authority) -> ssl.SSLContext:
    """The same, for clients with a certificate of this authority only."""
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=authority.pem.decode())
    return made


def by_name(made: ssl.SSLContext, others: Mapping[str, ssl.SSLContext]) -> ssl.SSLContext:
    """The same, with other contexts for some server names."""

    def choose(line: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        line.context = others.get(name or "", made)

    made.sni_callback = choose
    return made


@asynccontextmanager
async def shop(how: ssl.SSLContext | bytes | None, path: Path | None = None) -> AsyncIterator[str]:
    """Listen, and yield the address: TLS, a plaintext answer, or None to close the connection without one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(1)
            writer.write(how if isinstance(how, bytes) else b"")
            await writer.drain()
        writer.transport.abort()

    tls = how if isinstance(how, ssl.SSLContext) else None
    if path is not None:
        server = await asyncio.start_unix_server(serve, path, ssl=tls)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    asyncio.get_running_loop().set_exception_handler(lambda _, __: None)  # clients may refuse the certificate
    async with server:
        yield f"unix://{path}" if path else f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def nobody() -> tuple[socket.socket, str]:
    """Yield an address without a listener, reserved by a bound socket."""
    kept = socket.create_server(("127.0.0.1", 0))
    address = f"tcp://127.0.0.1:{kept.getsockname()[1]}"
    kept.close()
    bound = socket.socket()
    bound.bind(("127.0.0.1", int(address.rpartition(":")[2])))
    return bound, address
