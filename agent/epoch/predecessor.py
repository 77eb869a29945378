"""Client of the previous epoch: requests sockets and statistics, tells it to drain and exit."""

import asyncio
import contextlib
import os
import socket

from agent.core.errors import MachineError
from agent.epoch.sender import MessageSender
from agent.handoff.channel import Message
from agent.handoff.descriptors import discard
from agent.handoff.hot_restart_pb2 import HotRestartMessage, Reply, Request
from agent.handoff.socket_store import ListenAddress

PATIENCE = 10.0
"""Seconds for a predecessor to appear, and for each of its replies.

Envoy waits forever for a reply, and this long for a name to be bound, or for a peer to read one of its replies.
"""

_KNOCK_INTERVAL = 0.05  # the kernel does not report when an abstract name is bound
_WORKERS_LIMIT = 1024


class Predecessor:
    """Sends one request at a time to `address`; its replies are passed to `take`.

    Every request raises `MachineError` if the predecessor has exited or does not reply; after a timeout no further
    request is sent.
    """

    def __init__(self, address: str) -> None:
        self._outbox = MessageSender(address)
        self._turn = asyncio.Lock()
        self._asked = ""
        self._answer: asyncio.Future[Message] | None = None
        self._failure: str | None = None
        self._is_terminated = False

    # Requests

    async def shutdown_admin(self) -> int:
        """Have it close its admin interface; return the chain's start in calendar seconds.

        Waits for a predecessor that is still starting.
        """
        reply = await self._ask(Request(shutdown_admin=Request.ShutdownAdmin()), waiting=True)
        return reply.message.reply.shutdown_admin.original_start_time_unix_seconds

    async def inherit(self, place: ListenAddress) -> list[socket.socket]:
        """Return duplicates of its sockets for an address, one for each worker with its own queue.

        The list is empty if it does not listen there. Each socket is non-blocking and closed on exec. The list ends at
        the first socket without a queue of its own: workers that share one socket yield one, and so does a socket that
        was bound for this process and does not listen yet.
        """
        inherited: list[socket.socket] = []
        try:
            for worker in range(_WORKERS_LIMIT):
                descriptor = await self._socket(ListenAddress(place.address, place.namespace, worker))
                if descriptor is None:
                    break
                received = self._received(place, descriptor)
                if inherited and (_is_same(inherited[0], received) or not listens(received)):
                    received.close()
                    break
                inherited.append(received)
                if not (listens(received) and _may_have_siblings(received)):
                    break
        except BaseException:
            for each in inherited:
                each.close()
            raise
        return inherited

    def _received(self, place: ListenAddress, descriptor: int) -> socket.socket:
        try:
            received = socket.socket(fileno=descriptor)
        except OSError as error:
            discard([descriptor])
            message = f"cannot go on with {self._outbox.address}: what it sent for {place.address} is no socket"
            raise MachineError(message) from error
        received.setblocking(False)
        return received

    async def _socket(self, place: ListenAddress) -> int | None:
        request = Request.PassListenSocket(
            address=place.address, worker_index=place.worker, network_namespace=place.namespace
        )
        return (await self._ask(Request(pass_listen_socket=request))).descriptor

    async def stats(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return its counter increments since the last request, and its gauges."""
        stats = (await self._ask(Request(stats=Request.Stats()))).message.reply.stats
        return dict(stats.counter_deltas), dict(stats.gauges)

    async def _ask(self, request: Request, *, waiting: bool = False) -> Message:
        async with self._turn:
            if self._failure is not None:
                raise MachineError(self._failure)
            return await self._answered(request, waiting=waiting)

    async def _answered(self, request: Request, *, waiting: bool) -> Message:
        self._asked = request.WhichOneof("request") or ""
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answer = answer
        try:
            async with asyncio.timeout(PATIENCE):
                await self._send(request, waiting=waiting)
                return await answer
        except BaseException as error:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                _close(answer.result().descriptor)  # it arrived after the timeout
            if not isinstance(error, TimeoutError):
                raise
            self._failure = f"cannot continue with {self._outbox.address}: no answer to {self._asked} in {PATIENCE:g} s"
            raise MachineError(self._failure) from None
        finally:
            self._answer = None

    async def _send(self, request: Request, *, waiting: bool) -> None:
        message = HotRestartMessage(request=request)
        while True:
            try:
                self._outbox.send(message)
            except MachineError:
                if not waiting:
                    raise
                await asyncio.sleep(_KNOCK_INTERVAL)
            else:
                return

    # Replies

    def take(self, letter: Message) -> None:
        """Handle a reply; ignore one that matches no request, and close its descriptor."""
        kind = _kind(letter.message)
        if self._answer is None or self._answer.done() or kind not in {self._asked, "not understood"}:
            _close(letter.descriptor)
        elif kind != self._asked:
            _close(letter.descriptor)
            self._answer.set_exception(MachineError(f"cannot continue: {self._outbox.address} lacks {self._asked}"))
        elif kind == "pass_listen_socket":
            self._answer.set_result(Message(letter.message, _wanted(letter)))
        else:
            _close(letter.descriptor)
            self._answer.set_result(Message(letter.message, None))

    # Commands

    def drain_listeners(self) -> None:
        """Tell it to stop accepting; no effect if it has exited."""
        self._tell(Request(drain_listeners=Request.DrainListeners()))

    def terminate(self) -> None:
        """Tell it to exit, once; no effect if it has exited."""
        if not self._is_terminated:
            self._is_terminated = True
            self._tell(Request(terminate=Request.Terminate()))

    def close(self) -> None:
        """Stop sending."""
        self._outbox.close()

    def _tell(self, request: Request) -> None:
        with contextlib.suppress(MachineError):
            self._outbox.send(HotRestartMessage(request=request))


def listens(made: socket.socket) -> bool:
    """Return whether a stream socket listens; always true for a datagram socket."""
    return made.type != socket.SOCK_STREAM or made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def _may_have_siblings(made: socket.socket) -> bool:
    return made.family != socket.AF_UNIX and made.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1


def _is_same(one: socket.socket, other: socket.socket) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())


def _kind(message: HotRestartMessage) -> str:
    if message.didnt_recognize_your_last_message:
        return "not understood"
    reply: Reply = message.reply
    return reply.WhichOneof("reply") or "" if message.HasField("reply") else ""


def _wanted(letter: Message) -> int | None:
    """Return the descriptor of a reply that announces one."""
    if letter.message.reply.pass_listen_socket.fd >= 0:
        return letter.descriptor
    _close(letter.descriptor)
    return None


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
