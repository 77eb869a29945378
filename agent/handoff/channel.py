"""One bound datagram socket of the agent, on which exactly one epoch is listened to.

Datagram sockets have no SO_PEERCRED, so every datagram brings its sender's credentials (SO_PASSCRED, unix(7)): what
comes from another process than the epoch's own is dropped and reported, and so is a descriptor that nobody asked for.
"""

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import MachineError, ProtocolError
from agent.handoff import binding
from agent.handoff.descriptors import discard
from agent.handoff.framing import DATAGRAM_LIMIT, Assembler, cut
from agent.handoff.hot_restart_pb2 import HotRestartMessage

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_BACKLOG_LIMIT = 64  # datagrams; each may keep a descriptor open
_MAX_DESCRIPTORS = 4  # one is expected; room for more shows a peer that sends too many
ANCILLARY = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message, and the descriptor that came with it (None without). The receiver owns the descriptor."""

    message: HotRestartMessage
    descriptor: int | None


class Channel:
    """Receives at `path` and sends to one peer.

    `on_letter` gets every whole message of the process `pid`; `on_error` gets a `ProtocolError` once, after which the
    channel is closed: a malformed or hostile message costs its sender this channel and nobody else anything.
    """

    def __init__(
        self,
        path: Path,
        on_letter: Callable[[Message], None],
        on_error: Callable[[ProtocolError], None],
        owner: tuple[int, int] | None = None,
    ) -> None:
        """Bind; `owner` (uid, gid) may write here. Raises `MachineError`."""
        self.path = path
        self.pid: int | None = None  # whose datagrams count; set as soon as the epoch is started
        self._on_letter = on_letter
        self._on_error = on_error
        self._owner = owner
        self._assembler = Assembler()
        self._receiver = binding.bind(socket.SOCK_DGRAM, path, owner)
        self._sender: socket.socket | None = None
        self._backlog: list[tuple[bytes, int | None]] = []
        asyncio.get_running_loop().add_reader(self._receiver, self._receive)

    def close(self) -> None:
        """Stop listening and remove the path; harmless when repeated."""
        if self._is_closed:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._receiver)
        self._receiver.close()
        if self._sender is not None:
            loop.remove_writer(self._sender)
            self._sender.close()
            self._sender = None
        self._drop_backlog()
        with contextlib.suppress(OSError):  # the directory goes with the epoch, when it can
            self.path.unlink()

    @property
    def _is_closed(self) -> bool:
        return self._receiver.fileno() == -1

    # Receiving

    def _receive(self) -> None:
        while True:
            try:
                data, ancillary, flags, _ = self._receiver.recvmsg(
                    DATAGRAM_LIMIT + 1, ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(ProtocolError(f"cannot receive at {self.path}: {error.strerror}"))
                return
            pid, descriptors = parse_ancillary(ancillary)
            try:
                self._take(data, flags, pid, descriptors)
            except ProtocolError as error:
                self._fail(error)
                return
            if self._is_closed:
                return  # whoever took the letter closed the channel

    def _take(self, data: bytes, flags: int, pid: int | None, descriptors: list[int]) -> None:
        if pid != self.pid:
            discard(descriptors)  # not our epoch: nothing it says or gives counts
            return
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
            discard(descriptors)
            message = f"cannot read a message at {self.path}: it is truncated or brings {len(descriptors)} descriptors"
            raise ProtocolError(message)
        try:
            message_or_none = self._assembler.feed(data)
        except ProtocolError:
            discard(descriptors)
            raise
        if message_or_none is None:
            discard(descriptors)
            return
        self._on_letter(Message(message_or_none, descriptors[0] if descriptors else None))

    def _fail(self, error: ProtocolError) -> None:
        self.close()
        self._on_error(error)

    # Sending

    def connect(self, peer: Path) -> None:
        """Fix the peer now: later sends work even if its name is gone. Raises `MachineError` if nobody is there."""
        if self._sender is not None:
            return
        if self._is_closed:
            message = f"cannot reach {peer}: the channel to it is closed"
            raise MachineError(message)
        self._sender = binding.connect(peer, self._owner)

    def send(self, message: HotRestartMessage, descriptor: int | None = None) -> None:
        """Send, with a duplicate of `descriptor` on a message of one datagram.

        Never blocks: what a peer does not take yet waits here. Raises `MachineError` if the peer is gone.
        """
        datagrams = cut(message)
        if len(self._backlog) > _BACKLOG_LIMIT:  # it asks, and does not read the answers
            self._fail(ProtocolError(f"cannot send from {self.path}: {len(self._backlog)} datagrams are not taken"))
            return
        self._backlog += [(datagram, None) for datagram in datagrams[:-1]]
        # The duplicate is ours until it is sent, so that the vault may close its own meanwhile.
        self._backlog.append((datagrams[-1], None if descriptor is None else os.dup(descriptor)))
        self._flush()

    def _flush(self) -> None:
        if self._sender is None:
            message = f"cannot send from {self.path}: the epoch was never connected"
            raise MachineError(message)
        loop = asyncio.get_running_loop()
        while self._backlog:
            datagram, descriptor = self._backlog[0]
            try:
                send_datagram(self._sender, datagram, descriptor)
            except BlockingIOError:
                loop.add_writer(self._sender, self._flush_later)
                return
            except OSError as error:
                self._drop_backlog()
                message = f"cannot send from {self.path}: {error.strerror}"
                raise MachineError(message) from error
            self._backlog.pop(0)
            if descriptor is not None:
                os.close(descriptor)
        loop.remove_writer(self._sender)

    def _flush_later(self) -> None:
        with contextlib.suppress(MachineError):  # the death of an epoch is told by its pidfd
            self._flush()

    def _drop_backlog(self) -> None:
        discard([descriptor for _, descriptor in self._backlog if descriptor is not None])
        self._backlog.clear()


def bind_datagram(path: Path, mode: int = 0o600) -> socket.socket:
    """Bind a datagram socket at `path`, in place of whatever is there: under another name first, then by rename.

    The name therefore never disappears: a proxy that finds no file at the other end aborts at once.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    temporary = path.with_name(f"~{os.getpid()}")  # no longer than the name itself, which may take all the room
    try:
        temporary.unlink(missing_ok=True)
        bound.bind(str(temporary))
        temporary.chmod(mode)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        temporary.rename(path)
    except OSError as error:
        bound.close()
        message = f"cannot bind {path}: {error.strerror}"
        raise MachineError(message) from error
    return bound


def send_datagram(sender: socket.socket, datagram: bytes, descriptor: int | None) -> None:
    """Send one datagram over a connected socket, with a duplicate of `descriptor` on it. Raises `OSError`."""
    ancillary = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    sender.sendmsg([datagram], ancillary)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a datagram, by the kernel's word; pid 0 where it is of a namespace that cannot be seen from here."""

    pid: int
    uid: int


def parse_ancillary(ancillary: list[tuple[int, int, bytes]]) -> tuple[int | None, list[int]]:
    """Return the sender's pid and the descriptors it sent."""
    sender, descriptors = parse_signed_ancillary(ancillary)
    return None if sender is None else sender.pid, descriptors


def parse_signed_ancillary(ancillary: list[tuple[int, int, bytes]]) -> tuple[Sender | None, list[int]]:
    """Return the sender (None if the kernel does not tell) and the descriptors it sent."""
    sender: Sender | None = None
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS:
            pid, uid, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
            sender = Sender(pid, uid)
        elif kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return sender, list(descriptors)
