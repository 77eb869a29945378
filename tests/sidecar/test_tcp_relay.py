"""A relay on socket pairs, where the test controls the order of events."""

import asyncio
import socket
from collections.abc import Callable

from agent.sidecar.tcp_relay import Relay
from agent.sidecar.wire import Wire
from agent.stats.writer import Writer


class Pair:
    """A stream, and the socket at its far end."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        near.setblocking(False)
        self.far.setblocking(False)
        self.wire = Wire(near)


def relay(client: Pair, upstream: Pair, over: Callable[[Relay, bool, bool], None], idle: float = 0) -> Relay:
    counters = [Writer.private().counter("c") for _ in range(4)]
    return Relay(
        client.wire,
        upstream.wire,
        limit=1 << 20,
        idle=idle,
        counters=((counters[0],), (counters[1],)),
        pauses=(counters[2], counters[3]),
        over=over,
    )


async def test_what_an_upstream_said_before_it_broke_reaches_the_client() -> None:
    client, upstream = Pair(), Pair()
    over: asyncio.Future[tuple[bool, bool]] = asyncio.get_running_loop().create_future()
    client.far.send(b"a request that nobody reads")
    upstream.far.send(b"answer")
    upstream.far.close()
    relay(client, upstream, lambda _, idle, first: over.set_result((idle, first)))
    assert await over == (False, True)
    assert client.far.recv(100) == b"answer"
    client.far.close()


async def test_what_is_held_goes_out_after_the_end_of_its_source() -> None:
    client, upstream = Pair(), Pair()
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    size = 0
    try:
        while True:
            size += upstream.wire.socket.send(bytes(1 << 16))  # fill the buffers to the upstream: more data is held
    except BlockingIOError:
        pass
    relay(client, upstream, lambda *_: over.set_result(True))
    client.far.send(b"last words")
    client.far.shutdown(socket.SHUT_WR)
    loop = asyncio.get_running_loop()
    got = bytearray()
    while part := await loop.sock_recv(upstream.far, 1 << 16):
        got += part
    assert got == bytes(size) + b"last words"
    upstream.far.close()
    assert await over
    client.far.close()
