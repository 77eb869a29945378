"""Forwarded UDP: what a draining epoch receives for flows that are not its own goes on to the epoch that serves.

Best effort, as the agent says at start: Envoy forwards only QUIC packets and new flows, and only until it is
terminated. The datagrams are passed on as they are, in order, since each message is cut the same way on both sides.
"""

import asyncio
import contextlib
import socket
from pathlib import Path

from agent.handoff import binding
from agent.handoff.channel import ANCILLARY, close_all, open_envelope
from agent.handoff.framing import DATAGRAM_LIMIT
from agent.handoff.names import Names


class Relay:
    """Takes what one epoch forwards to its child, and sends it to whichever epoch is the target."""

    def __init__(self, names: Names, owner: tuple[int, int] | None = None) -> None:
        self.path = names.udp_agent_as_child
        self.pid: int | None = None  # whose datagrams are passed on
        self._receiver = binding.bind(socket.SOCK_DGRAM, self.path, owner)
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.relayed = 0  # datagrams passed on
        self._target: Path | None = None
        asyncio.get_running_loop().add_reader(self._receiver, self._pass_on)

    def aim(self, target: Names) -> None:
        """Send to this epoch from now on."""
        self._target = target.udp_epoch_as_child

    def close(self) -> None:
        """Stop relaying and remove the socket."""
        asyncio.get_running_loop().remove_reader(self._receiver)
        self._receiver.close()
        self._sender.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _pass_on(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while True:
                data, ancillary, _, _ = self._receiver.recvmsg(DATAGRAM_LIMIT, ANCILLARY, socket.MSG_CMSG_CLOEXEC)
                pid, descriptors = open_envelope(ancillary)
                close_all(descriptors)
                if self._target is None or pid != self.pid:
                    continue
                with contextlib.suppress(OSError):  # a datagram that cannot be delivered is a lost datagram
                    self._sender.sendto(data, str(self._target))
                    self.relayed += 1
