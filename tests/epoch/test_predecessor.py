"""The client of the previous epoch: one request at a time, and every answer that a predecessor may give."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import MachineError
from agent.epoch import predecessor
from agent.epoch.predecessor import Predecessor, listens
from agent.handoff.channel import Message
from agent.handoff.hot_restart_pb2 import HotRestartMessage
from agent.handoff.socket_store import ListenAddress
from tests.epoch.neighbours import Neighbour, listening, neighbour
from tests.handoff import handmade
from tests.handoff.handmade import block, number, pass_listen_socket, reply

WEB = ListenAddress("tcp://127.0.0.1:80")
STARTED_AT = 1_600_000_000
TAKEN_OVER = reply(2, number(1, STARTED_AT) + number(2, 1))


class Chain:
    """A predecessor and the process it talks to, whose answers are handed in as they would be received."""

    def __init__(self, parent: Neighbour) -> None:
        self.parent = parent
        self.client = Predecessor(parent.name("parent", 0))

    def answer(self, body: bytes, held: int | None = None) -> None:
        """Hand in an answer, with a duplicate of a descriptor."""
        descriptor = None if held is None else os.dup(held)
        self.client.take(Message(HotRestartMessage.FromString(body), descriptor))

    async def ask(self, work: Awaitable[Any], *asked: bytes, answers: Sequence[tuple[bytes, int | None]]) -> Any:  # noqa: ANN401
        """Let it ask each of these, and answer each."""
        task = asyncio.ensure_future(work)
        for request, (body, held) in zip(asked, answers, strict=True):
            await self.parent.expect("parent", request)
            self.answer(body, held)
            await asyncio.sleep(0)
        return await task


@asynccontextmanager
async def chain(prefix: str, base_id: int) -> AsyncIterator[Chain]:
    with neighbour(prefix, base_id, 0) as parent:
        made = Chain(parent)
        try:
            yield made
        finally:
            made.client.close()


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor, "PATIENCE", 0.01)


async def test_the_start_of_the_chain_is_in_the_answer_of_its_admin_interface(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        asked = made.client.shutdown_admin()
        assert await made.ask(asked, handmade.SHUTDOWN_ADMIN, answers=[(TAKEN_OVER, None)]) == STARTED_AT


async def test_statistics_are_counters_and_gauges(prefix: str, base_id: int) -> None:
    entries = block(3, block(1, "requests") + number(2, 5)) + block(4, block(1, "clients") + number(2, 2))
    async with chain(prefix, base_id) as made:
        answers = [(reply(3, entries), None)]
        assert await made.ask(made.client.stats(), handmade.STATS, answers=answers) == ({"requests": 5}, {"clients": 2})
        assert await made.ask(made.client.stats(), handmade.STATS, answers=[(reply(3), None)]) == ({}, {})


async def test_requests_are_sent_one_after_the_other(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        first, second = (asyncio.ensure_future(made.client.stats()) for _ in range(2))
        await made.parent.expect("parent", handmade.STATS)
        assert made.parent.is_quiet("parent")
        made.answer(reply(3, block(4, block(1, "a") + number(2, 1))))
        await made.parent.expect("parent", handmade.STATS)
        made.answer(reply(3, block(4, block(1, "b") + number(2, 1))))
        assert (await first, await second) == (({}, {"a": 1}), ({}, {"b": 1}))


async def test_an_answer_that_nothing_has_asked_for_is_dropped_with_its_descriptor(prefix: str, base_id: int) -> None:
    """The fixture of the folder finds a descriptor that is left open."""
    async with chain(prefix, base_id) as made:
        with listening() as held:
            for body in (handmade.SOCKET_REPLY, TAKEN_OVER, handmade.NOT_UNDERSTOOD, b"", handmade.STATS):
                made.answer(body, held.fileno())
            asking = asyncio.ensure_future(made.client.stats())
            await made.parent.expect("parent", handmade.STATS)
            for body in (handmade.SOCKET_REPLY, TAKEN_OVER, b"", handmade.STATS):
                made.answer(body, held.fileno())
            made.answer(reply(3), held.fileno())
            made.answer(reply(3, block(4, block(1, "late") + number(2, 1))), held.fileno())
            assert await asking == ({}, {})


async def test_a_request_that_is_not_known_is_an_error_and_the_next_one_is_sent(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with listening() as held:
            answers = [(handmade.NOT_UNDERSTOOD, held.fileno())]
            with pytest.raises(MachineError, match="stats"):
                await made.ask(made.client.stats(), handmade.STATS, answers=answers)
        assert await made.ask(made.client.stats(), handmade.STATS, answers=[(reply(3), None)]) == ({}, {})


# Sockets


async def inherited(made: Chain, *held: socket.socket | None, place: ListenAddress = WEB) -> list[bool]:
    """Inherit from a process that answers with these; return whether each that came is the one that was sent."""
    asked = [pass_listen_socket(place.address, worker, place.namespace) for worker in range(len(held))]
    answers = [(handmade.NO_SOCKET_REPLY if one is None else handmade.SOCKET_REPLY, one) for one in held]
    numbered = [(body, None if one is None else one.fileno()) for body, one in answers]
    got = await made.ask(made.client.inherit(place), *asked, answers=numbered)
    assert made.parent.is_quiet("parent")
    for each in got:
        assert not each.getblocking()
        assert not os.get_inheritable(each.fileno())
    same = [os.path.sameopenfile(a.fileno(), b.fileno()) for a, b in zip(got, held, strict=False) if b is not None]
    for each in got:
        each.close()
    return same


async def test_an_address_at_which_it_does_not_listen_has_no_socket(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        assert await inherited(made, None) == []
        assert await inherited(made, None, place=ListenAddress("tcp://[::]:80", "/run/netns/a")) == []


async def test_a_socket_without_a_group_is_the_only_one(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with listening() as one:
            assert await inherited(made, one) == [True]


async def test_a_socket_of_the_unix_family_is_the_only_one(prefix: str, base_id: int, tmp_path: Path) -> None:
    async with chain(prefix, base_id) as made:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(tmp_path / "web"))
            one.listen()
            assert await inherited(made, one) == [True]


async def test_each_worker_has_a_queue_of_its_own(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with (
            listening(reuse_port=True) as one,
            listening(reuse_port=True) as two,
            listening(reuse_port=True) as three,
        ):
            assert await inherited(made, one, two, three, None) == [True, True, True]


async def test_one_queue_for_all_workers_is_one_socket(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with listening(reuse_port=True) as shared:
            assert await inherited(made, shared, shared) == [True]


async def test_a_socket_that_was_bound_for_this_process_is_the_last(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with listening(reuse_port=True, listens=False) as fresh, listening(reuse_port=True) as old:
            assert await inherited(made, fresh) == [True]
            assert await inherited(made, old, fresh) == [True]


async def test_sockets_of_datagrams_have_workers_too(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
            for each in (one, two):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            assert await inherited(made, one, two, None) == [True, True]


async def test_a_process_that_has_a_socket_for_every_worker_there_could_be_is_asked_no_more(
    prefix: str, base_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessor, "_WORKERS_LIMIT", 2)
    async with chain(prefix, base_id) as made:
        with listening(reuse_port=True) as one, listening(reuse_port=True) as two:
            assert await inherited(made, one, two) == [True, True]


async def test_a_descriptor_that_is_not_announced_is_closed(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with listening() as held:
            answers = [(handmade.NO_SOCKET_REPLY, held.fileno())]
            asked = made.client.inherit(WEB)
            assert await made.ask(asked, pass_listen_socket(WEB.address), answers=answers) == []


@pytest.mark.parametrize("body", [reply(1, number(1, 0)), reply(1)], ids=["descriptor 0", "nothing said"])
async def test_any_number_but_a_negative_one_announces_a_socket(body: bytes, prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with listening() as held:
            answers = [(body, held.fileno())]
            (got,) = await made.ask(made.client.inherit(WEB), pass_listen_socket(WEB.address), answers=answers)
            got.close()


async def test_a_socket_that_is_announced_and_does_not_come_is_none(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        answers: list[tuple[bytes, int | None]] = [(handmade.SOCKET_REPLY, None)]
        assert await made.ask(made.client.inherit(WEB), pass_listen_socket(WEB.address), answers=answers) == []


async def test_what_is_no_socket_is_an_error_that_closes_everything(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with listening(reuse_port=True) as one, Path("/dev/null").open("rb") as file:
            answers = [(handmade.SOCKET_REPLY, one.fileno()), (handmade.SOCKET_REPLY, file.fileno())]
            asked = [pass_listen_socket(WEB.address), pass_listen_socket(WEB.address, 1)]
            with pytest.raises(MachineError, match=r"tcp://127\.0\.0\.1:80.*no socket"):
                await made.ask(made.client.inherit(WEB), *asked, answers=answers)
            for thread in closing():
                thread.join()


def closing() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "close"]


async def test_a_failure_in_the_middle_closes_what_has_come(prefix: str, base_id: int, no_patience: None) -> None:
    async with chain(prefix, base_id) as made:
        with listening(reuse_port=True) as one:
            asking = asyncio.ensure_future(made.client.inherit(WEB))
            await made.parent.expect("parent", pass_listen_socket(WEB.address))
            made.answer(handmade.SOCKET_REPLY, one.fileno())
            with pytest.raises(MachineError, match="pass_listen_socket"):
                await asking


# A predecessor that does not answer


async def test_silence_ends_the_conversation(prefix: str, base_id: int, no_patience: None) -> None:
    async with chain(prefix, base_id) as made:
        with pytest.raises(MachineError, match=r"no answer to stats in 0\.01 s") as failure:
            await made.client.stats()
        assert made.parent.name("parent", 0) in str(failure.value)
        await made.parent.expect("parent", handmade.STATS)
        made.answer(reply(3))
        with pytest.raises(MachineError, match="no answer to stats"):
            await made.client.inherit(WEB)
        assert made.parent.is_quiet("parent")


async def test_a_request_that_is_cancelled_is_not_the_end(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        asking = asyncio.ensure_future(made.client.stats())
        await made.parent.expect("parent", handmade.STATS)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await made.ask(made.client.stats(), handmade.STATS, answers=[(reply(3), None)]) == ({}, {})


async def test_a_socket_that_comes_as_its_request_is_cancelled_is_closed(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        with listening() as held:
            asking = asyncio.ensure_future(made.client.inherit(WEB))
            await made.parent.expect("parent", pass_listen_socket(WEB.address))
            made.answer(handmade.SOCKET_REPLY, held.fileno())
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking


async def test_one_that_is_gone_is_an_error_at_once(tmp_path: Path) -> None:
    client = Predecessor(f"{tmp_path}/none")
    for work in (client.stats(), client.inherit(WEB), client.stats()):
        with pytest.raises(MachineError, match=f"{tmp_path}/none"):
            await work


async def test_one_that_is_still_starting_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor, "_KNOCK_INTERVAL", 0)
    prefix = f"{tmp_path}/hr"
    client = Predecessor(f"{prefix}_parent_0")
    asking = asyncio.ensure_future(client.shutdown_admin())
    for _ in range(5):
        await asyncio.sleep(0)
    with neighbour(prefix, 0, 0) as parent:
        await parent.expect("parent", handmade.SHUTDOWN_ADMIN)
        client.take(Message(HotRestartMessage.FromString(TAKEN_OVER), None))
        assert await asking == STARTED_AT
        assert parent.is_quiet("parent")
    client.close()


async def test_one_that_never_starts_is_waited_for_no_longer_than_promised(tmp_path: Path, no_patience: None) -> None:
    with pytest.raises(MachineError, match="no answer to shutdown_admin"):
        await Predecessor(f"{tmp_path}/none").shutdown_admin()


# Commands


async def test_commands_are_sent_without_an_answer_and_the_last_one_once(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        made.client.drain_listeners()
        made.client.terminate()
        made.client.terminate()
        await made.parent.expect("parent", handmade.DRAIN_LISTENERS)
        await made.parent.expect("parent", handmade.TERMINATE)
        assert made.parent.is_quiet("parent")


async def test_commands_to_one_that_is_gone_are_lost(tmp_path: Path) -> None:
    client = Predecessor(f"{tmp_path}/none")
    client.drain_listeners()
    client.terminate()


async def test_a_command_may_be_sent_while_a_request_waits(prefix: str, base_id: int) -> None:
    async with chain(prefix, base_id) as made:
        asking = asyncio.ensure_future(made.client.stats())
        await made.parent.expect("parent", handmade.STATS)
        made.client.terminate()
        await made.parent.expect("parent", handmade.TERMINATE)
        made.answer(reply(3))
        assert await asking == ({}, {})


def test_a_stream_socket_listens_once_it_has_been_told_to_and_a_datagram_socket_always() -> None:
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert not listens(stream)
        stream.listen()
        assert listens(stream)
        assert listens(datagrams)
