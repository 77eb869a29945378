import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.core.errors import AddressHeld, ProtocolError
from agent.handoff import parent
from agent.handoff.parent import Parent, ParentEvents
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress
from tests.handoff import handmade
from tests.handoff.epochs import Epoch, fake_epoch, until
from tests.handoff.handmade import framed, number, reply

STARTED_AT = 1_700_000_000
OURS = "tcp://127.0.0.1:80"
HELD = "tcp://127.0.0.1:81"


@dataclass
class Scene:
    """A parent, its epoch, and the calls that the epoch's owner received."""

    parent: Parent
    epoch: Epoch
    heard: list[object] = field(default_factory=list)


@asynccontextmanager
async def scene(directory: Path, lent: int | None = None) -> AsyncIterator[Scene]:
    names = SocketPaths(directory, 4)
    heard: list[object] = []

    def get_socket(place: ListenAddress) -> int | None:
        if place.address == HELD:
            raise AddressHeld("somebody has it")
        return lent if place.address == OURS else None

    events = ParentEvents(get_socket, lambda: heard.append("serves"), heard.append, heard.append)
    made = Parent(names, STARTED_AT, events)
    try:
        async with fake_epoch(names) as epoch:
            made.channel.pid = epoch.pid
            yield Scene(made, epoch, heard)
    finally:
        if not any(isinstance(each, ProtocolError) for each in heard):
            made.close()


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (handmade.SHUTDOWN_ADMIN, reply(2, number(1, STARTED_AT) + number(2, 1))),
        (handmade.STATS, reply(3)),
        (handmade.pass_listen_socket("tcp://127.0.0.1:9"), handmade.NO_SOCKET_REPLY),
        (handmade.UNKNOWN_REQUEST, handmade.NOT_UNDERSTOOD),
        (b"", handmade.NOT_UNDERSTOOD),
        (handmade.SOCKET_REPLY, handmade.NOT_UNDERSTOOD),
    ],
    ids=["ShutdownAdmin", "Stats", "PassListenSocket", "a newer request", "empty", "a reply"],
)
async def test_every_request_that_waits_for_an_answer_gets_it(tmp_path: Path, asked: bytes, answer: bytes) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.send("parent_0", asked)
        assert await play.epoch.read("child_1") == (framed(answer), [])


async def test_a_lost_stats_question_is_answered_unasked(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        play.parent.answer_stats()
        assert await play.epoch.read("child_1") == (framed(reply(3)), [])


async def test_answering_an_epoch_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        for path in tmp_path.glob("hr_child_*"):
            path.unlink()
        play.parent.answer_stats()


@pytest.mark.parametrize(
    "said",
    [handmade.TEST_CONNECTION, handmade.TERMINATE, handmade.DRAIN_LISTENERS],
    ids=["TestConnection", "Terminate", "DrainListeners"],
)
async def test_what_waits_for_no_answer_gets_none(tmp_path: Path, said: bytes) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.send("parent_0", said)
        await play.epoch.send("parent_0", handmade.STATS)
        assert await play.epoch.read("child_1") == (framed(reply(3)), [])  # the first one received


async def test_a_socket_is_passed_as_a_descriptor(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with scene(tmp_path, listening.fileno()) as play:
            await play.epoch.send("parent_0", handmade.pass_listen_socket(OURS, 2))
            data, inodes = await play.epoch.read("child_1")
            assert data == framed(reply(1, number(1, listening.fileno())))
            assert inodes == [os.fstat(listening.fileno()).st_ino]
            assert play.parent.asked == {ListenAddress(OURS, worker=2)}
            assert not play.parent.bound_itself


async def test_what_the_epoch_must_bind_itself_is_remembered(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.send("parent_0", handmade.pass_listen_socket("unix://@x", namespace="/run/netns/a"))
        assert await play.epoch.read("child_1") == (framed(handmade.NO_SOCKET_REPLY), [])
        assert play.parent.asked == play.parent.bound_itself == {ListenAddress("unix://@x", "/run/netns/a")}


async def test_no_answer_if_another_process_listens_since_any_would_share_the_port(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.send("parent_0", handmade.pass_listen_socket(HELD))
        await until(lambda: play.heard)
        assert isinstance(play.heard[0], AddressHeld)
        await play.epoch.send("parent_0", handmade.STATS)
        assert await play.epoch.read("child_1") == (framed(reply(3)), [])
        assert play.parent.asked == {ListenAddress(HELD)}


async def test_that_it_serves_is_reported_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        for _ in range(3):
            await play.epoch.send("parent_0", handmade.DRAIN_LISTENERS)
        await play.epoch.send("parent_0", handmade.STATS)
        await play.epoch.read("child_1")
        assert play.heard == ["serves"]


async def test_an_unrequested_descriptor_is_closed(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.tell("listen")
        await play.epoch.tell("send_with", "parent_0", framed(handmade.STATS).hex(), 1)
        assert await play.epoch.read("child_1") == (framed(reply(3)), [])


async def test_a_hostile_epoch_loses_its_channel_and_its_owner_gets_the_reason(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.tell("send", "parent_0", "00ff")
        await until(lambda: play.heard)
        assert isinstance(play.heard[0], ProtocolError)


async def test_the_parent_of_a_hostile_epoch_can_be_closed(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.tell("send", "parent_0", "00ff")
        await until(lambda: play.heard)
        play.parent.close()


async def test_an_epoch_that_exits_with_an_open_request_has_no_effect(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.send("parent_0", handmade.DRAIN_LISTENERS)
        play.parent.names.epoch_as_child.unlink()
        await play.epoch.send("parent_0", handmade.STATS)
        await play.epoch.send("parent_0", handmade.DRAIN_LISTENERS)
        await until(lambda: play.heard)
        assert play.heard == ["serves"]


async def test_requests_of_a_hundred_sockets_are_all_answered_in_order(tmp_path: Path) -> None:
    async with scene(tmp_path) as play:
        for port in range(100, 200):
            await play.epoch.send("parent_0", handmade.pass_listen_socket(f"tcp://127.0.0.1:{port}"))
            assert await play.epoch.read("child_1") == (framed(handmade.NO_SOCKET_REPLY), [])
        assert len(play.parent.asked) == 100


@pytest.mark.parametrize(
    "address",
    [
        "garbage", "", "tcp://127.0.0.1:99999", "tcp://127.0.0.1", "tcp://localhost:80", "tcp://[::1:80", "http://1.2.3.4:5",
        "tcp://1.2.3:4", "tcp://127.0.0.1:8o", "udp://a.test:53",
    ],
)  # fmt: skip
async def test_an_address_that_envoy_never_writes_closes_the_channel_and_nothing_is_looked_up(
    tmp_path: Path, address: str
) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.send("parent_0", handmade.pass_listen_socket(address))
        await until(lambda: bool(play.heard))
        (error,) = play.heard
        assert isinstance(error, ProtocolError)
        assert "it is not an IP address with a port" in str(error)


async def test_an_epoch_may_ask_for_so_many_sockets_and_again_for_each_but_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent, "_PLACES_LIMIT", 2)
    async with scene(tmp_path) as play:
        for port in (1, 2, 1):
            await play.epoch.send("parent_0", handmade.pass_listen_socket(f"tcp://127.0.0.1:{port}"))
            assert await play.epoch.read("child_1") == (framed(handmade.NO_SOCKET_REPLY), [])
        await play.epoch.send("parent_0", handmade.pass_listen_socket("tcp://127.0.0.1:3"))
        await until(lambda: bool(play.heard))
        assert isinstance(play.heard[0], ProtocolError)
        assert "2 sockets" in str(play.heard[0])


@pytest.mark.parametrize(("port", "is_one"), [("65535", True), ("0", True), ("65536", False), ("", False)])
def test_a_port_is_one_of_65536(port: str, is_one: bool) -> None:
    place = ListenAddress(f"tcp://127.0.0.1:{port}")
    with contextlib.nullcontext() if is_one else pytest.raises(ProtocolError):
        parent.require_literal(place)


def test_what_is_quoted_of_a_hostile_address_is_short() -> None:
    with pytest.raises(ProtocolError) as caught:
        parent.require_literal(ListenAddress("x" * 5000))
    assert len(str(caught.value)) < 200


async def test_what_an_earlier_agent_knew_of_an_epoch_is_known(tmp_path: Path) -> None:
    heard: list[object] = []
    asked = {ListenAddress(OURS)}
    events = ParentEvents(lambda _: None, lambda: heard.append("serves"), heard.append, heard.append)
    made = Parent(SocketPaths(tmp_path, 4), STARTED_AT, events, asked, serves=True)
    made.hear_that_it_serves()
    assert (made.asked, made.bound_itself, heard) == (asked, set(), [])
    assert made.asked is not asked
    made.close()


@pytest.mark.parametrize("address", ["tcp://[::]:80", "tcp://[fe80::1%eth0]:80", "udp://1.2.3.4:53", "unix:///run/x"])
async def test_every_kind_of_address_that_envoy_writes_is_answered(tmp_path: Path, address: str) -> None:
    async with scene(tmp_path) as play:
        await play.epoch.send("parent_0", handmade.pass_listen_socket(address))
        assert await play.epoch.read("child_1") == (framed(handmade.NO_SOCKET_REPLY), [])


async def test_an_epoch_that_asks_and_never_reads_costs_its_channel_and_a_bounded_number_of_descriptors(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as lent:
        async with scene(tmp_path, lent.fileno()) as play:
            before = len(list(Path("/proc/self/fd").iterdir()))
            most = before
            for _ in range(4000):
                await play.epoch.send("parent_0", handmade.pass_listen_socket(OURS))
                if play.heard:
                    break
                most = max(most, len(list(Path("/proc/self/fd").iterdir())))
            await until(lambda: bool(play.heard))
            assert "are not read" in str(play.heard[0])
            assert most - before <= 100
            assert len(list(Path("/proc/self/fd").iterdir())) <= before
