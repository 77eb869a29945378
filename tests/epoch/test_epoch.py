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
