"""A datagram channel between the agent and exactly one epoch.

Datagram sockets have no SO_PEERCRED, so every datagram carries its sender's credentials (SO_PASSCRED, unix(7)).
Datagrams from any process other than the epoch's are dropped, the first of them with a warning, and unexpected
descriptors are closed.
"""

import array
import asyncio
import contextlib
import logging
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
_MAX_DESCRIPTORS = 4  # one is expected; the extra space reveals a peer that sends too many
_log = logging.getLogger(__name__)
ANCILLARY = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message and the descriptor sent with it, or None; the receiver owns it."""

    message: HotRestartMessage
    descriptor: int | None


class Channel:
    """Receives at `path` and sends to one peer.

    `on_letter` gets every whole message of the process `pid`. `on_error` gets a `ProtocolError` at most once, after the
    channel has closed: a malformed or hostile message costs the sender only its own channel.
    """

    def __init__(
        self,
        path: Path,
        on_letter: Callable[[Message], None],
        on_error: Callable[[ProtocolError], None],
        owner: tuple[int, int] | None = None,
    ) -> None:
        """Bind the socket; `owner` (uid, gid) may send to it. Raises `MachineError`."""
        self.path = path
        self.pid: int | None = None  # datagrams of other processes are dropped; set as soon as the epoch is started
        self._on_letter = on_letter
        self._on_error = on_error
        self._owner = owner
        self._has_warned = False
        self._assembler = Assembler()
        self._receiver = binding.bind(socket.SOCK_DGRAM, path, owner)
        self._sender: socket.socket | None = None
        self._backlog: list[tuple[bytes, int | None]] = []
        asyncio.get_running_loop().add_reader(self._receiver, self._receive)

    def close(self) -> None:
        """Stop receiving and remove the path; safe to repeat."""
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
        with contextlib.suppress(OSError):  # the path is removed with the epoch's directory anyway
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
                return  # `on_letter` closed the channel

    def _take(self, data: bytes, flags: int, pid: int | None, descriptors: list[int]) -> None:
        if pid != self.pid:
            discard(descriptors)  # not this epoch's process
            self._warn(pid)
            return
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
            discard(descriptors)
            message = f"cannot read a message at {self.path}: it is truncated or carries {len(descriptors)} descriptors"
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

    def _warn(self, stranger: int | None) -> None:
        """Log the first dropped datagram only: whoever sends one may send many."""
        if self._has_warned or self.pid is None:
            return
        self._has_warned = True
        _log.warning(
            "messages at %s from pid %s are dropped: the proxy is pid %d; a script that starts it must exec it",
            self.path,
            stranger,
            self.pid,
        )

    def _fail(self, error: ProtocolError) -> None:
        self.close()
        self._on_error(error)

    # Sending

    def connect(self, peer: Path) -> None:
        """Connect to the peer; later sends work even if its path is removed.

        Raises `MachineError` if nothing is bound at `peer`.
        """
        if self._sender is not None:
            return
        if self._is_closed:
            message = f"cannot reach {peer}: the channel to it is closed"
            raise MachineError(message)
        self._sender = binding.connect(peer, self._owner)

    def send(self, message: HotRestartMessage, descriptor: int | None = None) -> None:
        """Send a message, with a duplicate of `descriptor` on its last datagram.

        Never blocks: datagrams that the peer cannot receive yet are queued here. Raises `MachineError` if the peer is
        gone.
        """
        datagrams = cut(message)
        if len(self._backlog) > _BACKLOG_LIMIT:  # the peer sends requests without reading the replies
            self._fail(ProtocolError(f"cannot send from {self.path}: {len(self._backlog)} datagrams are not read"))
            return
        self._backlog += [(datagram, None) for datagram in datagrams[:-1]]
        # The channel owns the duplicate until it is sent, so the socket store may close its own in between.
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
        with contextlib.suppress(MachineError):  # the epoch's pidfd reports its exit
            self._flush()

    def _drop_backlog(self) -> None:
        discard([descriptor for _, descriptor in self._backlog if descriptor is not None])
        self._backlog.clear()


def bind_datagram(path: Path, mode: int = 0o600) -> socket.socket:
    """Bind a datagram socket at `path`, replacing any existing file by rename.

    The name never disappears: a proxy that finds no file at the other end aborts at once. Raises `MachineError`.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    temporary = path.with_name(f"~{os.getpid()}")  # not longer than `path`, which may have the maximum length
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
    """Send one datagram with a duplicate of `descriptor` to the peer. Raises `OSError`."""
    ancillary = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    sender.sendmsg([datagram], ancillary)


@dataclass(frozen=True, slots=True)
class Sender:
    """A datagram's sender as reported by the kernel; pid 0 if in an invisible namespace."""

    pid: int
    uid: int


def parse_ancillary(ancillary: list[tuple[int, int, bytes]]) -> tuple[int | None, list[int]]:
    """Return the sender's pid (None if unknown) and the descriptors it sent."""
    sender, descriptors = parse_signed_ancillary(ancillary)
    return None if sender is None else sender.pid, descriptors


def parse_signed_ancillary(ancillary: list[tuple[int, int, bytes]]) -> tuple[Sender | None, list[int]]:
    """Return the sender (None if the kernel reports none) and the descriptors it sent."""
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
