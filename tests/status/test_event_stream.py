import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from agent.http import server
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.status.event_stream import Stream
from agent.status.model import Status, document
from tests.status.clockwork import clockwork, play
from tests.status.sample import NOW, ago, overview
from tests.system.eventually import PATIENCE

GET = Request("GET", "/events")
WIRE = b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n"


class Source:
    """An agent whose statuses are each a second older than the previous one."""

    def __init__(self) -> None:
        self.made = 0

    def read(self) -> Status:
        self.made += 1
        return overview(ago(-self.made))


async def body(response: Response) -> AsyncIterator[bytes]:
    """Return the streamed text."""
    assert response.status == 200
    assert not isinstance(response.body, bytes)
    async for part in response.body:
        yield part


async def watch(stream: Stream, seconds: float) -> list[float]:
    """Read all data of this many seconds; return the times of arrival."""
    times: list[float] = []
    try:
        async with asyncio.timeout(seconds):
            async for _ in body(await stream.answer(GET)):
                times.append(asyncio.get_running_loop().time())  # noqa: PERF401  # kept after the timeout
    except TimeoutError:
        return times
    raise AssertionError("it has an end")


def test_an_overview_comes_at_once_and_is_whole() -> None:
    async def first() -> tuple[float, bytes]:
        stream = Stream(overview)
        answer = await stream.answer(GET)
        part = await anext(body(answer))
        assert ("content-type", "text/event-stream") in answer.headers
        assert ("cache-control", "no-store") in answer.headers
        assert ("x-accel-buffering", "no") in answer.headers, "nginx would collect the events"
        assert ("x-content-type-options", "nosniff") in answer.headers
        return clockwork().time(), part

    assert play(first()) == (0.0, b"retry: 1000\ndata: " + document(overview()) + b"\n")


def test_an_unchanged_status_is_sent_every_two_seconds() -> None:
    assert play(watch(Stream(overview), 9)) == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_a_change_is_sent_at_once() -> None:
    async def change_once() -> list[float]:
        stream = Stream(overview)
        clockwork().call_later(1.1, stream.changed)
        return await watch(stream, 3)

    assert play(change_once()) == pytest.approx([0.0, 1.1])


def test_many_changes_are_sent_four_times_a_second_including_the_last() -> None:
    async def change_often() -> tuple[list[float], int]:
        source = Source()
        stream = Stream(source.read)
        for hundredths in range(1, 101):
            clockwork().call_later(hundredths / 100, stream.changed)
        return await watch(stream, 1.9), source.made

    times, made = play(change_often())
    assert times == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
    assert made == len(times)


def test_an_overview_is_made_once_for_all() -> None:
    async def many() -> int:
        source = Source()
        stream = Stream(source.read)
        counts = [len(times) for times in await asyncio.gather(*(watch(stream, 5) for _ in range(10)))]
        assert counts == [3] * 10
        return source.made

    assert play(many()) == 3


def test_a_later_client_gets_a_status_at_once_without_an_extra_one() -> None:
    """However often they reconnect, they cost no more than four statuses a second."""

    async def many() -> int:
        source = Source()
        stream = Stream(source.read)
        faithful = asyncio.ensure_future(watch(stream, 2.1))
        for _ in range(100):
            came = clockwork().time()
            await anext(body(await stream.answer(GET)))
            assert clockwork().time() == came
            await asyncio.sleep(0.02)  # of simulated seconds
        assert len(await faithful) == source.made
        return source.made

    assert play(many()) == 9


def test_without_watchers_there_is_no_timer_and_nothing_is_made() -> None:
    async def alone() -> None:
        source = Source()
        stream = Stream(source.read)
        stream.changed()
        assert not clockwork().timers
        await asyncio.sleep(100)
        assert (clockwork().wakeups, source.made) == (1, 0)
        await watch(stream, 3.0)
        made = source.made
        await asyncio.sleep(3)
        before = clockwork().wakeups
        stream.changed()
        assert not clockwork().timers
        await asyncio.sleep(100)
        assert (clockwork().wakeups - before, source.made - made) == (1, 0)
        assert await watch(stream, 2.1) == [206.0, 208.0], "it goes on"

    play(alone())


def test_who_reads_slowly_gets_the_newest_and_no_backlog() -> None:
    async def slowly() -> list[str]:
        source = Source()
        stream = Stream(source.read)
        parts = body(await stream.answer(GET))
        told = [await anext(parts)]
        for _ in range(2):
            await asyncio.sleep(20)
            told.append(await anext(parts))
        assert source.made == 3, "for nobody who reads there is none"
        return [json.loads(part.partition(b"data: ")[2])["at"] for part in told]

    assert play(slowly()) == [f"2026-05-04T12:00:0{second}.000Z" for second in (1, 2, 3)]


def test_so_many_may_watch_and_no_more_until_one_goes() -> None:
    async def crowd() -> None:
        stream = Stream(overview, watchers_limit=3)
        answers = [await stream.answer(GET) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 503]
        assert answers[3].body == b"the limit of 3 watchers is reached; see /status\n"
        answers.pop(0)  # also one without any read
        assert (await stream.answer(GET)).status == 200

    play(crowd())


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 405)])
def test_other_questions_have_an_end(method: str, status: int) -> None:
    async def ask() -> Response:
        stream = Stream(overview)
        answer = await stream.answer(Request(method, "/events"))
        assert stream.watchers == 0
        return answer

    answer = play(ask())
    assert answer.status == status
    assert isinstance(answer.body, bytes)


def test_a_status_that_fails_ends_the_answer_and_is_logged() -> None:
    def fail() -> Status:
        raise ZeroDivisionError

    async def ask() -> None:
        stream = Stream(fail)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await anext(body(await stream.answer(GET)))

    play(ask())


# Over a connection


@asynccontextmanager
async def served(stream: Stream) -> AsyncIterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    name: tuple[str, int] = listener.getsockname()
    made = Server(stream.answer)
    await made.start(listener)
    try:
        yield name
    finally:
        await made.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Run the loop until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110  # no event signals a disconnected watcher
            await asyncio.sleep(0)


async def test_a_client_that_goes_is_noticed_at_the_next_overview(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.status.event_stream._AT_MOST_EVERY", 0.001)
    monkeypatch.setattr("agent.status.event_stream._AT_LEAST_EVERY", 0.002)
    source = Source()
    stream = Stream(source.read)
    async with served(stream) as name:
        reader, writer = await asyncio.open_connection(*name)
        writer.write(WIRE)
        assert b"data: {" in await reader.readuntil(b"\n\n")
        assert stream.watchers == 1
        writer.transport.abort()
        made = source.made
        stream.changed()
        await until(lambda: stream.watchers == 0)
    assert source.made - made <= 20


async def test_a_client_that_never_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server closes it, and the data queued for it is bounded by the connection's buffers."""
    monkeypatch.setattr(server, "READ_TIMEOUT", 0.05)
    monkeypatch.setattr("agent.status.event_stream._AT_MOST_EVERY", 0.0)
    monkeypatch.setattr("agent.status.event_stream._AT_LEAST_EVERY", 0.0)
    made = 0

    def large() -> Status:
        nonlocal made
        made += 1
        return Status(NOW, "0.1.0", 1, NOW, ready=False, reason="x" * (1 << 20), sentence="", epoch=None)

    stream = Stream(large)
    gc.disable()  # reference counting suffices
    try:
        async with served(stream) as name:
            with socket.create_connection(name) as deaf:
                deaf.sendall(WIRE)
                await until(lambda: stream.watchers == 1)
                await until(lambda: stream.watchers == 0)
    finally:
        gc.enable()
    assert 1 <= made < 50
