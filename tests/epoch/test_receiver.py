"""A bound datagram socket that reads at once: what it hands out, what it drops, and what it leaves behind."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.core.errors import MachineError
from agent.epoch import receiver
from agent.epoch.receiver import MessageReceiver
from agent.handoff.channel import Message, Sender, parse_signed_ancillary
from tests.epoch.neighbours import to_kernel
from tests.handoff import handmade
from tests.handoff.handmade import block, datagrams, framed, number, reply

TURNS = 5


class Owner:
    """Collects whole messages: their bytes, and the descriptors with them, which it closes."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.bodies: list[bytes] = []
        self.links: list[str] = []
        self._act = act

    def take(self, letter: Message) -> None:
        self.bodies.append(letter.message.SerializeToString())
        if letter.descriptor is not None:
            self.links.append(os.readlink(f"/proc/self/fd/{letter.descriptor}"))  # noqa: PTH115  # a text
            assert not os.get_inheritable(letter.descriptor)
            os.close(letter.descriptor)
        self._act()


def send(name: str, *parts: bytes, descriptors: tuple[int, ...] = ()) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(to_kernel(name))
        for part in parts:
            socket.send_fds(sender, [part], descriptors) if descriptors else sender.send(part)


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


LARGE = reply(3, block(3, block(1, "x" * 10_000) + number(2, 1)))


async def test_whole_messages_are_handed_out_in_order(prefix: str) -> None:
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    send(prefix, framed(handmade.STATS), *datagrams(LARGE), framed(handmade.TERMINATE))
    await settle()
    made.close()
    assert owner.bodies == [handmade.STATS, LARGE, handmade.TERMINATE]


async def test_the_descriptor_of_a_message_belongs_to_its_owner(prefix: str) -> None:
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    with Path("/dev/null").open("rb") as file:
        send(prefix, framed(handmade.SOCKET_REPLY), descriptors=(file.fileno(),))
        first, *middle, last = datagrams(LARGE)
        send(prefix, first, *middle)
        send(prefix, last, descriptors=(file.fileno(),))
        send(prefix, framed(handmade.STATS))
    await settle()
    made.close()
    assert owner.bodies == [handmade.SOCKET_REPLY, LARGE, handmade.STATS]
    assert owner.links == ["/dev/null", "/dev/null"]


async def test_a_descriptor_with_the_first_part_of_a_message_is_closed(prefix: str) -> None:
    """The fixture of the folder finds one that is left open."""
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    first, *rest = datagrams(LARGE)
    with socket.socket() as held:
        send(prefix, first, descriptors=(held.fileno(),))
        send(prefix, *rest)
    await settle()
    made.close()
    assert (owner.bodies, owner.links) == ([LARGE], [])


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"short",
        framed(handmade.STATS) + b"more",
        framed(b"\xff"),
        (1 << 40).to_bytes(8),
        framed(b"x" * 8000),
        framed(handmade.STATS)[:4],
    ],
    ids=["empty", "short", "too long", "no message", "too large", "truncated", "half a length"],
)
async def test_rubbish_is_dropped_with_a_warning_and_the_next_message_is_read(
    rubbish: bytes, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    send(prefix, rubbish, framed(handmade.STATS))
    await settle()
    made.close()
    assert owner.bodies == [handmade.STATS]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(os.getpid()) in record.getMessage()
    assert prefix in record.getMessage()


@pytest.mark.parametrize("count", [2, 4, 10])
async def test_a_message_with_several_descriptors_is_dropped_with_all_of_them(prefix: str, count: int) -> None:
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    with socket.socket() as held:
        send(prefix, framed(handmade.SOCKET_REPLY), descriptors=(held.fileno(),) * count)
        send(prefix, framed(handmade.STATS))
    await settle()
    made.close()
    assert (owner.bodies, owner.links) == ([handmade.STATS], [])


async def test_rubbish_in_the_middle_of_a_message_ends_it(prefix: str) -> None:
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    first, *_ = datagrams(LARGE)
    send(prefix, first, bytes(5000), framed(handmade.STATS))
    await settle()
    made.close()
    assert owner.bodies == [handmade.STATS]


async def test_without_an_owner_everything_is_read_and_dropped(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    made = MessageReceiver(prefix, 0o600)
    with socket.socket() as held:
        for _ in range(5):
            send(prefix, b"rubbish", framed(handmade.STATS), descriptors=(held.fileno(),))
            await settle()
    made.close()
    assert not caplog.records


async def test_an_owner_may_close_it_and_hears_nothing_more(prefix: str) -> None:
    owner = Owner(lambda: made.close())  # noqa: PLW0108  # it is made below
    made = MessageReceiver(prefix, 0o600, owner.take)
    send(prefix, framed(handmade.STATS), framed(handmade.TERMINATE))
    await settle()
    assert owner.bodies == [handmade.STATS]
    made.close()


async def test_a_datagram_is_limited_to_what_a_correct_peer_sends(prefix: str) -> None:
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    exact = next(iter(datagrams(LARGE)))
    assert len(exact) == 4096
    body = reply(3, block(3, block(1, "x" * 4060) + number(2, 1)))
    send(prefix, framed(body)[:4096], *([framed(body)[4096:]] if len(body) > 4088 else []), framed(handmade.STATS))
    await settle()
    made.close()
    assert owner.bodies == [body, handmade.STATS]


# Other processes. A datagram of one is simulated where it is taken out of the socket's messages.


def sent_by(monkeypatch: pytest.MonkeyPatch, senders: Sequence[Sender | None]) -> None:
    waiting = iter(senders)

    def parsed(ancillary: list[tuple[int, int, bytes]]) -> tuple[Sender | None, list[int]]:
        return next(waiting), parse_signed_ancillary(ancillary)[1]

    monkeypatch.setattr(receiver, "parse_signed_ancillary", parsed)


def process(pid: int, uid: int | None = None) -> Sender:
    return Sender(pid, os.geteuid() if uid is None else uid)


@pytest.mark.parametrize("sender", [None, process(7, 65_534), process(7, 1)], ids=["unsigned", "nobody", "daemon"])
async def test_other_users_are_not_heard_and_their_descriptors_are_closed(
    prefix: str, sender: Sender | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent_by(monkeypatch, [sender, process(8)])
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    with socket.socket() as held:
        send(prefix, framed(handmade.TERMINATE), descriptors=(held.fileno(),))
        send(prefix, framed(handmade.STATS))
    await settle()
    made.close()
    assert owner.bodies == [handmade.STATS]
    assert not caplog.records


@pytest.mark.parametrize("uid", [0, 1234])
async def test_root_and_the_own_user_are_heard(prefix: str, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "os", SimpleNamespace(geteuid=lambda: 1234, path=os.path))
    sent_by(monkeypatch, [process(7, uid)])
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    send(prefix, framed(handmade.STATS))
    await settle()
    made.close()
    assert owner.bodies == [handmade.STATS]


async def test_the_parts_of_each_process_are_put_together_on_their_own(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = datagrams(LARGE)
    sent_by(monkeypatch, [process(pid) for pid in (7, 8, 7, 9, 8, 7, 8)])
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    send(prefix, first, first, second, framed(handmade.STATS), second, third, third)
    await settle()
    made.close()
    assert owner.bodies == [handmade.STATS, LARGE, LARGE]


async def test_rubbish_of_one_process_does_not_end_the_message_of_another(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = datagrams(LARGE)
    sent_by(monkeypatch, [process(pid) for pid in (7, 8, 7, 7)])
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    send(prefix, first, b"rubbish", second, third)
    await settle()
    made.close()
    assert owner.bodies == [LARGE]


async def test_half_messages_of_eight_processes_are_kept_and_the_oldest_makes_room(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *rest = datagrams(LARGE)
    senders = [process(pid) for pid in range(1, 10)] + [process(pid) for pid in (2, 2, 9, 9, 1, 1)]
    sent_by(monkeypatch, senders)
    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    for part in (*[first] * 9, *rest, *rest, *rest):
        send(prefix, part)  # one by one: the kernel queues ten
        await settle()
    made.close()
    assert owner.bodies == [LARGE, LARGE]


# The name


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o620])
async def test_a_path_has_the_mode_that_is_asked_for_and_is_removed_at_the_end(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "hr"
    made = MessageReceiver(str(path), mode)
    assert path.is_socket()
    assert path.stat().st_mode & 0o777 == mode
    made.close()
    assert not path.exists()
    made.close()


async def test_a_path_that_another_process_has_replaced_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "hr"
    first = MessageReceiver(str(path), 0o600)
    path.unlink()
    second = MessageReceiver(str(path), 0o600)
    first.close()
    assert path.is_socket()
    second.close()


async def test_a_path_that_has_been_removed_is_no_error_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "hr"
    made = MessageReceiver(str(path), 0o600)
    path.unlink()
    made.close()


async def test_the_file_of_a_socket_that_nobody_has_any_more_is_replaced(tmp_path: Path) -> None:
    path, owner = tmp_path / "hr", Owner()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))
    made = MessageReceiver(str(path), 0o600, owner.take)
    send(str(path), framed(handmade.STATS))
    await settle()
    made.close()
    assert owner.bodies == [handmade.STATS]


async def test_a_name_that_is_taken_is_refused_with_what_to_do(prefix: str) -> None:
    made = MessageReceiver(prefix, 0o600)
    with pytest.raises(MachineError, match=r"--base-id.*--restart-epoch") as refused:
        MessageReceiver(prefix, 0o600)
    assert prefix in str(refused.value)
    made.close()
    MessageReceiver(prefix, 0o600).close()


async def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=rf"{tmp_path}/none/hr"):
        MessageReceiver(f"{tmp_path}/none/hr", 0o600)


async def test_no_program_that_is_started_inherits_the_socket(prefix: str) -> None:
    made = MessageReceiver(prefix, 0o600)
    assert not os.get_inheritable(made._socket.fileno())
    assert not made._socket.getblocking()
    made.close()


async def test_an_error_of_the_socket_is_logged_and_is_not_the_end(
    prefix: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        """A socket that fails once, at first."""

        def __init__(self, real: socket.socket) -> None:
            self._real = real
            self._errors = [OSError(105, "No buffer space available"), InterruptedError()]

        def recvmsg(self, *arguments: int) -> object:
            if self._errors:
                raise self._errors.pop(0)
            return self._real.recvmsg(*arguments)

        def fileno(self) -> int:
            return self._real.fileno()

        def close(self) -> None:
            self._real.close()

    owner = Owner()
    made = MessageReceiver(prefix, 0o600, owner.take)
    monkeypatch.setattr(made, "_socket", Failing(made._socket))
    send(prefix, framed(handmade.STATS))
    await settle()
    made.close()
    assert owner.bodies == [handmade.STATS]
    assert ["No buffer space" in record.getMessage() for record in caplog.records] == [True]
