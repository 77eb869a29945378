"""The life of one process, in this process: its sockets, its console, its predecessor and its end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from agent.core.errors import AddressHeld, MachineError
from agent.epoch.arguments import Arguments
from agent.epoch.hot_restart import ServerHooks
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.http.client import fetch
from agent.sidecar.model import (
    Admin,
    Cluster,
    Configuration,
    Echo,
    FilterChain,
    HttpManager,
    Listener,
    Pipe,
    Reply,
    Route,
    SocketAddress,
    VirtualHost,
)
from agent.sidecar.server import Server
from agent.sidecar.traffic import DataPlane
from agent.stats.writer import Writer
from tests.sidecar.http_stand import get
from tests.sidecar.wires import abstract, stat, turns, unix_origin

pytestmark = pytest.mark.usefixtures("leaps")


class Log:
    """Notes that it was reopened."""

    def __init__(self) -> None:
        self.reopened = 0

    def reopen(self) -> None:
        self.reopened += 1


class Restart:
    """The predecessor of a process: what it hands over, and what it was told."""

    inherited: ClassVar[dict[str, list[socket.socket]]] = {}
    counters: ClassVar[dict[str, int] | None] = {}
    made: ClassVar[list["Restart"]] = []

    def __init__(self, arguments: Arguments, part: ServerHooks) -> None:
        self.arguments = arguments
        self.part = part
        self.started_at = 1000.0
        self.told: list[str] = []
        Restart.made.append(self)

    async def join(self) -> None:
        self.told.append("join")

    async def inherit(self, place: ListenAddress) -> list[socket.socket]:
        self.told.append(f"inherit {place.address}")
        return self.inherited.get(place.address, [])

    async def parent_stats(self) -> tuple[dict[str, int], dict[str, int]]:
        self.told.append("stats")
        if self.counters is None:
            raise MachineError("the parent does not answer")
        return self.counters, {"server.live": 1}

    def serve(self) -> None:
        self.told.append("serve")

    def close(self) -> None:
        self.told.append("close")


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> type[Restart]:
    """Let processes have this predecessor, in place of Envoy's protocol."""
    monkeypatch.setattr("agent.sidecar.server.HotRestart", Restart)
    Restart.inherited, Restart.counters, Restart.made = {}, {}, []
    return Restart


class Stand:
    def __init__(self, configuration: Configuration, **arguments: object) -> None:
        arguments.setdefault("disable_hot_restart", True)
        self.arguments = Arguments(**arguments)  # type: ignore[arg-type]
        self.stats = Writer.private()
        self.log = Log()
        drain_time = self.arguments.drain_time
        self.traffic = DataPlane(configuration, self.stats, drain_time=drain_time, drain_immediately=True)
        self.server = Server(self.arguments, configuration, self.traffic, self.stats, self.log)  # type: ignore[arg-type]
        self.running: asyncio.Task[None] | None = None

    def stat(self, name: str) -> int:
        return stat(self.stats, name)


@asynccontextmanager
async def running(configuration: Configuration, **arguments: object) -> AsyncIterator[Stand]:
    stand = Stand(configuration, **arguments)
    stand.running = asyncio.create_task(stand.server.run())
    await turns(30)
    try:
        yield stand
    finally:
        stand.server.quit()
        await stand.running


async def connect(place: Pipe) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(f"\0{place.path[1:]}")


async def echoes(place: Pipe) -> bool:
    """Whether an echo answers there."""
    try:
        reader, writer = await connect(place)
    except ConnectionRefusedError:
        return False
    writer.write(b"x")
    got = await reader.read(1)
    writer.close()
    return got == b"x"


def echo(name: str, *places: Pipe | SocketAddress, **fields: object) -> Listener:
    return Listener(name, places, (FilterChain(Echo()),))._replace(**fields)  # type: ignore[arg-type]


# Serving


async def test_it_listens_serves_and_exits_when_asked() -> None:
    places = [abstract() for _ in range(3)]
    configuration = Configuration((echo("a", places[0], places[1]), echo("b", places[2])), ())
    async with running(configuration) as it:
        assert it.server.state() == "LIVE"
        assert [await echoes(each) for each in places] == [True] * 3
        assert (it.stat("server.live"), it.stat("listener_manager.workers_started")) == (1, 1)
        assert it.server.waiting() == {}
    assert not any([await echoes(each) for each in places])


async def test_a_listener_that_is_not_bound_only_exists() -> None:
    place = abstract()
    async with running(Configuration((echo("a", place, bind_to_port=False),), ())) as it:
        assert not await echoes(place)
        assert it.server.bound() == [("a", [place.place])]


async def test_a_port_of_the_kernel_s_choice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "main"):
        async with running(Configuration((echo("a", SocketAddress("127.0.0.1", 0)),), ())) as it:
            [(name, [place])] = it.server.bound()
            assert name == "a"
            port = int(place.address.rpartition(":")[2])
            assert port > 0
            with socket.create_connection(("127.0.0.1", port)):
                pass
        assert place.address in caplog.text
    assert caplog.messages[-1] == "exiting"


async def test_before_it_is_bound_the_configured_address_is_told() -> None:
    it = Stand(Configuration((echo("a", SocketAddress("127.0.0.1", 0)),), ()))
    assert it.server.bound() == [("a", [ListenAddress("tcp://127.0.0.1:0")])]
    assert it.server.state() == "PRE_INITIALIZING"
    await it.traffic.close()


async def test_the_mode_of_a_path_is_that_of_the_configuration(ordinary: Path) -> None:
    place = Pipe(str(ordinary / "s"), 0o640)
    async with running(Configuration((echo("a", place),), ())):
        assert (ordinary / "s").stat().st_mode & 0o777 == 0o640


async def test_the_backlog_is_that_of_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counting(socket.socket):
        def listen(self, backlog: int = 128) -> None:
            asked.append(backlog)
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Counting)
    async with running(Configuration((echo("a", abstract(), backlog=77),), ())):
        assert asked == [77]


async def test_an_address_that_another_has_ends_the_start() -> None:
    place = abstract()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0{place.path[1:]}")
        other.listen()
        it = Stand(Configuration((echo("a", abstract()), echo("b", place)), ()))
        with pytest.raises(AddressHeld, match=place.path):
            await it.server.run()


async def test_until_it_is_warm_it_listens_nowhere() -> None:
    proceed = asyncio.Event()

    async def gate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await proceed.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await reader.read()

    place = abstract()
    async with unix_origin(gate) as at:
        waiting = Listener("g", (abstract(),), (FilterChain(HttpManager("g", gate="gate")),), bind_to_port=False)
        configuration = Configuration((echo("a", place), waiting), (Cluster("gate", "STATIC", (at,)),))
        async with running(configuration) as it:
            assert it.server.state() == "INITIALIZING"
            assert it.server.waiting() == {"Server": ["g"]}
            assert not await echoes(place)
            assert it.stat("server.live") == 0
            proceed.set()
            await turns(30)
            assert it.server.state() == "LIVE"
            assert await echoes(place)


async def test_it_may_be_asked_to_exit_while_it_starts() -> None:
    async def never(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with unix_origin(never) as at:
        waiting = Listener("g", (abstract(),), (FilterChain(HttpManager("g", gate="gate")),), bind_to_port=False)
        async with running(Configuration((waiting,), (Cluster("gate", "STATIC", (at,)),))) as it:
            assert it.server.state() == "INITIALIZING"


# The console


async def test_the_console_answers_at_its_address(ordinary: Path) -> None:
    path = ordinary / "console"
    told = ordinary / "told"
    configuration = Configuration((), (), Admin(Pipe(str(path))))
    async with running(configuration, admin_address_path=str(told)):
        assert path.stat().st_mode & 0o777 == 0o600
        assert told.read_text() == str(path)
        assert await fetch(path, "/ready", timeout=5) == (200, b"LIVE\n")
    with pytest.raises(OSError, match="onnect"):
        await fetch(path, "/ready", timeout=5)


async def test_the_console_s_mode_may_be_configured(ordinary: Path) -> None:
    path = ordinary / "console"
    async with running(Configuration((), (), Admin(Pipe(str(path), 0o660)))):
        assert path.stat().st_mode & 0o777 == 0o660


async def test_a_port_of_the_console_is_told_without_a_scheme(tmp_path: Path) -> None:
    told = tmp_path / "told"
    configuration = Configuration((), (), Admin(SocketAddress("127.0.0.1", 0)))
    async with running(configuration, admin_address_path=str(told)):
        host, _, port = told.read_text().rpartition(":")
        assert (host, int(port) > 0) == ("127.0.0.1", True)


async def test_an_address_that_cannot_be_told_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    configuration = Configuration((), (), Admin(abstract()))
    async with running(configuration, admin_address_path="/no/such/directory/a") as it:
        assert it.server.state() == "LIVE"
    assert "/no/such/directory/a" in caplog.text


async def test_a_failed_health_check_is_a_state_until_it_is_taken_back() -> None:
    async with running(Configuration((), ())) as it:
        it.server.fail_health(True)
        assert (it.server.state(), it.stat("server.live")) == ("DRAINING", 0)
        it.server.fail_health(False)
        assert (it.server.state(), it.stat("server.live")) == ("LIVE", 1)


async def test_a_failed_health_check_before_it_serves_is_no_drain() -> None:
    it = Stand(Configuration((), ()))
    it.server.fail_health(True)
    assert it.server.state() == "PRE_INITIALIZING"
    await it.traffic.close()


async def test_a_snapshot_has_the_gauges_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    place = abstract()
    async with running(Configuration((echo("a", place),), ())) as it:
        _, writer = await connect(place)
        await turns()
        later = clock.calendar().timestamp() + 100
        monkeypatch.setattr("agent.sidecar.server.clock.calendar", lambda: _Then(later))
        gauges = it.server.snapshot().gauges
        assert (gauges["server.total_connections"], gauges["server.state"]) == (1, 0)
        assert 100 <= gauges["server.uptime"] <= 101
        writer.close()
        await turns()


class _Then:
    def __init__(self, moment: float) -> None:
        self._moment = moment

    def timestamp(self) -> float:
        return self._moment


async def test_a_version_has_envoy_s_five_parts() -> None:
    it = Stand(Configuration((), ()))
    assert it.server.version.count("/") == 4
    assert it.server.first_started_at == it.server.started_at
    await it.traffic.close()


# Draining


async def test_listeners_close_at_once_or_after_the_drain_time() -> None:
    place = abstract()
    async with running(Configuration((echo("a", place),), ())) as it:
        it.server.drain_listeners(graceful=False, inbound_only=False, skip_exit=False)
        assert not await echoes(place)
        assert it.stat("listener_manager.listener_stopped") == 1
    async with running(Configuration((echo("a", place),), ()), drain_time=60) as it:
        it.server.drain_listeners(graceful=True, inbound_only=False, skip_exit=False)
        await asyncio.sleep(30)
        it.server.drain_listeners(graceful=True, inbound_only=False, skip_exit=False)
        assert await echoes(place)
        await asyncio.sleep(31)
        assert not await echoes(place)
        assert it.stat("listener_manager.listener_stopped") == 1


async def test_only_inbound_listeners_may_be_closed() -> None:
    places = [abstract(), abstract()]
    configuration = Configuration((echo("a", places[0], inbound=True), echo("b", places[1])), ())
    for graceful in (False, True):
        async with running(configuration, drain_time=1) as it:
            it.server.drain_listeners(graceful=graceful, inbound_only=True, skip_exit=False)
            await asyncio.sleep(2)
            assert [await echoes(each) for each in places] == [False, True]
            assert it.stat("listener_manager.listener_stopped") == 1


@pytest.mark.parametrize("skip_exit", [True, False])
async def test_clients_are_drained_even_if_listeners_stay(skip_exit: bool) -> None:
    place = abstract()
    hosts = (VirtualHost("v", ("*",), (Route("/", Reply(200, b"ok")),)),)
    web = Listener("w", (place,), (FilterChain(HttpManager("h", hosts)),))
    async with running(Configuration((web,), ()), drain_time=1) as it:
        it.server.drain_listeners(graceful=True, inbound_only=False, skip_exit=skip_exit)
        reader, writer = await connect(place)
        writer.write(get("/"))
        assert b"connection: close" in await reader.readuntil(b"ok")
        writer.close()
        await asyncio.sleep(5)
        with contextlib.suppress(ConnectionRefusedError):
            (await connect(place))[1].close()
        assert it.stat("listener_manager.listener_stopped") == (0 if skip_exit else 1)


async def test_an_exit_does_not_wait_for_a_drain() -> None:
    loop = asyncio.get_running_loop()
    async with running(Configuration((echo("a", abstract()),), ()), drain_time=60) as it:
        it.server.drain_listeners(graceful=True, inbound_only=False, skip_exit=False)
    assert loop.time() < 1
    assert not [each for each in loop._scheduled if not each.cancelled()]  # type: ignore[attr-defined]


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_and_is_named(number: signal.Signals, caplog: pytest.LogCaptureFixture) -> None:
    async with running(Configuration((), ())) as it:
        os.kill(os.getpid(), number)
        assert it.running is not None
        await it.running
    assert f"{number.name}: exiting" in caplog.messages


async def test_other_signals_reopen_the_log_or_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Configuration((), ())) as it:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGHUP)
        await turns()
        assert it.log.reopened == 1
        assert it.running is not None
        assert not it.running.done()
    assert any("SIGHUP" in each for each in caplog.messages)


# The predecessor and the successor


async def test_sockets_of_a_predecessor_are_used_all_of_them(restart: type[Restart]) -> None:
    doors = []
    for _ in range(2):
        made = socket.create_server(("127.0.0.1", 0))
        made.setblocking(False)
        doors.append(made)
    ports = [each.getsockname()[1] for each in doors]
    restart.inherited = {"tcp://127.0.0.1:1": doors}
    configuration = Configuration((echo("a", SocketAddress("127.0.0.1", 1)), echo("b", abstract())), ())
    async with running(configuration, disable_hot_restart=False) as it:
        [predecessor] = restart.made
        assert predecessor.told[0] == "join"
        assert predecessor.told[1] == "inherit tcp://127.0.0.1:1"
        assert predecessor.told[2].startswith("inherit unix://@")
        assert predecessor.told[3:] == ["stats", "serve"]
        assert predecessor.arguments is it.arguments
        for port in ports:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"x")
                client.setblocking(False)
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b"x"
        await turns()
        assert it.server.first_started_at == 1000.0
    assert predecessor.told[-1] == "close"


async def test_counters_of_a_predecessor_are_added_where_they_are_known(restart: type[Restart]) -> None:
    restart.counters = {"listener_manager.listener_added": 10, "no.such.counter": 5, "server.live": 9}
    async with running(Configuration((echo("a", abstract()),), ()), disable_hot_restart=False) as it:
        assert it.stat("listener_manager.listener_added") == 11
        assert "no.such.counter" not in it.stats.read().counters
        assert it.stat("server.live") == 1


async def test_a_predecessor_without_counters_is_no_failure(
    restart: type[Restart], caplog: pytest.LogCaptureFixture
) -> None:
    restart.counters = None
    async with running(Configuration((), ()), disable_hot_restart=False) as it:
        assert it.server.state() == "LIVE"
    assert any("the parent does not answer" in each for each in caplog.messages)


async def test_a_successor_gets_sockets_and_counts(restart: type[Restart]) -> None:
    places = [abstract(), abstract()]
    async with running(Configuration((echo("a", *places),), ()), disable_hot_restart=False) as it:
        part = restart.made[0].part
        descriptors = [part.share(each.place) for each in places]
        assert all(each is not None for each in descriptors)
        assert len({*descriptors}) == 2
        assert part.share(ListenAddress("unix://@nobody")) is None
        counters, gauges = part.stats()
        assert counters["listener_manager.listener_added"] == 1
        assert gauges["server.live"] == 1
        assert part.stats()[0] == {}
        part.drain()
        assert not await echoes(places[0])
        assert it.stat("listener_manager.listener_stopped") == 1
        assert part.share(places[0].place) is None


async def test_a_successor_replaces_the_console(restart: type[Restart], ordinary: Path) -> None:
    path = ordinary / "console"
    configuration = Configuration((), (), Admin(Pipe(str(path))))
    async with running(configuration, disable_hot_restart=False):
        part = restart.made[0].part
        part.shutdown_admin()
        part.shutdown_admin()
        await turns()
        with pytest.raises(OSError, match="onnect"):
            await fetch(path, "/ready", timeout=5)


async def test_a_successor_may_end_it(restart: type[Restart]) -> None:
    async with running(Configuration((), ()), disable_hot_restart=False) as it:
        restart.made[0].part.terminate()
        assert it.running is not None
        await it.running
