"""Forwarded UDP: what a draining epoch receives for flows that are not its own goes on to the epoch that serves.

Best effort, as the agent says at start: Envoy forwards only QUIC packets and new flows, and only until it is
terminated. The datagrams are passed on as they are, in order, since each message is cut the same way on both sides.
"""

import asyncio
import contextlib
import socket
from pathlib import Path

from agent.core.errors import MachineError
from agent.handoff import binding
from agent.handoff.channel import ANCILLARY, parse_ancillary
from agent.handoff.descriptors import discard
from agent.handoff.framing import DATAGRAM_LIMIT
from agent.handoff.socket_paths import SocketPaths


class UdpRelay:
    """Takes what one epoch forwards to its child, and sends it to whichever epoch is the target."""

    def __init__(self, names: SocketPaths, owner: tuple[int, int] | None = None) -> None:
        self.path = names.udp_agent_as_child
        self.pid: int | None = None  # whose datagrams are passed on
        self._receiver = binding.bind(socket.SOCK_DGRAM, self.path, owner)
        self._owner = owner
        self._sender: socket.socket | None = None  # to the target, once it was reached
        self.relayed = 0  # datagrams passed on
        self._target: Path | None = None
        asyncio.get_running_loop().add_reader(self._receiver, self._pass_on)

    def aim(self, target: SocketPaths) -> None:
        """Send to this epoch from now on."""
        self._hang_up()
        self._target = target.udp_epoch_as_child

    def close(self) -> None:
        """Stop relaying and remove the socket."""
        asyncio.get_running_loop().remove_reader(self._receiver)
        self._receiver.close()
        self._hang_up()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _pass_on(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while True:
                data, ancillary, _, _ = self._receiver.recvmsg(DATAGRAM_LIMIT, ANCILLARY, socket.MSG_CMSG_CLOEXEC)
                pid, descriptors = parse_ancillary(ancillary)
                discard(descriptors)
                if self._target is not None and pid == self.pid:
                    self._send(data, self._target)

    def _send(self, data: bytes, target: Path) -> None:
        """A datagram that cannot be delivered is a lost datagram."""
        try:
            self._sender = self._sender or binding.connect(target, self._owner)
            self._sender.send(data)
            self.relayed += 1
        except BlockingIOError:
            return
        except (MachineError, OSError):
            self._hang_up()

    def _hang_up(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None
