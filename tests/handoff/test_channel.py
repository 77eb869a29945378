import asyncio
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.core.errors import MachineError, ProtocolError
from agent.handoff import binding
from agent.handoff.channel import (
    Channel,
    Message,
    Sender,
    bind_datagram,
    parse_ancillary,
    parse_signed_ancillary,
)
from agent.handoff.hot_restart_pb2 import HotRestartMessage, Reply, Request
from agent.handoff.socket_paths import SocketPaths
from tests.handoff import handmade
from tests.handoff.epochs import fake_epoch, leaked_since, open_descriptors, until
from tests.handoff.handmade import block, datagrams, framed, request


class Correspondence:
    """A channel in the role of the parent, and the messages and errors it received."""

    def __init__(self, directory: Path) -> None:
        self.names = SocketPaths(directory, 1)
        self.letters: list[Message] = []
        self.errors: list[ProtocolError] = []
        self.channel = Channel(self.names.agent_as_parent, self.letters.append, self.errors.append)
        self.channel.pid = os.getpid()

    def send(self, *parts: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send datagrams from this process."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(self.names.agent_as_parent))
            for part in parts:
                socket.send_fds(sender, [part], descriptors) if descriptors else sender.send(part)


@contextmanager
def corresponding(directory: Path) -> Iterator[Correspondence]:
    made = Correspondence(directory)
    try:
        yield made
    finally:
        if not made.errors:
            made.channel.close()
        for letter in made.letters:
            if letter.descriptor is not None:
                os.close(letter.descriptor)


BIG = HotRestartMessage(request=Request(forwarded_udp_packet=Request.ForwardedUdpPacket(payload=b"x" * 80_000)))


async def test_a_message_of_many_datagrams_comes_whole(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail:
        for datagram in datagrams(BIG.SerializeToString()):
            mail.send(datagram)
            await until(lambda: _is_empty(mail.channel))
        assert [letter.message for letter in mail.letters] == [BIG]


def _is_empty(channel: Channel) -> bool:
    """Return whether the channel has read all datagrams."""
    try:
        channel._receiver.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


async def test_messages_keep_their_order(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail:
        bodies = [handmade.pass_listen_socket(f"tcp://127.0.0.1:{port}") for port in range(5)]
        mail.send(*map(framed, bodies))
        await until(lambda: len(mail.letters) == 5)
        assert [each.message.request.pass_listen_socket.address[-1] for each in mail.letters] == list("01234")


async def test_what_another_process_says_or_gives_does_not_count(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail:
        async with fake_epoch(mail.names) as stranger:
            await stranger.tell("listen")
            before = open_descriptors()
            await stranger.tell("send", "parent_0", "ff" * 8)  # would break the channel
            await stranger.tell("send_with", "parent_0", framed(handmade.STATS).hex(), 3)
            await until(lambda: _is_empty(mail.channel))
            assert open_descriptors() == before
        mail.send(framed(handmade.STATS))
        await until(lambda: mail.letters)
        assert len(mail.letters) == 1
        assert mail.letters[0].descriptor is None


async def test_messages_of_another_process_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with corresponding(tmp_path) as mail:
        async with fake_epoch(mail.names) as stranger:
            for _ in range(3):
                await stranger.tell("send", "parent_0", framed(handmade.STATS).hex())
            await until(lambda: _is_empty(mail.channel))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"are dropped: the proxy is pid {os.getpid()};" in caplog.text


async def test_a_stranger_between_two_datagrams_of_a_message_changes_nothing(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail:
        first, *rest = datagrams(handmade.pass_listen_socket("x" * 5000))
        async with fake_epoch(mail.names) as stranger:
            mail.send(first)
            await stranger.tell("send", "parent_0", framed(handmade.TERMINATE).hex())
            mail.send(*rest)
            await until(lambda: mail.letters)
        assert mail.letters[0].message.request.pass_listen_socket.address == "x" * 5000
        assert len(mail.letters) == 1


async def test_nothing_counts_before_the_epoch_has_a_pid(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail:
        mail.channel.pid = None
        mail.send(framed(handmade.STATS))
        await until(lambda: _is_empty(mail.channel))
        assert not mail.letters


async def test_a_descriptor_comes_with_its_message_and_no_child_inherits_it(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, socket.create_server(("127.0.0.1", 0)) as listening:
        mail.send(framed(handmade.SOCKET_REPLY), descriptors=(listening.fileno(),))
        await until(lambda: mail.letters)
        descriptor = mail.letters[0].descriptor
        assert descriptor is not None
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert os.path.sameopenfile(descriptor, listening.fileno())


@pytest.mark.parametrize("count", [2, 4, 5, 50])
async def test_more_descriptors_than_one_end_the_channel_and_are_closed(tmp_path: Path, count: int) -> None:
    with corresponding(tmp_path) as mail, socket.create_server(("127.0.0.1", 0)) as listening:
        mail.send(framed(handmade.SOCKET_REPLY), descriptors=(listening.fileno(),) * count)
        await until(lambda: mail.errors)
        assert not mail.letters


@pytest.mark.parametrize(
    "parts",
    [
        (b"abc",),
        (b"",),
        (b"\xff" * 8,),
        ((100).to_bytes(8) + bytes(200),),
        (bytes(8) + bytes(5000),),
        (framed(b"\x0a\xff\xff"),),
        ((5000).to_bytes(8) + bytes(4088), bytes(4096)),
    ],
    ids=["3 bytes", "empty", "2^64 announced", "too long", "longer than a datagram", "no protobuf", "too much later"],
)
@pytest.mark.parametrize("with_descriptor", [False, True])
async def test_a_malformed_message_closes_only_this_channel_and_is_reported_once(
    tmp_path: Path, parts: tuple[bytes, ...], with_descriptor: bool
) -> None:
    with corresponding(tmp_path) as mail, socket.create_server(("127.0.0.1", 0)) as listening:
        mail.send(*parts, descriptors=(listening.fileno(),) if with_descriptor else ())
        mail.send(framed(handmade.STATS))
        await until(lambda: mail.errors)
        assert len(mail.errors) == 1
        assert not mail.letters
        assert not mail.names.agent_as_parent.exists()


async def test_a_channel_that_broke_may_be_closed_again(tmp_path: Path) -> None:
    """Its owner closes all its parts again during removal."""
    with corresponding(tmp_path) as mail:
        mail.send(b"abc")
        await until(lambda: mail.errors)
        mail.channel.close()


async def test_a_descriptor_in_the_middle_of_a_message_is_closed(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, socket.create_server(("127.0.0.1", 0)) as listening:
        first, second = datagrams(request(1, block(1, "y" * 5000)))
        mail.send(first, descriptors=(listening.fileno(),))
        mail.send(second)
        await until(lambda: mail.letters)
        assert mail.letters[0].descriptor is None


async def test_a_receiver_that_closes_the_channel_ends_the_reading(tmp_path: Path) -> None:
    names = SocketPaths(tmp_path, 1)
    heard: list[Message] = []

    def take(letter: Message) -> None:
        heard.append(letter)
        channel.close()

    channel = Channel(names.agent_as_parent, take, lambda _: None)
    channel.pid = os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(names.agent_as_parent))
        sender.send(framed(handmade.STATS))
        sender.send(framed(handmade.STATS))
        await until(lambda: heard)
    assert len(heard) == 1


class Failing(socket.socket):
    """A socket whose kernel fails: what cannot be provoked otherwise."""

    errors: ClassVar[list[OSError]] = []

    def recvmsg(self, *arguments: int) -> Any:  # noqa: ANN401  # as the one it stands in for
        if self.errors:
            raise self.errors.pop(0)
        return super().recvmsg(*arguments)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[OSError]:
    """Let a channel's socket raise these errors before it works."""
    bind = binding.bind

    def bind_failing(*arguments: Any) -> Failing:  # noqa: ANN401  # passed on
        return Failing(fileno=bind(*arguments).detach())

    monkeypatch.setattr(binding, "bind", bind_failing)
    monkeypatch.setattr(Failing, "errors", [])
    return Failing.errors


async def test_an_error_of_the_kernel_closes_the_channel_and_is_told_with_the_path(
    tmp_path: Path, failing: list[OSError]
) -> None:
    failing.append(OSError(errno.ENOBUFS, "No buffer space available"))
    with corresponding(tmp_path) as mail:
        mail.send(framed(handmade.STATS))
        await until(lambda: mail.errors)
        assert str(mail.names.agent_as_parent) in str(mail.errors[0])
        assert "No buffer space available" in str(mail.errors[0])
        assert not mail.names.agent_as_parent.exists()
        assert not mail.letters


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
async def test_a_read_that_is_only_to_be_tried_again_costs_nothing(
    number: int, tmp_path: Path, failing: list[OSError]
) -> None:
    failing.append(OSError(number, "again"))
    with corresponding(tmp_path) as mail:
        mail.send(framed(handmade.STATS))
        await until(lambda: mail.letters)
        assert not mail.errors


async def test_a_descriptor_that_comes_with_a_stranger_is_closed_and_no_error(tmp_path: Path) -> None:
    before = open_descriptors()
    with corresponding(tmp_path) as mail, socket.create_server(("127.0.0.1", 0)) as listening:
        mail.channel.pid = os.getpid() + 1
        mail.send(framed(handmade.SOCKET_REPLY), descriptors=(listening.fileno(),) * 3)
        await until(lambda: _is_empty(mail.channel))
        assert not mail.errors
        assert not mail.letters
    await until(lambda: not open_descriptors() - before)


# What comes beside the bytes

CREDENTIALS = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", 7, 1000, 100))


def rights(*descriptors: int, cut: int = 0) -> tuple[int, int, bytes]:
    data = struct.pack(f"{len(descriptors)}i", *descriptors)
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, data[: len(data) - cut]


@pytest.mark.parametrize(
    ("ancillary", "sender", "descriptors"),
    [
        ([], None, []),
        ([CREDENTIALS], Sender(7, 1000), []),
        ([rights(3)], None, [3]),
        ([CREDENTIALS, rights(3, 4)], Sender(7, 1000), [3, 4]),
        ([rights(3), CREDENTIALS, rights(4)], Sender(7, 1000), [3, 4]),
        ([rights(3, 4, cut=2)], None, [3]),
        ([rights(3, cut=1)], None, []),
        ([(socket.IPPROTO_IP, socket.SCM_RIGHTS, b"\x03\0\0\0")], None, []),
        ([(socket.SOL_SOCKET, 99, b"\x03\0\0\0")], None, []),
        ([(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, CREDENTIALS[2] + b"more")], Sender(7, 1000), []),
    ],
)
def test_sender_and_descriptors_are_read_from_what_the_kernel_adds(
    ancillary: list[tuple[int, int, bytes]], sender: Sender | None, descriptors: list[int]
) -> None:
    assert parse_signed_ancillary(ancillary) == (sender, descriptors)
    assert parse_ancillary(ancillary) == (sender.pid if sender else None, descriptors)


# Sending


def peer(names: SocketPaths) -> socket.socket:
    """Bind the epoch's end; it reads only on request."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(names.epoch_as_child))
    return made


async def test_a_peer_that_does_not_read_does_not_block_and_gets_all_messages_later(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, peer(mail.names) as epoch:
        mail.channel.connect(mail.names.epoch_as_child)
        for _ in range(3):
            mail.channel.send(BIG)  # 60 datagrams; the kernel's queue holds about ten
        epoch.setblocking(False)
        got: list[bytes] = []

        def read() -> bool:
            try:
                while True:
                    got.append(epoch.recv(1 << 16))
            except BlockingIOError:
                return len(got) == 60

        await until(read)
        assert got == datagrams(BIG.SerializeToString()) * 3


async def test_a_descriptor_waits_with_its_datagram_though_its_owner_closes_his(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, peer(mail.names) as epoch:
        mail.channel.connect(mail.names.epoch_as_child)
        mail.channel.send(BIG)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            inode = os.fstat(listening.fileno()).st_ino
            mail.channel.send(HotRestartMessage(reply=Reply(stats=Reply.Stats())), listening.fileno())
        epoch.setblocking(False)
        found: list[int] = []

        def read() -> bool:
            try:
                while True:
                    found.extend(socket.recv_fds(epoch, 1 << 16, 4)[1])
            except BlockingIOError:
                return bool(found)

        await until(read)
        assert os.fstat(found[0]).st_ino == inode
        os.close(found[0])


async def test_what_still_waits_when_the_channel_is_closed_takes_no_descriptor_with_it(tmp_path: Path) -> None:
    """The peer hangs; it is killed and removed."""
    before = open_descriptors()
    with corresponding(tmp_path) as mail, peer(mail.names), socket.create_server(("127.0.0.1", 0)) as listening:
        mail.channel.connect(mail.names.epoch_as_child)
        mail.channel.send(BIG)
        mail.channel.send(HotRestartMessage(reply=Reply(stats=Reply.Stats())), listening.fileno())
    assert not leaked_since(before)


async def test_the_loop_forgets_a_channel_that_is_closed(tmp_path: Path) -> None:
    """The next sockets get the same numbers, and could not be used."""
    loop = asyncio.get_running_loop()
    with corresponding(tmp_path) as mail, peer(mail.names):
        mail.channel.connect(mail.names.epoch_as_child)
        mail.channel.send(BIG)
        sender = mail.channel._sender
        assert sender is not None
        receiving, sending = mail.channel._receiver.fileno(), sender.fileno()
        mail.channel.close()
        assert (loop.remove_reader(receiving), loop.remove_writer(sending)) == (False, False)


async def test_a_peer_that_is_gone_is_a_machine_error_and_costs_no_descriptor(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, socket.create_server(("127.0.0.1", 0)) as listening:
        with peer(mail.names):
            mail.channel.connect(mail.names.epoch_as_child)
        with pytest.raises(MachineError, match="cannot send from"):
            mail.channel.send(HotRestartMessage(), listening.fileno())


async def test_a_hung_peer_that_dies_leaves_the_loop_at_rest(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail:
        with peer(mail.names):
            mail.channel.connect(mail.names.epoch_as_child)
            mail.channel.send(BIG)
        await until(lambda: not mail.channel._backlog)


async def test_a_peer_that_was_never_there_is_a_machine_error(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail:
        with pytest.raises(MachineError, match="cannot reach"):
            mail.channel.connect(mail.names.epoch_as_child)
        with pytest.raises(MachineError, match="never connected"):
            mail.channel.send(HotRestartMessage())


async def test_a_closed_channel_reaches_nobody(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, peer(mail.names):
        mail.channel.close()
        with pytest.raises(MachineError, match="is closed"):
            mail.channel.connect(mail.names.epoch_as_child)


async def test_connecting_again_keeps_the_peer(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, peer(mail.names) as epoch:
        mail.channel.connect(mail.names.epoch_as_child)
        mail.channel.connect(mail.names.udp_epoch_as_child)  # where nobody is
        mail.channel.send(HotRestartMessage(didnt_recognize_your_last_message=True))
        assert epoch.recv(100) == framed(handmade.NOT_UNDERSTOOD)


async def test_a_peer_that_never_reads_costs_its_channel_after_some_datagrams(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, peer(mail.names):
        mail.channel.connect(mail.names.epoch_as_child)
        sent = 0
        while not mail.errors:
            mail.channel.send(HotRestartMessage(didnt_recognize_your_last_message=True))
            sent += 1
        assert 64 < sent < 64 + 2 + 600, "the limit, and what the kernel's queue takes"
        assert str(mail.names.agent_as_parent) in str(mail.errors[0])
        assert len(mail.errors) == 1


async def test_a_message_of_more_datagrams_than_may_wait_is_sent_all_the_same(tmp_path: Path) -> None:
    big = HotRestartMessage(request=Request(forwarded_udp_packet=Request.ForwardedUdpPacket(payload=b"x" * 400_000)))
    with corresponding(tmp_path) as mail, peer(mail.names):
        mail.channel.connect(mail.names.epoch_as_child)
        mail.channel.send(big)
        assert not mail.errors


async def test_a_connected_peer_is_reached_though_its_name_is_gone(tmp_path: Path) -> None:
    with corresponding(tmp_path) as mail, peer(mail.names) as epoch:
        mail.channel.connect(mail.names.epoch_as_child)
        mail.names.epoch_as_child.unlink()
        mail.channel.send(HotRestartMessage(request=Request(drain_listeners=Request.DrainListeners())))
        assert epoch.recv(100) == framed(handmade.DRAIN_LISTENERS)


# Binding


def test_a_name_is_taken_over_without_being_gone_for_a_moment(tmp_path: Path) -> None:
    """A rename replaces the existing socket; no other file remains."""
    path = tmp_path / "hr_parent_10"
    with bind_datagram(path) as first, bind_datagram(path) as second:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", str(path))
        assert second.recv(10) == b"x"
        with pytest.raises(BlockingIOError):
            first.recv(10)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_a_killed_process_of_this_pid_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f"~{os.getpid()}").touch()
    bind_datagram(tmp_path / "hr").close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["hr"]


def test_a_name_that_cannot_be_bound_is_a_machine_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot bind"):
        bind_datagram(tmp_path / "nowhere" / "hr")
