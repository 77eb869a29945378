import asyncio
import os
import socket
from pathlib import Path

import pytest

from agent.handoff.framing import cut
from agent.handoff.hot_restart_pb2 import HotRestartMessage, Request
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.udp_relay import UdpRelay
from tests.handoff.epochs import until
from tests.handoff.handmade import datagrams
from tests.system.eventually import PATIENCE

PACKET = HotRestartMessage(request=Request(forwarded_udp_packet=Request.ForwardedUdpPacket(payload=b"x" * 9000)))


def names(directory: Path, number: int) -> SocketPaths:
    home = directory / str(number)
    home.mkdir()
    return SocketPaths(home, number)


def forward(relay: UdpRelay, *parts: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as draining:
        for part in parts:
            draining.sendto(part, str(relay.path))


async def test_what_the_draining_epoch_forwards_reaches_the_serving_one_unchanged(tmp_path: Path) -> None:
    old, new = names(tmp_path, 1), names(tmp_path, 2)
    relay = UdpRelay(old)
    relay.pid = os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as serving:
        serving.settimeout(PATIENCE)
        serving.bind(str(new.udp_epoch_as_child))
        relay.aim(new)
        parts = cut(PACKET)
        assert parts == datagrams(PACKET.SerializeToString())
        forward(relay, *parts)
        await until(lambda: relay.relayed == len(parts))
        assert [serving.recv(5000) for _ in parts] == parts
    relay.close()
    assert not old.udp_agent_as_child.exists()


async def test_an_undeliverable_datagram_is_dropped(tmp_path: Path) -> None:
    old, new = names(tmp_path, 1), names(tmp_path, 2)
    relay = UdpRelay(old)
    relay.pid = os.getpid()
    forward(relay, b"to nobody")
    await until(lambda: not _waits(relay))
    relay.aim(new)  # no process receives there
    forward(relay, b"to one who is gone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as serving:
        serving.setblocking(False)
        serving.bind(str(new.udp_epoch_as_child))
        forward(relay, b"arrives")
        await until(lambda: relay.relayed >= 1)
        got = serving.recv(100)
    relay.close()
    assert got in {b"to one who is gone", b"arrives"}


async def test_an_epoch_that_does_not_read_costs_datagrams_and_no_time(tmp_path: Path) -> None:
    old, new = names(tmp_path, 1), names(tmp_path, 2)
    relay = UdpRelay(old)
    relay.pid = os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung:
        hung.bind(str(new.udp_epoch_as_child))
        relay.aim(new)
        for _ in range(100):
            forward(relay, b"x")
            await until(lambda: not _waits(relay))
        assert relay.relayed < 100
    relay.close()


async def test_a_successor_at_the_same_place_is_found_again(tmp_path: Path) -> None:
    old, new = names(tmp_path, 1), names(tmp_path, 2)
    relay = UdpRelay(old)
    relay.pid = os.getpid()
    relay.aim(new)
    for content in (b"first", b"second"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as serving:
            serving.setblocking(False)
            serving.bind(str(new.udp_epoch_as_child))
            if content == b"second":
                forward(relay, b"lost")  # to the one that is gone
                await until(lambda: not _waits(relay))
            forward(relay, content)
            await until(lambda: not _waits(relay))
            assert serving.recv(100) == content
        new.udp_epoch_as_child.unlink()
    assert relay.relayed == 2
    relay.close()


async def test_from_a_new_aim_on_the_next_epoch_gets_everything(tmp_path: Path) -> None:
    relay = UdpRelay(names(tmp_path, 1))
    relay.pid = os.getpid()
    for number in (2, 3):
        target = names(tmp_path, number)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as serving:
            serving.setblocking(False)
            serving.bind(str(target.udp_epoch_as_child))
            relay.aim(target)
            forward(relay, b"%d" % number)
            await until(lambda: not _waits(relay))
            assert serving.recv(100) == b"%d" % number
    relay.close()


async def test_what_another_process_forwards_is_not_relayed_and_its_descriptors_are_closed(tmp_path: Path) -> None:
    old, new = names(tmp_path, 1), names(tmp_path, 2)
    relay = UdpRelay(old)
    relay.pid = os.getpid() + 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as serving, socket.socket() as spare:
        serving.setblocking(False)
        serving.bind(str(new.udp_epoch_as_child))
        relay.aim(new)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.connect(str(relay.path))
            socket.send_fds(stranger, [b"x"], [spare.fileno()] * 3)
        await until(lambda: not _waits(relay))
        with pytest.raises(BlockingIOError):
            serving.recv(100)
    assert relay.relayed == 0
    relay.close()


async def test_the_loop_forgets_a_relay_that_is_closed(tmp_path: Path) -> None:
    """The next socket gets the same number, and could not be read."""
    relay = UdpRelay(names(tmp_path, 1))
    number = relay._receiver.fileno()
    relay.close()
    assert not asyncio.get_running_loop().remove_reader(number)


def _waits(relay: UdpRelay) -> bool:
    try:
        relay._receiver.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True
