"""Sends whole messages to one address, in order, without ever blocking."""

import asyncio
import contextlib
import os
import socket
from collections import deque

from agent.core.errors import MachineError
from agent.epoch.chain_addresses import to_kernel
from agent.handoff.channel import send_datagram
from agent.handoff.descriptors import discard
from agent.handoff.framing import cut
from agent.handoff.hot_restart_pb2 import HotRestartMessage

_BACKLOG_LIMIT = 4096  # datagrams queued for a peer that does not read; a correct peer has one request open


class MessageSender:
    """Sends to the process that has the name at that moment, since a neighbour may be replaced."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sender: socket.socket | None = None
        self._backlog: deque[tuple[bytes, int | None, bool]] = deque()  # data, descriptor, whether it ends a message

    def send(self, message: HotRestartMessage, descriptor: int | None = None) -> None:
        """Send, with a duplicate of `descriptor` on the last datagram.

        Raises `MachineError` if nothing is bound at the address.
        """
        datagrams = cut(message)
        if len(self._backlog) + len(datagrams) > _BACKLOG_LIMIT:
            raise MachineError(f"cannot send to {self.address}: it does not read earlier messages")
        self._backlog += [(datagram, None, False) for datagram in datagrams[:-1]]
        self._backlog.append((datagrams[-1], None if descriptor is None else os.dup(descriptor), True))
        self._flush()

    def close(self) -> None:
        """Drop the queue."""
        self._hang_up()
        discard([descriptor for _, descriptor, _ in self._backlog if descriptor is not None])
        self._backlog.clear()

    def _flush(self) -> None:
        try:
            while self._backlog:
                datagram, descriptor, is_last = self._backlog[0]
                send_datagram(self._line(), datagram, descriptor)
                self._backlog.popleft()
                if descriptor is not None:
                    os.close(descriptor)
                if is_last:
                    self._hang_up()
        except BlockingIOError:
            asyncio.get_running_loop().add_writer(self._line(), self._flush_later)
        except OSError as error:
            self.close()
            message = f"cannot send to {self.address}: {(error.strerror or str(error)).lower()}"
            raise MachineError(message) from error

    def _flush_later(self) -> None:
        with contextlib.suppress(MachineError):  # the peer has exited and needs no reply
            self._flush()

    def _line(self) -> socket.socket:
        """Return a connected socket, so that the loop can wait for space in the peer's queue."""
        if self._sender is None:
            sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                sender.connect(to_kernel(self.address))
            except OSError:
                sender.close()
                raise
            self._sender = sender
        return self._sender

    def _hang_up(self) -> None:
        if self._sender is not None:
            asyncio.get_running_loop().remove_writer(self._sender)
            self._sender.close()
            self._sender = None
