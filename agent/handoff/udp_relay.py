"""Relays UDP datagrams that a draining epoch forwards to the serving epoch.

Best effort, as the agent logs at start: Envoy forwards only QUIC packets and new flows, and only until it is
terminated. Datagrams are relayed unchanged and in order, since both sides frame messages the same way.
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
    """Relays datagrams that one epoch forwards to its child to the target epoch."""

    def __init__(self, names: SocketPaths, owner: tuple[int, int] | None = None) -> None:
        self.path = names.udp_agent_as_child
        self.pid: int | None = None  # only datagrams of this process are relayed
        self._receiver = binding.bind(socket.SOCK_DGRAM, self.path, owner)
        self._owner = owner
        self._sender: socket.socket | None = None  # connected to the target; None until needed
        self.relayed = 0  # datagrams
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
        """Send one datagram; one that cannot be delivered is dropped."""
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
