"""A bound datagram socket of this epoch that reads at once and drops invalid messages.

Any process in the network namespace may send to an abstract name, and one invalid datagram aborts Envoy. Here only
datagrams of this process's own user and root are accepted (SO_PASSCRED, unix(7)), and each process's fragments are
assembled separately.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from agent.core.errors import MachineError, ProtocolError
from agent.epoch.chain_addresses import is_abstract, to_kernel
from agent.handoff.channel import ANCILLARY, Message, Sender, bind_datagram, parse_signed_ancillary
from agent.handoff.descriptors import discard
from agent.handoff.framing import DATAGRAM_LIMIT, Assembler

_ROOT = 0
_SENDERS_LIMIT = 8  # with incomplete messages; a chain has at most two senders for each socket
_BROKEN = socket.MSG_TRUNC | socket.MSG_CTRUNC
_HELD = (
    "cannot bind {}: {}; if another chain has this --base-id, choose another; if this process follows in it, give it "
    "the next --restart-epoch"
)
_log = logging.getLogger(__name__)


class MessageReceiver:
    """Receives at `address`, with file mode `mode` where that is a path.

    `on_letter` gets each whole message and owns its descriptor; without it everything is read and dropped. Create it
    inside a running loop. Raises `MachineError` if the name cannot be bound.
    """

    def __init__(self, address: str, mode: int, on_letter: Callable[[Message], None] | None = None) -> None:
        self.address = address
        self._on_letter = on_letter
        self._assemblers: OrderedDict[int, Assembler] = OrderedDict()
        self._socket = _bind_abstract(address) if is_abstract(address) else _bind_path(address, mode)
        self._file = None if is_abstract(address) else Path(address).lstat()
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def close(self) -> None:
        """Stop receiving and remove the path, unless another process replaced it; safe to repeat."""
        if self._is_closed:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        if self._file is not None:
            path = Path(self.address)
            with contextlib.suppress(OSError):
                if os.path.samestat(path.lstat(), self._file):
                    path.unlink()

    @property
    def _is_closed(self) -> bool:
        return self._socket.fileno() == -1

    def _receive(self) -> None:
        while not self._is_closed:  # `on_letter` may close this receiver
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(DATAGRAM_LIMIT + 1, ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                _log.warning("cannot receive at %s: %s", self.address, error.strerror)
                return
            self._open(data, flags, *parse_signed_ancillary(ancillary))

    def _open(self, data: bytes, flags: int, sender: Sender | None, descriptors: list[int]) -> None:
        letter = None
        if self._on_letter is not None and sender is not None and sender.uid in {_ROOT, os.geteuid()}:
            try:
                letter = self._read(data, flags, sender, descriptors)
            except ProtocolError as error:
                self._assemblers.pop(sender.pid, None)
                _log.warning("a message of pid %d at %s is dropped: %s", sender.pid, self.address, error)
        if letter is None:
            discard(descriptors)
        elif self._on_letter is not None:
            self._on_letter(letter)

    def _read(self, data: bytes, flags: int, sender: Sender, descriptors: list[int]) -> Message | None:
        if flags & _BROKEN or len(descriptors) > 1:
            message = f"cannot read it: it is truncated or carries {len(descriptors)} descriptors"
            raise ProtocolError(message)
        whole = self._assembler(sender.pid).feed(data)
        if whole is None:
            return None
        self._assemblers.pop(sender.pid)
        return Message(whole, descriptors[0] if descriptors else None)

    def _assembler(self, pid: int) -> Assembler:
        if pid not in self._assemblers and len(self._assemblers) == _SENDERS_LIMIT:
            self._assemblers.popitem(last=False)
        return self._assemblers.setdefault(pid, Assembler())


def _bind_path(address: str, mode: int) -> socket.socket:
    """Bind a path at which no process listens; a stale file, as Envoy leaves it, is replaced."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return bind_datagram(Path(address), mode)
    raise MachineError(_HELD.format(address, "another process uses it"))


def _bind_abstract(address: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        bound.bind(to_kernel(address))
    except OSError as error:
        bound.close()
        raise MachineError(_HELD.format(address, (error.strerror or str(error)).lower())) from error
    return bound
