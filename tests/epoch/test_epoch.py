import asyncio
import json
import os
import secrets
import signal
import socket
from pathlib import Path

import pytest

from agent.core.errors import BadInput, MachineError
from agent.epoch import Epoch
from agent.epoch import run as run_epoch
from agent.epoch.arguments import Arguments, hot_restart_version, parse
from agent.handoff.gate import NAME, Gate, cluster, listener
from agent.handoff.segment import HotRestartVersion, Segment
from agent.handoff.socket_store import ListenAddress
from agent.proxies.envoy.admin_client import AdminClient
from agent.stats.layout import ENVIRONMENT
from agent.stats.reader import Segment as Statistics
from agent.stats.segment_file import reserve
from tests.epoch.minimal_epochs import answer, run, running
from tests.epoch.neighbours import Neighbour, neighbour
from tests.handoff import handmade
from tests.handoff.epochs import until
from tests.pki import Authority
from tests.system.eventually import PATIENCE

STARTED_AT = 1_600_000_000


def made(*arguments: str) -> Epoch:
    return Epoch(parse(arguments, "app"), "app")


def written(path: Path, tree: object) -> str:
    path.write_text(json.dumps(tree))
    return str(path)


# The order of calls


async def test_there_are_no_sockets_before_the_gate() -> None:
    async with made() as epoch:
        web = await epoch.listen("127.0.0.1", 0)
        with pytest.raises(RuntimeError, match="no sockets before"):
            web.sockets  # noqa: B018
        with pytest.raises(RuntimeError, match="the epoch is preparing"):
            await epoch.serve()
        await epoch.admitted()
        with pytest.raises(RuntimeError, match="the epoch is admitted"):
            await epoch.listen("127.0.0.1", 0)
        with pytest.raises(RuntimeError, match="the epoch is admitted"):
            await epoch.admitted()
        assert [each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in web.sockets] == [1]
    with pytest.raises(RuntimeError, match="the epoch is ending"):
        await epoch.__aenter__()


async def test_sigterm_ends_the_service_in_order() -> None:
    async with made() as epoch:
        await epoch.admitted()
        serving = asyncio.create_task(epoch.serve())
        await asyncio.sleep(0)
        assert not epoch.client_should_leave()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        assert epoch.is_draining
        await epoch.terminated()


async def test_sigterm_before_it_serves_ends_its_block_quietly() -> None:
    async with made():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_is_not_swallowed() -> None:
    lives = asyncio.Event()

    async def live() -> None:
        async with made():
            lives.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(live())
    await lives.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_clients_are_asked_to_leave_by_the_drain_strategy() -> None:
    for flags, expected in ((("--drain-strategy", "immediate"), True), (("--drain-time-s", "0"), True), ((), False)):
        async with made(*flags) as epoch:
            await epoch.admitted()
            serving = asyncio.create_task(epoch.serve())
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGTERM)
            await serving
            assert epoch.client_should_leave() is expected  # the drain of 600 s has just begun


async def test_clients_that_come_at_the_drain_are_left_to_the_successor() -> None:
    """Even if the server closes its sockets late, it accepts no client that it would not serve."""
    accepted: list[object] = []

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        writer.transport.abort()

    async with made() as epoch:
        web = await epoch.listen("127.0.0.1", 0)
        await epoch.admitted()
        (sock,) = web.sockets
        server = await asyncio.start_server(handle, sock=sock)
        serving = asyncio.create_task(epoch.serve())
        await asyncio.sleep(0)
        with sock.dup() as successors:
            epoch._drain()
            with socket.create_connection(successors.getsockname()):
                await serving
                await asyncio.sleep(0)
                server.close()
                successors.accept()[0].close()
        assert not accepted


async def test_an_address_that_is_held_is_an_error_before_the_gate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held, pytest.raises(MachineError, match="another process does"):
        async with made() as epoch:
            await epoch.listen(*held.getsockname())


async def test_a_certificate_that_does_not_match_its_key_is_an_error(tmp_path: Path) -> None:
    one, other = Authority.create("x").issue(["a"]), Authority.create("x").issue(["b"])
    (tmp_path / "crt").write_bytes(one.chain_pem)
    (tmp_path / "key").write_bytes(other.key_pem)
    async with made() as epoch:
        with pytest.raises(BadInput, match=r"cannot load .*crt with .*key: .*"):
            epoch.tls_context(str(tmp_path / "crt"), str(tmp_path / "key"))
        with pytest.raises(BadInput, match=r"cannot load .*nowhere"):
            epoch.tls_context(str(tmp_path / "nowhere"), str(tmp_path / "key"))


# A program


@pytest.mark.parametrize(
    ("flag", "code", "out", "err"),
    [
        ("--hot-restart-version", 0, f"{hot_restart_version()}\n", ""),
        ("--version", 0, "app  version: ", ""),
        ("--foo", 2, "", "app: cannot use --foo: not supported by app; see app --help\n"),
    ],
)
def test_it_answers_and_complains_at_once(
    flag: str, code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        Epoch.from_command_line(["/usr/bin/app", flag])
    said = capsys.readouterr()
    assert (caught.value.code, said.err) == (code, err)
    assert said.out.startswith(out)


async def test_validation_runs_all_that_comes_before_the_gate_and_binds_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        good = written(tmp_path / "good.yaml", {"listen": [{"port": held.getsockname()[1]}]})
        assert await run("-c", good, "--mode", "validate") == (0, "", "")
    tls = {"certificate_chain": {"filename": "/nowhere"}, "private_key": {"filename": "/nowhere"}}
    bad = written(tmp_path / "bad.yaml", {"listen": [{"port": 1, "tls": tls}]})
    code, _, err = await run("-c", bad, "--mode", "validate")
    assert (code, err) == (1, "cannot load /nowhere with /nowhere: No such file or directory\n")


async def test_without_an_agent_it_just_runs(tmp_path: Path) -> None:
    config = written(tmp_path / "c.yaml", {"listen": [{"path": str(tmp_path / "web")}], "body": "hello"})
    async with running("-c", config) as tiny:
        assert (await answer(tmp_path / "web")).endswith("hello")
        tiny.signal(signal.SIGTERM)
        assert await tiny.ended() == (0, "", "")


async def test_it_waits_at_the_gate_is_checked_by_its_admin_interface_and_serves_when_it_opens(
    tmp_path: Path, base_id: int
) -> None:
    """The agent's part, except for its own process."""
    leaf = Authority.create("x").issue(["a"])
    (tmp_path / "crt").write_bytes(leaf.chain_pem)
    (tmp_path / "key").write_bytes(leaf.key_pem)
    tls = {"certificate_chain": {"filename": str(tmp_path / "crt")}, "private_key": {"filename": str(tmp_path / "key")}}
    with socket.create_server(("127.0.0.1", 0)) as held:
        config = {
            "listen": [{"port": held.getsockname()[1], "tls": tls}, {"path": str(tmp_path / "web")}],
            "admin": {"address": {"pipe": {"path": str(tmp_path / "admin"), "mode": 0o600}}},
            "static_resources": {"clusters": [cluster(str(tmp_path / "gate"))], "listeners": [listener()]},
        }
        await _live(tmp_path, base_id, held, written(tmp_path / "c.yaml", config))


async def _live(tmp_path: Path, base_id: int, held: socket.socket, config: str) -> None:
    knocks: list[str] = []
    gate = Gate(tmp_path / "gate", lambda: knocks.append("knock"))
    await gate.shut(None)
    reserve(tmp_path / "stats")
    Segment(base_id).claim(HotRestartVersion.parse(hot_restart_version()))
    places = ListenAddress(f"tcp://127.0.0.1:{held.getsockname()[1]}"), ListenAddress(f"unix://{tmp_path}/web")
    flags = ["-c", config, "--restart-epoch", "1", "--base-id", str(base_id), "--socket-path", f"{tmp_path}/hr"]
    environment = {ENVIRONMENT: str(tmp_path / "stats"), "PROXY_AGENT_EPOCH": "7"}
    with neighbour(f"{tmp_path}/hr", base_id, 0) as before, neighbour(f"{tmp_path}/hr", base_id, 2) as after:
        async with running(*flags, "--parent-shutdown-time-s", "0", environment=environment) as tiny:
            gate.pid = tiny.pid
            await _is_handed_over(before, places, held)
            await until(lambda: knocks)
            await _is_judged(tmp_path, places)
            assert before.is_quiet("parent")
            gate.open()
            await before.expect("parent", handmade.DRAIN_LISTENERS)
            await before.expect("parent", handmade.TERMINATE)
            await _serves_and_drains(tmp_path, after)
            after.send("parent", 1, handmade.TERMINATE)
            assert await tiny.ended() == (0, "", "")
    await gate.close()
    statistics = Statistics.open(tmp_path / "stats")
    assert statistics.header.epoch == 7
    assert statistics.read().counters["http.tiny.downstream_rq_total"] == 1
    statistics.close()
    assert not list(tmp_path.glob("hr_*_1")), "its own names are gone"


async def _is_handed_over(before: Neighbour, places: tuple[ListenAddress, ListenAddress], held: socket.socket) -> None:
    await before.expect("parent", handmade.SHUTDOWN_ADMIN)
    before.send("child", 1, handmade.reply(2, handmade.number(1, STARTED_AT)))
    await before.expect("parent", handmade.pass_listen_socket(places[0].address))
    before.send("child", 1, handmade.SOCKET_REPLY, descriptors=(held.fileno(),))
    await before.expect("parent", handmade.pass_listen_socket(places[1].address))
    before.send("child", 1, handmade.NO_SOCKET_REPLY)


async def _is_judged(directory: Path, places: tuple[ListenAddress, ListenAddress]) -> None:
    console = AdminClient(directory / "admin")
    assert await console.waits_only_for_gate()
    assert NAME in await answer(directory / "admin", "GET /init_dump HTTP/1.1")
    (loaded,) = await console.certificates()
    assert loaded.path == str(directory / "crt")
    assert await console.listeners() == set(places)
    assert "503" in await answer(directory / "admin", "GET /ready HTTP/1.1")


async def _serves_and_drains(directory: Path, after: Neighbour) -> None:
    console = AdminClient(directory / "admin")
    assert "LIVE" in await answer(directory / "admin", "GET /ready HTTP/1.1")
    assert NAME not in await answer(directory / "admin", "GET /init_dump HTTP/1.1")
    reader, writer = await asyncio.open_unix_connection(directory / "web")
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"ok\n")
    assert await console.connections() == 1
    after.send("parent", 1, handmade.DRAIN_LISTENERS)
    await until(lambda: _refuses(directory / "web"))
    assert "DRAINING" in await answer(directory / "admin", "GET /server_info HTTP/1.1")
    assert await console.listeners() == set()
    assert await console.connections() == 1
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(PATIENCE):
        while await console.connections():  # received in a turn of its own loop
            pass


def _refuses(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        return False


async def test_sigterm_at_the_gate_ends_a_candidate_with_0_and_leaves_the_serving_one_alone(
    tmp_path: Path, base_id: int
) -> None:
    knocks: list[str] = []
    gate = Gate(tmp_path / "gate", lambda: knocks.append("knock"))
    await gate.shut(None)
    config = {"listen": [], "static_resources": {"clusters": [cluster(str(tmp_path / "gate"))]}}
    prefix = f"@epoch-{secrets.token_hex(4)}"
    Segment(base_id).claim(HotRestartVersion.parse(hot_restart_version()))
    flags = ["--restart-epoch", "1", "--base-id", str(base_id), "--socket-path", prefix]
    with neighbour(prefix, base_id, 0) as before:
        async with running("-c", written(tmp_path / "c.yaml", config), *flags) as tiny:
            gate.pid = tiny.pid
            await before.expect("parent", handmade.SHUTDOWN_ADMIN)
            before.send("child", 1, handmade.reply(2))
            await until(lambda: knocks)
            tiny.signal(signal.SIGTERM)
            assert await tiny.ended() == (0, "", "")
        assert before.is_quiet("parent")
    assert Segment(base_id).path.read_bytes()[-8:] == bytes(8)
    Segment(base_id).release()
    await gate.close()


def test_a_command_line_without_a_chain_joins_none() -> None:
    assert not Arguments().given
    assert parse(["--base-id", "1"], "app").given == {"base_id"}


# In this process


async def test_the_configuration_and_the_number_are_those_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROXY_AGENT_EPOCH", raising=False)
    config = written(tmp_path / "c.yaml", {"body": "hello"})
    async with made("-c", config, "--config-yaml", "{more: 1}", "--mode", "validate", "--restart-epoch", "3") as epoch:
        assert epoch.configuration == {"body": "hello", "more": 1}
        assert epoch.number == 3
        monkeypatch.setenv("PROXY_AGENT_EPOCH", "17")
        assert epoch.number == 17


async def test_validation_in_a_block_ends_it_at_the_gate_and_binds_nothing(tmp_path: Path) -> None:
    loop, reached = asyncio.get_running_loop(), []
    with socket.create_server(("127.0.0.1", 0)) as held:
        async with made("--mode", "validate") as epoch:
            web = await epoch.listen(*held.getsockname())
            await epoch.listen_unix(str(tmp_path / "web"))
            assert web.address == f"tcp://127.0.0.1:{held.getsockname()[1]}"
            reached.append("gate")
            await epoch.admitted()
            reached.append("behind it")
    assert reached == ["gate"]
    assert not (tmp_path / "web").exists()
    assert not loop.remove_signal_handler(signal.SIGTERM)


async def test_a_rehearsal_in_a_block_binds_what_is_free_and_ends_at_the_gate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held, socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
        other.close()
        async with made("--mode", "init_only") as epoch:
            await epoch.listen(*held.getsockname())
            await epoch.listen("127.0.0.1", free)
            with pytest.raises(OSError, match="in use"), socket.socket() as another:
                another.bind(("127.0.0.1", free))
            await epoch.admitted()
            raise AssertionError
        with socket.socket() as another:
            another.bind(("127.0.0.1", free))


async def test_a_rehearsal_fails_where_an_address_cannot_be_bound() -> None:
    with pytest.raises(MachineError, match=r"192\.0\.2\.1:1: Cannot assign requested address"):
        async with made("--mode", "init_only") as epoch:
            await epoch.listen("192.0.2.1", 1)  # TEST-NET-1, RFC 5737


async def test_an_error_in_a_block_is_raised_and_everything_is_closed() -> None:
    made_sockets: list[socket.socket] = []

    async def fail() -> None:
        async with made() as epoch:
            web = await epoch.listen("127.0.0.1", 0)
            await epoch.admitted()
            made_sockets.extend(web.sockets)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert [each.fileno() for each in made_sockets] == [-1]
    assert not asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def test_a_console_that_cannot_be_opened_ends_the_epoch_before_it_begins(tmp_path: Path) -> None:
    for address in ({"pipe": {"path": f"{tmp_path}/none/admin"}}, {"socket_address": {"address": "::1"}}):
        with pytest.raises((MachineError, BadInput)):
            async with made("--config-yaml", json.dumps({"admin": {"address": address}})):
                pytest.fail("it has begun")
    assert not asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


def gated(directory: Path) -> str:
    return json.dumps({
        "static_resources": {"clusters": [cluster(str(directory / "gate"))], "listeners": [listener()]},
        "admin": {"address": {"pipe": {"path": str(directory / "admin")}}},
    })  # fmt: skip


async def test_it_waits_at_the_gate_in_a_state_that_its_console_shows(tmp_path: Path) -> None:
    reached: asyncio.Queue[None] = asyncio.Queue()
    gate = Gate(tmp_path / "gate", lambda: reached.put_nowait(None))
    gate.pid = os.getpid()
    await gate.shut(None)
    try:
        async with made("--config-yaml", gated(tmp_path)) as epoch:
            assert epoch.configuration == {}
            web = await epoch.listen("127.0.0.1", 0)
            waiting = asyncio.ensure_future(epoch.admitted())
            async with asyncio.timeout(PATIENCE):
                await reached.get()
            waits, state = epoch._facts.waits_at_gate, epoch._facts.state
            assert (waits, state) == (True, "INITIALIZING")
            with pytest.raises(RuntimeError, match="no sockets"):
                web.sockets  # noqa: B018
            gate.open()
            await waiting
            assert not epoch._facts.waits_at_gate
            assert len(web.sockets) == 1
            serving = asyncio.ensure_future(epoch.serve())
            await until(lambda: epoch._facts.state == "LIVE")
            before = epoch.is_draining
            epoch._drain()
            await serving
            assert (before, epoch.is_draining, epoch._facts.state) == (False, True, "DRAINING")
            await epoch.serve()
    finally:
        await gate.close()
    assert not (tmp_path / "admin").exists()


async def test_a_gate_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=f"{tmp_path}/gate"):
        async with made("--config-yaml", gated(tmp_path)) as epoch:
            await epoch.admitted()


async def test_a_successor_takes_the_console_and_a_second_one_finds_none(tmp_path: Path) -> None:
    address = json.dumps({"admin": {"address": {"pipe": {"path": str(tmp_path / "admin")}}}})
    async with made("--config-yaml", address) as epoch:
        assert (tmp_path / "admin").is_socket()
        for _ in range(2):
            epoch._part().shutdown_admin()
        await until(lambda: not (tmp_path / "admin").exists())


async def test_a_successor_is_given_sockets_by_their_addresses_and_statistics_since_it_asked() -> None:
    async with made() as epoch:
        web = await epoch.listen("127.0.0.1", 0)
        await epoch.admitted()
        part, place = epoch._part(), ListenAddress(web.address)
        given = part.share(place)
        assert given is not None
        assert os.path.sameopenfile(given, web.sockets[0].fileno())
        assert part.share(ListenAddress("tcp://127.0.0.1:1")) is None
        requests = epoch.stats.counter("requests")
        part.stats()
        requests.add(2)
        counters, gauges = part.stats()
        assert counters == {"requests": 2}
        assert not any(gauges.values())
        assert part.stats()[0] == {}


async def test_clients_leave_more_and_more_probably_while_it_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    now, dice = [100.0], [0.5]
    monkeypatch.setattr("agent.host.clock.monotonic", lambda: now[0])
    monkeypatch.setattr("random.random", lambda: dice[0])
    async with made("--drain-time-s", "10") as epoch:
        await epoch.admitted()
        assert not epoch.client_should_leave()
        epoch._drain()
        answers = []
        for now[0] in (100.0, 104.9, 105.1, 109.0, 110.0):
            answers.append(epoch.client_should_leave())
        assert answers == [False, False, True, True, True]
        now[0], dice[0] = 109.0, 0.95
        assert not epoch.client_should_leave()


@pytest.mark.parametrize("arguments", [("--drain-strategy", "immediate"), ("--drain-time-s", "0")], ids=" ".join)
async def test_clients_leave_at_once_where_that_is_wanted(arguments: tuple[str, str]) -> None:
    async with made(*arguments) as epoch:
        await epoch.admitted()
        assert not epoch.client_should_leave()
        epoch._drain()
        assert epoch.client_should_leave()


async def test_a_drain_before_the_gate_is_none() -> None:
    async with made() as epoch:
        epoch._drain()
        assert not epoch.is_draining
        await epoch.admitted()


def test_a_main_that_ends_is_exit_0_and_an_error_of_ours_is_its_words(tmp_path: Path) -> None:
    served: list[Epoch] = []

    async def main(epoch: Epoch) -> None:
        served.append(epoch)

    with pytest.raises(SystemExit) as ended:
        run_epoch(main, ["app", "--config-yaml", "{a: 1}"])
    assert ended.value.code == 0
    assert [epoch.configuration for epoch in served] == [{"a": 1}]
    with pytest.raises(SystemExit) as ended:
        run_epoch(main, ["app", "-c", f"{tmp_path}/none"])
    assert f"{tmp_path}/none" in str(ended.value.code)
    assert len(served) == 1
