"""A serving proxy that accepts nobody and answers nothing hangs; any sign of life says that it does not."""

import asyncio
import contextlib
import errno
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host import clock
from agent.host.throttling import Throttled
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.processes import hang_detector
from agent.processes.hang_detector import HangDetector, Intervals
from agent.proxies.envoy.admin_client import AdminClient
from tests.processes.harness import happens, until
from tests.processes.virtual_time import now, turns, virtual_time

PACE = Intervals(first=0.005, longest=0.01, interval=0.005, report_after=0.02, lag=5.0)
PATIENT = replace(PACE, report_after=0.25)
LONG_ENOUGH = 0.6  # in which a slow detector reports a hang
LOOKS = 8  # longer than a detector needs to report a hang


@dataclass
class Epoch:
    """The serving epoch, as far as the detector uses it."""

    number: int
    admin: AdminClient
    pid: int | None = 4711


class Scene:
    """A socket store with listeners that accept nothing, an epoch, and the detector's reports."""

    def __init__(self, directory: Path, replace_after: float | None, pace: Intervals) -> None:
        self.directory = directory
        self.store = SocketStore()
        self.epoch: Epoch | None = Epoch(7, AdminClient(directory / "admin"))
        self.said: list[tuple[bool, str]] = []
        self.replaced: list[str] = []
        self.looks = 0
        self.throttled: Callable[[int], Throttled] = lambda _: Throttled()
        self.when_said: Callable[[], None] = lambda: None
        self.watch = HangDetector(
            self.store,
            lambda: self.epoch,
            self._say,
            self.replaced.append,
            replace_after,
            pace=pace,
            throttled=self._look,
        )

    def _say(self, hung: bool, text: str) -> None:  # the detector's reports
        self.said.append((hung, text))
        self.when_said()

    def _look(self) -> Throttled:
        self.looks += 1
        return self.throttled(self.looks)

    @contextmanager
    def listener(self, name: str | None = None) -> Iterator[socket.socket]:
        """Listen, as the proxy, with a duplicate in the socket store."""
        family = socket.AF_INET if name is None else socket.AF_UNIX
        with socket.socket(family) as made:
            made.bind(("127.0.0.1", 0) if name is None else str(self.directory / name))
            made.listen(16)
            made.setblocking(False)
            address = f"tcp://127.0.0.1:{made.getsockname()[1]}" if name is None else f"unix://{self.directory / name}"
            self.store.put(ListenAddress(address), os.dup(made.fileno()))
            yield made

    @contextmanager
    def deaf_console(self) -> Iterator[None]:
        """An admin interface that accepts requests and answers none, as that of a stopped process."""
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(self.directory / "admin"))
            made.listen(16)
            yield

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[list[str]]:
        """An admin interface that answers; yields the requests, including those queued before."""
        asked: list[str] = []

        async def answer(request: Request) -> Response:
            asked.append(request.path)
            return Response(503, b"")

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / "admin"))
        server = Server(answer)
        await server.start(listener)
        try:
            yield asked
        finally:
            await server.close()

    async def looked(self, times: int = LOOKS) -> None:
        """Wait for this many more checks under suspicion."""
        wanted = self.looks + times
        await until(lambda: self.looks >= wanted)

    async def hangs(self) -> str:
        """Wait until a hang is reported; return the message."""
        await until(lambda: self.said)
        assert self.said[-1][0]
        return self.said[-1][1]


@asynccontextmanager
async def scene(replace_after: float | None = None, pace: Intervals = PACE) -> AsyncIterator[Scene]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        made = Scene(Path(directory), replace_after, pace)
        try:
            yield made
        finally:
            await made.watch.close()
            made.store.close_all()


@contextmanager
def client(listening: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(listening.family) as made:
        made.connect(listening.getsockname())
        yield made


def timers() -> int:
    """Return the number of the loop's timers."""
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum(not handle.cancelled() for handle in scheduled)


async def test_a_proxy_that_neither_accepts_nor_answers_hangs() -> None:
    async with scene() as play:
        with play.listener() as listening, play.deaf_console(), client(listening), client(listening):
            play.watch.follow()
            port = listening.getsockname()[1]
            sentence = await play.hangs()
            assert sentence.startswith(f"epoch 7 (pid 4711) hangs: 2 clients wait at tcp://127.0.0.1:{port}, and for ")
            assert sentence.endswith("its admin interface has not answered; replace it by `agent restart`")
            assert play.watch.hung
            await play.looked()
            assert len(play.said) == 1
            assert play.replaced == []


async def test_a_client_that_comes_later_is_noticed_too() -> None:
    async with scene() as play:
        with play.listener("in") as listening, play.deaf_console():
            play.watch.follow()
            await asyncio.sleep(0)
            with client(listening):
                assert "a client waits at unix://" in await play.hangs()


async def test_without_clients_the_agent_does_not_wake_up() -> None:
    async with scene() as play:
        with play.listener() as listening, play.deaf_console():
            before = timers()
            play.watch.follow()
            for _ in range(5):
                await asyncio.sleep(0)
            assert timers() == before
            with client(listening):
                await happens(event_at(listening))
                assert timers() > before, "it looks again"
                listening.accept()[0].close()
            await until(lambda: timers() == before + 1)  # its own
            assert play.said == []


def event_at(listening: socket.socket) -> asyncio.Event:
    """Return when the loop has seen a client there; the detector has seen it in the same iteration."""
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()
    duplicate = os.dup(listening.fileno())

    def see() -> None:
        loop.remove_reader(duplicate)
        os.close(duplicate)
        loop.call_soon(loop.call_soon, seen.set)

    loop.add_reader(duplicate, see)
    return seen


async def test_a_proxy_whose_admin_interface_answers_is_busy_however_long_its_queue_stands() -> None:
    began = clock.monotonic()
    async with scene(pace=PATIENT) as play, play.admin() as asked:
        with play.listener() as listening, client(listening):
            play.watch.follow()
            await until(lambda: len(asked) > 5 and clock.monotonic() > began + LONG_ENOUGH)
            assert play.said == []


async def test_a_proxy_whose_queue_moves_is_busy_however_long_its_admin_interface_is_silent() -> None:
    began = clock.monotonic()
    async with scene(pace=PATIENT) as play:
        with play.listener() as listening, play.deaf_console(), contextlib.ExitStack() as clients:
            play.watch.follow()
            for _ in range(3):
                clients.enter_context(client(listening))
            while clock.monotonic() < began + LONG_ENOUGH:  # one arrives, one is accepted: the number stays the same
                await play.looked(1)
                clients.enter_context(client(listening))
                listening.accept()[0].close()
            assert play.said == []


async def test_where_clients_have_no_names_a_queue_that_gets_shorter_is_a_sign_of_life() -> None:
    """This is the case in another network namespace."""
    async with scene() as play:
        with play.listener() as listening, play.deaf_console(), contextlib.ExitStack() as clients:
            held = play.store.get(play.store.places()[0])
            assert held is not None
            play.store.put(ListenAddress("tcp://192.0.2.1:9", "/run/netns/other"), os.dup(held))
            play.store.close(play.store.places()[0])
            for _ in range(2 * LOOKS):
                clients.enter_context(client(listening))
            play.watch.follow()
            for _ in range(2 * LOOKS - 1):
                await play.looked(1)
                listening.accept()[0].close()
            assert play.said == []


async def test_clients_that_give_up_are_no_sign_of_life() -> None:
    """Their connections keep their places in the queue."""
    async with scene() as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            while not play.said:
                with client(listening) as impatient:
                    await play.looked(1)
                    impatient.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                assert play.looks < 3 * LOOKS
            assert play.said[0][0]


async def test_a_queue_that_grows_is_no_sign_of_life() -> None:
    async with scene() as play:
        with play.listener() as listening, play.deaf_console(), contextlib.ExitStack() as clients:
            play.watch.follow()
            while not play.said:
                clients.enter_context(client(listening))
                await play.looked(1)
            assert play.said[0][0]


async def test_a_proxy_without_an_admin_interface_is_not_checked() -> None:
    async with scene() as play:
        with play.listener() as listening, client(listening):
            play.watch.follow()
            await play.looked()
            assert play.said == []


async def test_an_admin_interface_with_a_full_queue_is_silent() -> None:
    async with scene() as play:
        with play.listener() as listening, client(listening), socket.socket(socket.AF_UNIX) as admin:
            admin.bind(str(play.directory / "admin"))
            admin.listen(0)
            with client(admin):
                play.watch.follow()
                await play.hangs()


async def test_it_is_said_once_that_it_answers_again() -> None:
    async with scene() as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await play.hangs()
            listening.accept()[0].close()
            await until(lambda: len(play.said) == 2)
            assert play.said[1] == (False, "epoch 7 (pid 4711) accepts connections again")
            assert not play.watch.hung
            with client(listening):
                await until(lambda: len(play.said) == 3)
                assert play.said[2][0], "and hangs again"


async def test_a_late_answer_of_the_admin_interface_is_a_sign_of_life() -> None:
    async with scene() as play:
        with play.listener() as listening, socket.socket(socket.AF_UNIX) as admin, client(listening):
            admin.bind(str(play.directory / "admin"))
            admin.listen(16)
            play.watch.follow()
            await play.hangs()
            server = Server(_well)
            await server.start(admin.dup())
            await until(lambda: len(play.said) == 2)
            assert not play.said[1][0]
            await server.close()


async def _well(_: Request) -> Response:
    return Response(200, b"LIVE\n")


async def test_another_epoch_in_its_place_is_watched_by_itself() -> None:
    async with scene() as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await play.hangs()
            play.epoch = Epoch(8, AdminClient(play.directory / "admin"))
            assert not play.watch.hung
            play.watch.follow()
            assert play.said[1] == (False, "epoch 8 replaces 7, which hung")
            await until(lambda: len(play.said) == 3)
            assert play.said[2][1].startswith("epoch 8 ")


async def test_a_socket_that_is_stored_later_is_watched() -> None:
    async with scene() as play:
        with play.listener() as first, play.deaf_console():
            play.watch.follow()
            await asyncio.sleep(0)
            with play.listener() as second, client(second):
                play.store.close(ListenAddress(f"tcp://127.0.0.1:{first.getsockname()[1]}"))
                play.watch.follow()
                assert f":{second.getsockname()[1]}," in await play.hangs()


async def test_to_follow_again_forgets_nothing_of_an_epoch_that_hangs() -> None:
    async with scene(replace_after=0.3) as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await play.hangs()
            while not play.replaced:
                play.watch.follow()
                assert play.watch.hung
                await play.looked(1)
            assert len(play.said) == 1


async def test_while_nothing_serves_nothing_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await play.looked(1)
            play.epoch = None
            await until(lambda: not play.watch._is_watching())
            assert play.said == []
            play.watch.follow()
            assert not play.watch._is_watching()
            assert caplog.records == []


async def test_clients_are_refused_while_no_epoch_serves_without_a_wake_up() -> None:
    """A socket that was shut down is always readable, and so is one that never listened."""
    async with scene() as play:
        with play.listener(), play.deaf_console(), socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            play.store.put(ListenAddress("tcp://bound"), os.dup(bound.fileno()))
            play.store.refuse()
            before = timers()
            play.watch.follow()
            for _ in range(5):
                await asyncio.sleep(0)
            assert timers() == before


async def test_a_replacement_is_asked_for_once() -> None:
    async with scene(replace_after=0.3) as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            replaced: list[str] = ["something"]
            play.when_said = lambda: replaced.__setitem__(slice(None), play.replaced)
            play.watch.follow()
            assert (await play.hangs()).endswith("; it is replaced after 0.3 s of this")
            assert replaced == [], "not when it is said"
            await until(lambda: play.replaced)
            await play.looked()
            assert [text.startswith("epoch 7 (pid 4711) has accepted no ") for text in play.replaced] == [True]


async def test_it_may_be_replaced_as_soon_as_it_is_found_to_hang() -> None:
    async with scene(replace_after=0.001) as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await until(lambda: play.replaced)
            assert play.watch.hung


async def test_a_group_that_is_throttled_hangs_only_when_it_may_run_again() -> None:
    async with scene() as play:
        play.throttled = Throttled
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await play.looked()
            assert play.said == []
            play.throttled = lambda _: Throttled()
            await play.hangs()


async def test_an_epoch_that_hangs_is_not_replaced_while_the_group_is_throttled() -> None:
    async with scene(replace_after=0.3) as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.when_said = lambda: setattr(play, "throttled", Throttled)
            play.watch.follow()
            await play.hangs()
            await play.looked()
            assert play.replaced == []
            assert play.watch.hung
            play.throttled = lambda _: Throttled()
            await until(lambda: play.replaced)


async def test_after_a_stop_of_the_agent_itself_the_seconds_start_again() -> None:
    always_late = Intervals(first=0.005, longest=0.01, interval=0.005, report_after=0.02, lag=-1.0)
    async with scene(pace=always_late) as play:
        with play.listener() as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await play.looked()
            assert play.said == []


# In virtual time, at the default intervals


@pytest.fixture
def told_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's clock is the loop's."""
    monkeypatch.setattr(clock, "monotonic", now)


@pytest.mark.usefixtures("told_clock")
@pytest.mark.parametrize(("quiet", "after"), [(30.0, 7.0), (0.0, 8.0)])
@virtual_time
async def test_a_hang_is_reported_five_seconds_after_the_first_look_without_progress(
    quiet: float, after: float
) -> None:
    """One or two seconds until the first look, one to the next, and then the five."""
    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, play.deaf_console():
            play.watch.follow()
            await asyncio.sleep(quiet)
            with client(listening):
                await asyncio.sleep(after - 0.1)
                assert (play.said, play.watch.hung) == ([], False)
                await asyncio.sleep(0.2)
                assert [hung for hung, _ in play.said] == [True]
                assert play.watch.hung
                assert "for 5 s" in play.said[0][1]


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_it_is_well_again_at_the_first_look_after_it_accepted() -> None:
    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await asyncio.sleep(20)
            states = [play.watch.hung]
            listening.accept()[0].close()
            await asyncio.sleep(1.1)
            assert [*states, play.watch.hung] == [True, False]
            assert [hung for hung, _ in play.said] == [True, False]
            await asyncio.sleep(3600)
            assert len(play.said) == 2, "nobody waits any more"


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_the_console_is_asked_once_and_its_answer_is_heard_at_once() -> None:
    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, socket.socket(socket.AF_UNIX) as admin, client(listening):
            admin.bind(str(play.directory / "admin"))
            admin.listen(16)
            admin.setblocking(False)
            play.watch.follow()
            await asyncio.sleep(20.4)
            asked, _ = admin.accept()
            with asked:
                with pytest.raises(BlockingIOError):
                    admin.accept()
                heard: list[float] = []
                play.when_said = lambda: heard.append(now())
                asked.send(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n")
                answered_at = now()
                await asyncio.sleep(0.5)
                assert heard == [answered_at]


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_a_question_that_is_no_longer_of_interest_is_given_up() -> None:
    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, socket.socket(socket.AF_UNIX) as admin, client(listening):
            admin.bind(str(play.directory / "admin"))
            admin.listen(16)
            play.watch.follow()
            await asyncio.sleep(20)
            asked, _ = admin.accept()
            with asked:
                asked.setblocking(False)
                assert asked.recv(1 << 16).startswith(b"GET /ready ")
                listening.accept()[0].close()
                await asyncio.sleep(2)
                assert asked.recv(1) == b"", "it is closed"


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_a_replacement_is_asked_for_once_when_its_time_has_come() -> None:
    async with scene(replace_after=30.0, pace=Intervals()) as play:
        with play.listener("in") as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await asyncio.sleep(32.9)
            assert (len(play.said), play.replaced) == (1, [])
            await asyncio.sleep(0.2)
            assert len(play.replaced) == 1
            assert "epoch 7" in play.replaced[0]
            assert "30 s" in play.replaced[0]
            await asyncio.sleep(100)
            assert len(play.replaced) == 1


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_an_epoch_is_not_replaced_before_it_is_reported() -> None:
    async with scene(replace_after=1.0, pace=Intervals()) as play:
        with play.listener("in") as listening, play.deaf_console(), client(listening):
            play.when_said = lambda: play.replaced.append("reported")
            play.watch.follow()
            await asyncio.sleep(60)
            assert [text.partition(" ")[0] for text in play.replaced] == ["reported", "epoch"]


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_a_replaced_epoch_that_hangs_anew_is_reported_and_replaced_anew() -> None:
    async with scene(replace_after=10.0, pace=Intervals()) as play:
        with play.listener("in") as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await asyncio.sleep(60)
            listening.accept()[0].close()
            await asyncio.sleep(60)
            with client(listening):
                await asyncio.sleep(60)
                assert [hung for hung, _ in play.said] == [True, False, True]
                assert len(play.replaced) == 2


@pytest.mark.usefixtures("told_clock")
@pytest.mark.parametrize(("standstill", "reported"), [(2.9, True), (3.2, False)])
@virtual_time
async def test_a_look_that_comes_too_late_begins_the_suspicion_anew(standstill: float, reported: bool) -> None:
    """The agent was stopped, as by a suspended machine: the proxy had no time either."""
    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await asyncio.sleep(6.5)
            loop: Any = asyncio.get_running_loop()
            loop.now += standstill - 0.5
            await asyncio.sleep(2.0)
            assert bool(play.said) is reported
            await asyncio.sleep(8)
            assert play.said


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_without_clients_nothing_is_looked_at_and_with_clients_at_most_every_four_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[float] = []
    monkeypatch.setattr(hang_detector, "is_anybody_waiting", lambda _: looked.append(round(now() - 1000, 3)))
    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, client(listening):
            play.watch.follow()
            await asyncio.sleep(20)
            assert looked == [2.0, 6.0, 10.0, 14.0, 18.0], "a client is always there, though never the same"
            listening.accept()[0].close()
            await asyncio.sleep(100)
            assert len(looked) == 6
            with client(listening):
                await asyncio.sleep(3.5)
            assert [round(each - looked[5], 3) for each in looked[6:]][-2:] == pytest.approx(
                [98.0 + 1.0, 98.0 + 3.0], abs=0.1
            )


@pytest.mark.usefixtures("told_clock")
@pytest.mark.parametrize(("count", "clients", "more"), [(3, 6, ", and for"), (5, 15, " and 2 more, and for")])
@virtual_time
async def test_no_more_than_three_listeners_are_named_and_the_longest_queue_first(
    count: int, clients: int, more: str
) -> None:
    async with scene(pace=Intervals()) as play, contextlib.AsyncExitStack() as rest:
        with play.deaf_console():
            listeners = [rest.enter_context(play.listener()) for _ in range(count)]
            for number, listening in enumerate(listeners):
                for _ in range(number + 1):
                    rest.enter_context(client(listening))
            play.watch.follow()
            await asyncio.sleep(8.5)
            [(_, text)] = play.said
            ports = [f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in reversed(listeners)]
            assert f"{clients} clients wait at {ports[0]}, {ports[1]}, {ports[2]}{more}" in text
            play.store.close_all()


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_the_workers_of_a_listener_count_as_one() -> None:
    async with scene(pace=Intervals()) as play:
        with play.deaf_console(), play.listener() as listening, client(listening):
            [there] = play.store.places()
            held = play.store.get(there)
            assert held is not None
            play.store.put(replace(there, worker=1), os.dup(held))
            play.watch.follow()
            await asyncio.sleep(8.5)
            assert f"2 clients wait at {there.address}, and" in play.said[0][1]


@pytest.mark.usefixtures("told_clock")
@pytest.mark.parametrize(("code", "is_well"), [(errno.EMFILE, False), (errno.ENOENT, True), (errno.EACCES, True)])
@virtual_time
async def test_an_error_of_the_agents_own_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, code: int, is_well: bool
) -> None:
    asked: list[float] = []

    async def fail(*_: object, **__: object) -> None:
        asked.append(now())
        raise OSError(code, "no")

    monkeypatch.setattr("agent.http.client.fetch", fail)
    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, client(listening):
            play.watch.follow()
            await asyncio.sleep(30)
            assert bool(play.said) is not is_well
            assert len(asked) <= 30, "one a second"


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_queues_that_cannot_be_watched_are_warned_of_and_watched_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: SocketStore) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, play.deaf_console(), client(listening):
            with monkeypatch.context() as patch:
                patch.setattr(hang_detector, "opened", fail)
                play.watch.follow()
                await turns()
            [text] = [record.getMessage() for record in caplog.records]
            assert [vars(record)["event"] for record in caplog.records] == ["hung.unwatched"]
            assert "epoch 7" in text
            assert "Too many open files" in text
            play.watch.follow()
            await asyncio.sleep(20)
            assert play.watch.hung


@pytest.mark.usefixtures("told_clock")
@virtual_time
async def test_a_watch_that_is_closed_says_nothing_more() -> None:
    async with scene(pace=Intervals()) as play:
        with play.listener("in") as listening, play.deaf_console(), client(listening):
            play.watch.follow()
            await asyncio.sleep(4)
            await play.watch.close()
            await asyncio.sleep(60)
            assert play.said == []


async def test_a_listener_that_a_process_stopped_listens_again_and_its_epoch_is_replaced() -> None:
    """As HAProxy does when a frontend is disabled: no duplicate of the socket listens any more."""
    async with scene() as made:
        with made.listener() as listener:
            made.watch.follow()
            await turns()
            listener.shutdown(socket.SHUT_RD)
            await until(lambda: made.replaced)
            with socket.create_connection(listener.getsockname(), timeout=5):
                pass
        [reason] = made.replaced
        assert "stopped to listen" in reason


async def test_a_listener_that_the_store_has_closed_is_not_missed() -> None:
    async with scene() as made:
        with made.listener() as listener:
            made.watch.follow()
            await turns()
            [place] = made.store.places()
            made.store.close(place)
            listener.shutdown(socket.SHUT_RD)
            made.watch.follow()
            await asyncio.sleep(PACE.longest * 2)
        assert made.replaced == []
