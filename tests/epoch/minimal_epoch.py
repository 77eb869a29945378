#!/usr/bin/env python3
"""A tiny HTTP/1.1 server that is an epoch: the tests use it in place of an Envoy.

Its configuration: `listen`, a list of mappings with `port` (on 127.0.0.1) or `path`, and for TLS a `tls` with
`certificate_chain` and `private_key`, each with a `filename`; and `body`, the text of every response.
"""

import asyncio
import ssl
from typing import Any

from agent.epoch import BACKLOG, Epoch, Listener, run


class Tiny:
    """One epoch's server: every request gets the same body."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._body = str(epoch.configuration.get("body", "ok\n")).encode()
        self._requests = epoch.stats.counter("http.tiny.downstream_rq_total")

    async def listen(self, wish: dict[str, Any]) -> tuple[Listener, ssl.SSLContext | None]:
        """Open one listener of the configuration."""
        if "path" in wish:
            return await self._epoch.listen_unix(wish["path"], 0o600), None
        tls = wish.get("tls")
        context = None
        if tls is not None:
            context = self._epoch.tls_context(tls["certificate_chain"]["filename"], tls["private_key"]["filename"])
        return await self._epoch.listen(wish.get("host", "127.0.0.1"), wish["port"]), context

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests without a body until the client disconnects or should reconnect."""
        try:
            while head := await self._head(reader):
                self._requests.add()
                leaves = b"connection: close" in head or self._epoch.client_should_leave()
                close = b"connection: close\r\n" if leaves else b""
                length = str(len(self._body)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\n" + close + b"content-length: " + length + b"\r\n\r\n" + self._body)
                await writer.drain()
                if leaves:
                    break
        except OSError:
            pass
        finally:
            writer.close()

    @staticmethod
    async def _head(reader: asyncio.StreamReader) -> bytes:
        try:
            return (await reader.readuntil(b"\r\n\r\n")).lower()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return b""


async def main(epoch: Epoch) -> None:
    """Serve until the end."""
    tiny = Tiny(epoch)
    listeners = [await tiny.listen(wish) for wish in epoch.configuration["listen"]]
    await epoch.admitted()
    servers = [
        await asyncio.start_server(tiny.handle, sock=sock, ssl=context, backlog=BACKLOG)
        for listener, context in listeners
        for sock in listener.sockets
    ]
    await epoch.serve()
    for server in servers:
        server.close()
    await epoch.terminated()


if __name__ == "__main__":
    run(main)
