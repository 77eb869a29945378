"""Envoy's hot restart, both roles: child of the previous epoch and parent of the next.

    restart = HotRestart(arguments, ServerHooks(share=…, drain=…, shutdown_admin=…, terminate=…, stats=…))
    await restart.join()                        # a failure up to here does not affect the predecessor
    sockets = await restart.inherit(place)      # none: bind
    …                                           # load everything, begin to accept
    restart.serve()                             # the predecessor drains, and is told to exit later

The neighbours may be Envoys, or an agent between all epochs. With `--parent-shutdown-time-s 0` the predecessor is not
needed after `serve`. Differences from Envoy: a neighbour that exited, is late or hostile never ends this process; if
this process exits while it starts, it clears its flag in the shared memory and does not affect its predecessor.
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
    """Callbacks with which the server answers its successor.

    `share`: the descriptor for an address, which the server keeps owning; None if there is none. `drain`: stop
    accepting, ask clients to disconnect. `shutdown_admin`: a successor replaces the admin interface. `terminate`: exit
    now. `stats`: counter increments since the last call, and gauges.
    """

    share: Callable[[ListenAddress], int | None]
    drain: Callable[[], None]
    shutdown_admin: Callable[[], None]
    terminate: Callable[[], None]
    stats: Callable[[], tuple[dict[str, int], dict[str, int]]]


class HotRestart:
    """This process's place in a chain. Use it within one running loop."""

    def __init__(self, arguments: Arguments, part: ServerHooks) -> None:
        self.started_at = int(clock.calendar().timestamp())
        """Start of the chain's first epoch in calendar seconds; correct after `join`."""
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
        """Join the chain: bind names, attach shared memory, replace a predecessor's admin interface.

        Raises `UsageError` for names that are too long, `MachineError` if the place is taken, another process of the
        chain is still starting, or the predecessor is missing or does not answer within 10 s.
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
        for name in names.datagrams:  # a predecessor that forwards UDP would otherwise wait for a reader
            self._mailboxes.append(MessageReceiver(name, mode))

    async def inherit(self, place: ListenAddress) -> list[socket.socket]:
        """Return the predecessor's sockets for an address, one per worker; if empty, bind one.

        They are non-blocking and closed on exec. Most already listen, and then listen(2) must not be called again. One
        that a privileged process bound, or that refused clients for a while, does not listen yet. Raises `MachineError`
        if the predecessor has exited or does not answer.
        """
        return [] if self._predecessor is None else await self._predecessor.inherit(place)

    async def parent_stats(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the predecessor's counter increments since the last call, and its gauges.

        Both are empty without a predecessor. Raises `MachineError`, also when the predecessor has exited.
        """
        return ({}, {}) if self._predecessor is None else await self._predecessor.stats()

    def serve(self) -> None:
        """Report that this process accepts: the predecessor stops accepting, and exits later."""
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
        """Leave the chain; safe to repeat.

        A predecessor that drains is told to exit, as no other process would tell it. One that still serves, since this
        process never did, is not affected.
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
        """Handle a request; a descriptor sent with it is unexpected and closed."""
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
                pass  # receiving it is enough
            case _:
                self._answer(HotRestartMessage(didnt_recognize_your_last_message=True))

    def _give_console_up(self) -> None:
        """Reply to ShutdownAdmin and terminate a draining predecessor: as in Envoy, two remain."""
        self._has_successor = True
        reply = Reply.ShutdownAdmin(original_start_time_unix_seconds=self.started_at, enable_reuse_port_default=True)
        try:
            self._part.shutdown_admin()
        finally:
            self._answer(HotRestartMessage(reply=Reply(shutdown_admin=reply)))
        if self._predecessor is not None:
            self._predecessor.terminate()

    def _share(self, place: ListenAddress) -> None:
        """Reply in any case: an Envoy that waits for a socket waits forever."""
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
        with contextlib.suppress(MachineError):  # the successor has exited and needs no reply
            self._successor.send(message, descriptor)
