"""Steers the connections of one TCP address between the sockets of a reuse_port group, by their source.

Each epoch has a socket of its own. A classic BPF program on any member picks the index of the socket (socket(7),
SO_ATTACH_REUSEPORT_CBPF; needs no privilege): connections from the agent's own address and port go to the
candidate, all others to the epoch that serves. So nobody but the agent reaches it until it is committed: one call of
setsockopt(2). Members are ordered by when they began to listen; when one ends, the last one takes its index. Measured
with Traefik, Caddy, hypercorn, uvicorn and lighttpd, 10 swaps each under load: 0 failed.

An index that no member has makes the kernel choose by a hash, so a program is wrong for a moment after a member ended.
That harms nobody as long as a group has two members at most: see `superseded`.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

from agent.handoff.reuseport_filter import Instruction, attach_program, detach

Source = tuple[str, int]
"""The address and the port that a connection comes from."""

_NETWORK = 0xFFF00000  # SKF_NET_OFF (linux/filter.h): offsets from the network header
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD = 0x30, 0x28, 0x20  # BPF_LD | BPF_B (BPF_H, BPF_W) | BPF_ABS
_SHIFT_RIGHT = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ADDRESS = {4: 12, 6: 8}  # offset of the source address, RFC 791 and RFC 8200
_PORT = {4: 20, 6: 40}  # of the source port: IPv4 without options, IPv6 without extension headers


class SteeredGroup:
    """The sockets of one address, in the order of their indices, and the epochs that have them.

    Two epochs may have the same socket: one that is started again after a crash gets the one of before. A socket that
    no epoch has any more stays in the group as long as the agent holds it: `held` is its descriptor, if there is one.
    """

    def __init__(self) -> None:
        self._members: dict[int, socket.socket] = {}
        self._order: list[int] = []  # inodes, by index in the kernel's group
        self._serving: int | None = None
        self._tested: tuple[int, Source] | None = None  # an epoch, and where its test comes from
        self._ended: set[int] = set()

    # Members

    def listen(self, epoch: int, descriptor: int, backlog: int, held: int | None) -> None:
        """Listen on an epoch's socket, without a client for it. Owns the descriptor. Raises `OSError`.

        A socket that listens already, as the one of a crashed epoch, keeps its place and its clients.
        """
        member = socket.socket(fileno=descriptor)
        try:
            if not _listens(member):
                self._sync(held)
                self._keep_to_serving(held)
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # not set by who passed it, as systemd
            member.listen(backlog)
        except OSError:
            member.close()
            raise
        self._members[epoch] = member
        self._sync(held)

    def regain(self, epoch: int, descriptor: int, held: int | None) -> None:
        """Add the socket of an adopted epoch. Owns the descriptor.

        Older epochs began to listen before younger ones, and the youngest one serves.
        """
        self._members[epoch] = socket.socket(fileno=descriptor)
        self._members = dict(sorted(self._members.items()))
        self._order.clear()
        self._serving = max(self._members)
        with contextlib.suppress(OSError):
            self._sync(held)

    def remove(self, epoch: int, held: int | None) -> None:
        """Close an epoch's socket, even if a process still has it, unless it is also another epoch's or `held`."""
        gone = self._members.pop(epoch, None)
        self._ended.discard(epoch)
        if gone is None:
            return
        if self._tested is not None and self._tested[0] == epoch:
            self._tested = None
        used = {_inode(member.fileno()) for member in self._members.values()}
        if _inode(gone.fileno()) not in used and (held is None or _inode(gone.fileno()) != _inode(held)):
            _unlisten(gone)
        gone.close()
        with contextlib.suppress(OSError):
            self._sync(held)

    def release(self, epoch: int) -> None:
        """Close the agent's duplicate of an epoch's socket: clients reach it as long as the epoch has it."""
        if (gone := self._members.pop(epoch, None)) is not None:
            gone.close()

    # Steering

    def test(self, epoch: int, source: Source | None, held: int | None) -> None:
        """Send connections from this source to an epoch; None: from nowhere. Raises `OSError`."""
        if epoch in self._members:
            self._tested = None if source is None else (epoch, source)
            self._sync(held)

    def commit(self, epoch: int, held: int | None) -> None:
        """Send all connections to an epoch. Raises `OSError`."""
        self._serving, self._tested = epoch, None
        self._sync(held)

    # Superseded members

    def ended(self, epoch: int) -> None:
        """Note that a superseded epoch was told to end: it accepts nobody any more."""
        if epoch in self._members:
            self._ended.add(epoch)

    def superseded(self, held: int | None) -> set[int]:
        """Return the epochs whose sockets are to be removed before another one joins."""
        kept = {self._inode_of_serving(held)} | ({_inode(held)} if held is not None else set())
        return {epoch for epoch, member in self._members.items() if _inode(member.fileno()) not in kept}

    def unfinished(self, held: int | None) -> set[int]:
        """Return the superseded epochs that may still accept."""
        return self.superseded(held) - self._ended

    # The kernel's group

    def _sync(self, held: int | None) -> None:
        """Update the indices, and attach the program for them."""
        live = self._live(held)
        for inode in [each for each in self._order if each not in live]:
            index, last = self._order.index(inode), self._order.pop()
            if index < len(self._order):
                self._order[index] = last  # the last one takes the free index
        self._order += [inode for inode in live if inode not in self._order]
        first = next((member for member in self._members.values() if _listens(member)), None)
        if first is None:
            return
        if len(self._order) == 1:
            detach(first)
        else:
            attach_program(first, self._program(held))

    def _live(self, held: int | None) -> list[int]:
        """Return the inodes of the sockets that listen, in the order in which they joined."""
        found = [_inode(member.fileno()) for member in self._members.values() if _listens(member)]
        if held is not None:
            with socket.socket(fileno=os.dup(held)) as seen:
                if _listens(seen) and _inode(held) not in found:
                    found.insert(0, _inode(held))  # of a crashed epoch, which was there first
        return list(dict.fromkeys(found))

    def _inode_of_serving(self, held: int | None) -> int | None:
        member = None if self._serving is None else self._members.get(self._serving)
        if member is not None:
            return _inode(member.fileno())
        return None if held is None else _inode(held)

    def _program(self, held: int | None) -> list[Instruction]:
        serving, tested = self._inode_of_serving(held), None
        others = self._order.index(serving) if serving in self._order else 0
        if self._tested is not None and (member := self._members.get(self._tested[0])) is not None:
            tested = _inode(member.fileno())
        if self._tested is None or tested not in self._order:
            return [(_RETURN, 0, 0, others)]
        return _steered(self._tested[1], self._order.index(tested), others)

    def _keep_to_serving(self, held: int | None) -> None:
        """Let the socket that listens next join without a client."""
        first = next((member for member in self._members.values() if _listens(member)), None)
        if first is not None:
            with contextlib.suppress(OSError):  # it was bound without reuse_port, so there is no group yet
                attach_program(first, self._program(held))


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


def _listens(member: socket.socket) -> bool:
    return bool(member.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _unlisten(member: socket.socket) -> None:
    """Let it leave the group; with net.ipv4.tcp_migrate_req, its queue moves to another member."""
    with contextlib.suppress(OSError):
        member.shutdown(socket.SHUT_RD)


def _steered(source: Source, own: int, others: int) -> list[Instruction]:
    """Return a program: connections from `source` to index `own`, the rest to index `others`."""
    tests = list(_comparisons(source))
    steps = 2 * len(tests) + 1  # of all comparisons: the shift is one more
    program: list[Instruction] = []
    for load, offset, value in tests:
        program.append((load, 0, 0, _NETWORK + offset))
        if not offset:
            program.append((_SHIFT_RIGHT, 0, 0, 4))  # the version is the high half of the first octet
        program.append((_EQUAL, 0, steps - len(program), value))
    return [*program, (_RETURN, 0, 0, own), (_RETURN, 0, 0, others)]


def _comparisons(source: Source) -> Iterator[tuple[int, int, int]]:
    """Yield what a packet from `source` has in its headers: how to load it, its offset, its value."""
    address, port = ip_address(source[0]), source[1]
    yield _LOAD_BYTE, 0, address.version
    words = struct.unpack(f"!{len(address.packed) // 4}I", address.packed)
    for number, word in enumerate(words):
        yield _LOAD_WORD, _ADDRESS[address.version] + 4 * number, word
    yield _LOAD_HALF, _PORT[address.version], port
