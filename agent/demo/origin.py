"""The server behind the proxy: `python -m agent.demo.origin DESCRIPTOR`.

It answers every request on the inherited listening socket, and exits when standard input ends.
"""

import asyncio
import os
import socket
import sys

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n"
_END = b"\r\n\r\n"


class Conversation(asyncio.Protocol):
    """One connection: sends a response for each request head. Bodies are not expected."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer the complete requests."""
        *whole, self._data = (self._data + data).split(_END)
        if self._transport is not None:
            self._transport.write(_ANSWER * len(whole))


async def serve(descriptor: int) -> None:
    """Answer on an inherited socket until standard input ends."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1) else over.set())
    server = await loop.create_server(Conversation, sock=socket.socket(fileno=descriptor))
    await over.wait()
    server.close()
    loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
