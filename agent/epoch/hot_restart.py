"""Envoy's hot restart, both of its roles: the child of the epoch before, and the parent of the epoch to come.

    restart = HotRestart(arguments, Part(share=…, drain=…, shutdown_admin=…, terminate=…, stats=…))
    await restart.join()                        # a fault up to here costs the predecessor nothing
    sockets = await restart.inherit(place)      # none: bind
    …                                           # load everything, begin to accept
    restart.serve()                             # the predecessor drains, and is told to exit later

The neighbours may be Envoys, or an agent that stands between all epochs. With `--parent-shutdown-time-s 0` the
predecessor is not needed after `serve`. What differs from Envoy: a neighbour that is gone, late or hostile never ends
this process; one that exits while it starts clears its mark in the shared memory and leaves its predecessor alone.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from agent.core.errors import MachineError
from agent.epoch.arguments import Arguments, hot_restart_version
from agent.epoch.chain_addresses import ChainAddresses
from agent.epoch.parent_death import end_with_parent
from agent.epoch.predecessor import Predecessor
from agent.epoch.receiver import MessageReceiver
from agent.epoch.sender import MessageSender
from agent.epoch.shared_memory import SharedMemory
from agent.handoff.channel import Message
from agent.handoff.hot_restart_pb2 import HotRestartMessage, Reply
from agent.handoff.segment import HotRestartVersion
from agent.handoff.socket_store import ListenAddress
from agent.host import clock

_NOTHING = -1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerHooks:
    """What the server gives to its successor, and hears of it.

    `share`: the descriptor for a place, which stays the server's; None: there is none. `drain`: stop accepting, ask
    clients to leave. `shutdown_admin`: a successor takes the console over. `terminate`: exit now. `stats`: by how much
    counters grew since the last question, and gauges.
    """

    share: Callable[[ListenAddress], int | None]
    drain: Callable[[], None]
    shutdown_admin: Callable[[], None]
    terminate: Callable[[], None]
    stats: Callable[[], tuple[dict[str, int], dict[str, int]]]


class HotRestart:
    """This process's place in a chain. To be used from within one running loop."""

    def __init__(self, arguments: Arguments, part: ServerHooks) -> None:
        self.started_at = int(clock.calendar().timestamp())
        """When the first epoch of the chain was started, in calendar seconds; known after `join`."""
        self._arguments = arguments
        self._part = part
        self._addresses = ChainAddresses(arguments.socket_path, arguments.base_id, arguments.restart_epoch)
        self._mailboxes: list[MessageReceiver] = []
        self._memory: SharedMemory | None = None
        self._predecessor = Predecessor(self._addresses.predecessor) if arguments.restart_epoch else None
        self._successor = MessageSender(self._addresses.successor)
        self._has_successor = False
        self._serves = False
        self._farewell: asyncio.TimerHandle | None = None

    async def join(self) -> None:
        """Take the place: names, shared memory, and from a predecessor its console.

        Raises `UsageError` for names that are too long, `MachineError` if the place is taken, another process of the
        chain is still starting, or the predecessor is not there or does not answer within 10 s.
        """
        self._addresses.check()
        try:
            self._bind()
            version = HotRestartVersion.parse(hot_restart_version())
            first = self._predecessor is None
            self._memory = SharedMemory.attach(self._arguments.base_id, version, first=first)
            end_with_parent()
            if self._predecessor is not None:
                self.started_at = await self._predecessor.shutdown_admin() or self.started_at
        except BaseException:
            self.close()
            raise

    def _bind(self) -> None:
        names, mode = self._addresses, self._arguments.socket_mode
        take = None if self._predecessor is None else self._predecessor.take
        self._mailboxes.append(MessageReceiver(names.replies, mode, take))
        self._mailboxes.append(MessageReceiver(names.requests, mode, self._hear))
        for name in names.datagrams:  # a predecessor that forwards UDP would wait for a reader
            self._mailboxes.append(MessageReceiver(name, mode))

    async def inherit(self, place: ListenAddress) -> list[socket.socket]:
        """The predecessor's sockets at a place, one for each worker that has one; none: bind yourself.

        They are non-blocking, closed on exec, and mostly listen already: then they are not to be told again. One that
        was bound by somebody with the privilege for it, or that refused clients for a while, does not listen yet.
        Raises `MachineError` if the predecessor is gone or does not answer.
        """
        return [] if self._predecessor is None else await self._predecessor.inherit(place)

    async def parent_stats(self) -> tuple[dict[str, int], dict[str, int]]:
        """By how much the predecessor's counters grew since it was last asked, and its gauges.

        Nothing at all without one. Raises `MachineError`; a predecessor that is gone has nothing more to tell.
        """
        return ({}, {}) if self._predecessor is None else await self._predecessor.stats()

    def serve(self) -> None:
        """Say that this process accepts: the predecessor closes its listeners, and exits in time."""
        if self._serves:
            return
        self._serves = True
        if self._predecessor is not None:
            self._predecessor.drain_listeners()
            later = self._arguments.parent_shutdown_time
            if later > 0:
                self._farewell = asyncio.get_running_loop().call_later(later, self._predecessor.terminate)
            else:
                self._predecessor.terminate()
        if self._memory is not None:
            self._memory.started()

    def close(self) -> None:
        """Leave the chain; harmless when repeated.

        A predecessor that drains is told to exit, as there will be nobody else to tell it; one that still serves, since
        this process never did, is left alone.
        """
        if self._farewell is not None:
            self._farewell.cancel()
        if self._predecessor is not None:
            if self._serves:
                self._predecessor.terminate()
            self._predecessor.close()
        self._successor.close()
        while self._mailboxes:
            self._mailboxes.pop().close()
        if self._memory is not None:
            if self._serves and not self._has_successor:
                self._memory.remove()
            self._memory.close()

    # The successor

    def _hear(self, letter: Message) -> None:
        """Take a request. A descriptor that came with it was asked for by nobody."""
        if letter.descriptor is not None:
            os.close(letter.descriptor)
        message = letter.message
        match message.request.WhichOneof("request") if message.HasField("request") else None:
            case "shutdown_admin":
                self._give_console_up()
            case "pass_listen_socket":
                request = message.request.pass_listen_socket
                self._share(ListenAddress(request.address, request.network_namespace, request.worker_index))
            case "stats":
                self._tell_stats()
            case "drain_listeners":
                self._part.drain()
            case "terminate":
                self._part.terminate()
            case "test_connection":
                pass  # that it was taken is the answer
            case _:
                self._answer(HotRestartMessage(didnt_recognize_your_last_message=True))

    def _give_console_up(self) -> None:
        """There are never three that serve: whoever drains for this one ends now, as in Envoy."""
        self._has_successor = True
        reply = Reply.ShutdownAdmin(original_start_time_unix_seconds=self.started_at, enable_reuse_port_default=True)
        try:
            self._part.shutdown_admin()
        finally:
            self._answer(HotRestartMessage(reply=Reply(shutdown_admin=reply)))
        if self._predecessor is not None:
            self._predecessor.terminate()

    def _share(self, place: ListenAddress) -> None:
        """Answer in any case: an Envoy that waits for a socket waits for ever."""
        descriptor = None
        try:
            descriptor = self._part.share(place)
        finally:
            number = _NOTHING if descriptor is None else descriptor
            reply = Reply(pass_listen_socket=Reply.PassListenSocket(fd=number))
            self._answer(HotRestartMessage(reply=reply), descriptor)

    def _tell_stats(self) -> None:
        counters: dict[str, int] = {}
        gauges: dict[str, int] = {}
        try:
            counters, gauges = self._part.stats()
        finally:
            stats = Reply.Stats(counter_deltas=counters, gauges=gauges)
            self._answer(HotRestartMessage(reply=Reply(stats=stats)))

    def _answer(self, message: HotRestartMessage, descriptor: int | None = None) -> None:
        with contextlib.suppress(MachineError):  # it has gone since, and needs no answer
            self._successor.send(message, descriptor)
