"""Whole messages to one name: in order, with their descriptors, and never waiting for a reader."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.epoch.sender import MessageSender
from agent.handoff.hot_restart_pb2 import HotRestartMessage, Reply
from tests.handoff import handmade
from tests.handoff.handmade import block, datagrams, number, reply
from tests.system.eventually import PATIENCE

SMALL = HotRestartMessage(didnt_recognize_your_last_message=True)
SOCKET = HotRestartMessage(reply=Reply(pass_listen_socket=Reply.PassListenSocket(fd=5)))


def large(name: str = "x", size: int = 10_000) -> tuple[HotRestartMessage, list[bytes]]:
    """A message of several datagrams, and these as Envoy would write them."""
    stats = Reply.Stats(counter_deltas={name * size: 1})
    entry = block(3, block(1, name * size) + number(2, 1))
    return HotRestartMessage(reply=Reply(stats=stats)), datagrams(reply(3, entry))


class Peer:
    """The process at the other end, which reads when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))

    def read(self) -> list[tuple[bytes, list[int]]]:
        """Read all that has come."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 4)
                found.append((data, descriptors))
        return found

    async def reads(self, count: int) -> list[tuple[bytes, list[int]]]:
        """Read so many datagrams."""
        found = self.read()
        async with asyncio.timeout(PATIENCE):
            while len(found) < count:
                await asyncio.sleep(0)
                found += self.read()
        assert len(found) == count
        return found

    def close(self) -> None:
        """Be gone, with the file."""
        self.socket.close()
        self.path.unlink(missing_ok=True)


@asynccontextmanager
async def sending(directory: Path) -> AsyncIterator[tuple[MessageSender, Peer]]:
    peer = Peer(directory / "peer")
    sender = MessageSender(str(peer.path))
    try:
        yield sender, peer
    finally:
        sender.close()
        peer.close()


async def test_a_message_arrives_at_once_as_envoy_would_write_it(tmp_path: Path) -> None:
    async with sending(tmp_path) as (sender, peer):
        sender.send(SMALL)
        sender.send(SMALL)
        assert peer.read() == [(data, []) for data in datagrams(handmade.NOT_UNDERSTOOD) * 2]


async def test_a_large_message_is_several_datagrams_and_the_descriptor_is_on_the_last(tmp_path: Path) -> None:
    message, parts = large()
    async with sending(tmp_path) as (sender, peer):
        with (tmp_path / "file").open("w") as file:
            sender.send(message, file.fileno())
            found = await peer.reads(3)
            assert [data for data, _ in found] == parts
            assert [len(descriptors) for _, descriptors in found] == [0, 0, 1]
            (given,) = found[-1][1]
            assert os.path.sameopenfile(given, file.fileno())
            os.close(given)


async def test_an_abstract_name_may_be_sent_to() -> None:
    name = f"@sender-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(b"\0" + name[1:].encode().ljust(107, b"\0"))
        sender = MessageSender(name)
        sender.send(SMALL)
        assert peer.recv(100) == datagrams(handmade.NOT_UNDERSTOOD)[0]
        sender.close()


async def test_without_a_peer_it_is_an_error_that_names_the_address(tmp_path: Path) -> None:
    sender = MessageSender(f"{tmp_path}/none")
    for _ in range(2):
        with pytest.raises(MachineError, match=rf"{tmp_path}/none: no such file"):
            sender.send(SOCKET, 0)


async def test_a_peer_that_has_gone_is_an_error_and_one_that_follows_it_is_reached(tmp_path: Path) -> None:
    async with sending(tmp_path) as (sender, first):
        sender.send(SMALL)
        first.socket.close()
        with pytest.raises(MachineError, match="refused"):
            sender.send(SMALL)
        first.path.unlink()
        second = Peer(first.path)
        sender.send(SMALL)
        assert len(second.read()) == 1
        second.close()


async def test_each_message_goes_to_the_process_that_has_the_name_then(tmp_path: Path) -> None:
    async with sending(tmp_path) as (sender, first):
        sender.send(SMALL)
        first.path.unlink()
        second = Peer(first.path)
        sender.send(SMALL)
        assert (len(first.read()), len(second.read())) == (1, 1)
        second.close()


async def fill(sender: MessageSender) -> int:
    """Send until the queue of the peer is full; return how many messages were sent."""
    for count in range(1, 10_000):
        sender.send(SMALL)
        if sender._backlog:
            return count
    raise AssertionError("the queue has no end")


async def test_what_a_peer_does_not_read_yet_follows_in_order_as_soon_as_it_does(tmp_path: Path) -> None:
    message, parts = large()
    async with sending(tmp_path) as (sender, peer):
        small = await fill(sender)
        with (tmp_path / "file").open("w") as file:
            sender.send(message, file.fileno())
            sender.send(SMALL)
        found = await peer.reads(small + 4)
        assert [data for data, _ in found[small : small + 3]] == parts
        assert found[-1] == (datagrams(handmade.NOT_UNDERSTOOD)[0], [])
        (given,) = found[-2][1]
        assert os.readlink(f"/proc/self/fd/{given}") == str(tmp_path / "file")  # noqa: PTH115  # a text
        os.close(given)


async def test_a_peer_that_goes_while_messages_wait_costs_nothing(tmp_path: Path) -> None:
    """The fixture of the folder finds a descriptor that is left open."""
    failures: list[object] = []
    async with sending(tmp_path) as (sender, peer):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        await fill(sender)
        sender.send(SOCKET, 0)
        peer.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not sender._backlog
        with pytest.raises(MachineError):
            sender.send(SMALL)
    assert failures == []


async def test_close_drops_what_waits_and_may_be_called_twice(tmp_path: Path) -> None:
    async with sending(tmp_path) as (sender, peer):
        count = await fill(sender)
        sender.send(SOCKET, 0)
        sender.close()
        sender.close()
        assert len(peer.read()) == count - 1
        await asyncio.sleep(0)
        assert peer.read() == []


async def test_a_peer_that_reads_nothing_is_told_no_more_than_4096_datagrams(tmp_path: Path) -> None:
    async with sending(tmp_path) as (sender, peer):
        await fill(sender)
        while len(sender._backlog) < 4094:
            sender.send(SMALL)
        message, _ = large()
        with pytest.raises(MachineError, match="does not read"):
            sender.send(message, 0)
        for _ in range(2):
            sender.send(SMALL)
        assert len(sender._backlog) == 4096
        with pytest.raises(MachineError, match=str(peer.path)):
            sender.send(SMALL)


async def test_the_descriptor_of_the_caller_stays_open_and_its_duplicate_does_not(tmp_path: Path) -> None:
    async with sending(tmp_path) as (sender, peer):
        with socket.socket() as held:
            sender.send(SOCKET, held.fileno())
            assert held.fileno() >= 0
            held.getsockname()
        (_, (given,)) = peer.read()[0]
        os.close(given)
