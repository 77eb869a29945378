"""One epoch's link; the server is this process, on the sockets that the link passes."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.handoff.socket_store import SocketStore
from agent.http.message import Request
from agent.proxies.link import EpochContext, LinkEvents
from agent.proxies.server import link as module
from agent.proxies.server.proxy import Server
from tests.proxies.server.servers import Answers, serving


class Agent:
    """Records what a link reports, and holds the sockets of the epoch that serves."""

    def __init__(self) -> None:
        self.store = SocketStore()
        self.reached, self.served = asyncio.Event(), 0
        self.signals: list[signal.Signals] = []
        self.signalled = asyncio.Event()
        self.events = LinkEvents(
            reached_gate=self.reached.set,
            serves=self._serves,
            held=lambda _: None,
            broken=lambda _: None,
            get_socket=lambda _: None,
            sockets=self.store.lent,
            bound=self.store.put,
            is_serving=lambda: False,
        )

    def _serves(self) -> None:
        self.served += 1

    def send(self, number: signal.Signals) -> None:
        self.signals.append(number)
        self.signalled.set()


MakeLink = Callable[..., module.ServerLink]


@asynccontextmanager
async def linked(
    home: Path, agent: Agent, text: str = "", *, path: Path | None = None, **more: object
) -> AsyncIterator[module.ServerLink]:
    """Open a link to a new epoch; it is cleared at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"web=127.0.0.1:{free.getsockname()[1]}" if path is None else f"web=unix:{path}"
    options = {"check": None, "notifies": False, "drain_signal": "SIGTERM", "has_config": True, **more}
    kind = Server.parse(["{fd:web}"], [listen], **options)  # type: ignore[arg-type]
    configuration = kind.configuration(text, "x.conf")
    (home / "4").mkdir(parents=True)
    link = kind.link(EpochContext(4, home / "4", None, configuration, None), agent.events)
    await link.open(0, None, serves=False)
    try:
        yield link
    finally:
        agent.store.close_all()
        link.clear()
        await link.close()


def passed(link: module.ServerLink) -> socket.socket:
    """Return the socket that the process gets."""
    (listening,) = link.launch(-1, '["x"]').listening
    made = socket.socket(fileno=os.dup(listening[1]))
    made.setblocking(False)
    return made


async def test_it_reaches_the_gate_when_it_answers(tmp_path: Path) -> None:
    agent, answers = Agent(), Answers(b"HTTP/1.1 503\r\n\r\n")
    async with linked(tmp_path, agent, check="GET /") as link, serving(answers, sock=passed(link)):
        link.attend(os.getpid(), agent.send)
        while not link.admin.awaited:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await link.admin.state() == "UNTESTED"
        assert [each.partition(": ")[2] for each in await link.admin.waits_for()] == ["it answers GET / with 503"]
        assert not agent.reached.is_set()
        answers.answer = b"HTTP/1.1 200\r\n\r\n"
        await agent.reached.wait()
        assert (await link.admin.state(), await link.admin.waits_for()) == ("LIVE", [])
        assert (link.is_open, agent.served) == (False, 0)
        link.open_gate()
        assert (link.is_open, agent.served) == (True, 1)


@pytest.mark.parametrize("is_unix", [False, True])
async def test_without_a_check_it_has_to_accept(tmp_path: Path, *, is_unix: bool) -> None:
    agent = Agent()
    async with linked(tmp_path, agent, path=tmp_path / "s" if is_unix else None) as link:
        link.attend(os.getpid(), agent.send)
        with passed(link) as listening:
            while not link._sockets.queued():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not agent.reached.is_set()
            client, _ = await asyncio.get_running_loop().sock_accept(listening)
            await agent.reached.wait()
            client.close()


async def test_a_notification_is_awaited(tmp_path: Path) -> None:
    agent = Agent()
    async with linked(tmp_path, agent, notifies=True) as link:
        place = link.launch(-1, "[]").environment["NOTIFY_SOCKET"]
        link.attend(os.getpid(), agent.send)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"STATUS=READY=1", place)
            await asyncio.sleep(0.05)
            assert await link.admin.waits_for() == ["it has not said READY=1"]
            sender.sendto(b"STATUS=up\nREADY=1\n", place)
            await agent.reached.wait()


async def test_it_is_told_to_end_when_its_queue_is_empty(tmp_path: Path) -> None:
    agent = Agent()
    async with linked(tmp_path, agent, drain_signal="SIGINT", notifies=True) as link:
        link.attend(os.getpid(), agent.send)
        link.open_gate()
        with passed(link) as listening, socket.create_connection(listening.getsockname()):
            link.stop_accepting()
            await asyncio.sleep(1.2)
            assert agent.signals == []
            assert await link.admin.connections() == 1
            listening.accept()[0].close()
            await agent.signalled.wait()
        assert agent.signals == [signal.SIGINT]
        assert await link.admin.connections() is None


async def test_one_that_hangs_is_told_after_a_while_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUEUE_LIMIT", 0.1)
    agent = Agent()
    async with linked(tmp_path, agent, notifies=True) as link:
        link.attend(os.getpid(), agent.send)
        link.open_gate()
        with passed(link) as listening, socket.create_connection(listening.getsockname()):
            link.stop_accepting()
            await agent.signalled.wait()


async def test_it_responds_when_it_accepts(tmp_path: Path) -> None:
    agent = Agent()
    async with linked(tmp_path, agent) as link:
        link.open_gate()
        asked = asyncio.ensure_future(link.admin.responds())
        with passed(link) as listening:
            await asyncio.sleep(0.05)
            assert not asked.done()
            client, _ = await asyncio.get_running_loop().sock_accept(listening)
            assert await asked
            client.close()


async def test_its_sockets_can_be_duplicated(tmp_path: Path) -> None:
    agent = Agent()
    async with linked(tmp_path, agent) as link:
        (place,) = link.asked
        duplicate = await link.duplicate(place)
        assert duplicate is not None
        with passed(link) as own:
            assert os.path.sameopenfile(own.fileno(), duplicate)
        os.close(duplicate)


async def test_what_a_server_does_not_have_does_nothing(tmp_path: Path) -> None:
    async with linked(tmp_path, Agent()) as link:
        link.reopen_logs()
        link.forward_datagrams(link)
        assert link.workers() == ()
        async with link.admin.exposition(Request("GET", "/metrics")) as response:
            assert not isinstance(response.body, bytes)
            assert (response.status, [part async for part in response.body]) == (200, [b""])
