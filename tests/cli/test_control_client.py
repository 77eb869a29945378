import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.status.control import NAME
from agent.status.health import Health
from tests.cli.orders import order
from tests.status.acting import Acting, controlled
from tests.system.eventually import PATIENCE

_IMPORTING = """
import sys
before = set(sys.modules)
import agent.entry, agent.control_client.commands
print(*(set(sys.modules) - before))
"""
_ALLOWED = {"agent", "agent.core", "agent.core.errors", "agent.entry", "agent.control_client"}


def test_the_quick_commands_import_next_to_nothing() -> None:
    ran = subprocess.run([sys.executable, "-c", _IMPORTING], capture_output=True, text=True, check=True)
    imported = {name for name in ran.stdout.split() if not name.startswith("agent.control_client.")}
    assert imported - _ALLOWED <= {"_socket", "time"}


@pytest.mark.parametrize("name", ["drain", "wait"])
async def test_help_is_printed_by_either_way(name: str) -> None:
    quick, listed = await asyncio.gather(order(name, "--help"), order("--log-level", "info", name, "-h"))
    assert quick == listed
    assert (quick.code, quick.err) == (0, "")
    assert quick.out.startswith(f"Usage: agent {name} [OPTIONS]\n")
    assert "--run-dir DIR" in quick.out
    assert max(map(len, quick.out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("drain", "--hard"), "cannot run agent drain: unknown argument --hard; see agent drain --help"),
        (("drain", "now"), "unknown argument now"),
        (("drain", "--no-wait=1"), "unknown argument --no-wait=1"),
        (("wait", "--timeout"), "--timeout needs a value"),
        (("wait", "--timeout", "60"), "cannot use --timeout: '60' is not a time span; write it like 45s"),
        (("wait", "--url", "https://a/"), "cannot use the address https://a/: write it like http://"),
    ],
    ids=" ".join,
)
async def test_what_cannot_be_meant_is_a_usage_error(arguments: tuple[str, ...], said: str) -> None:
    ran = await order(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("agent: cannot ")
    assert said in ran.err


# drain


async def test_a_drain_comes_back_when_it_has_ended(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions):
        draining = asyncio.create_task(order("drain", f"--run-dir={tmp_path}"))
        async with asyncio.timeout(PATIENCE):
            await actions.asked_something.wait()
        assert not draining.done()
        actions.may_go_on.set()
        ran = await draining
    assert (ran.code, ran.out, ran.err) == (0, "drained, no connection is left\n", "")
    assert actions.notes[0].startswith("drain was requested by ")


async def test_a_drain_comes_back_at_once_if_asked(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions):
        ran = await order("drain", "--no-wait", place=tmp_path)
        assert not actions.ended.is_set()
    assert (ran.code, ran.out) == (0, "draining\n")


async def test_a_drain_that_takes_longer_than_wanted_goes_on(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions):
        ran = await order("drain", "--timeout", "200ms", place=tmp_path)
        assert (ran.code, ran.out) == (1, "")
        assert "cannot wait any longer for the drain: it has not ended after 200ms, and continues" in ran.err
        actions.may_go_on.set()
        async with asyncio.timeout(PATIENCE):
            await actions.ended.wait()


async def test_a_refused_drain_reports_why(tmp_path: Path) -> None:
    actions = Acting()
    actions.refusal = MachineError("cannot drain: no epoch serves")
    async with controlled(tmp_path, actions):
        ran = await order("drain", place=tmp_path)
    assert (ran.code, ran.out, ran.err) == (1, "", "agent: cannot drain: no epoch serves\n")


# wait


async def test_wait_comes_back_as_soon_as_the_agent_is_ready(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions):
        waiting = asyncio.create_task(order("wait", place=tmp_path))
        async with asyncio.timeout(PATIENCE):
            await actions.asked_something.wait()
        actions.may_go_on.set()
        ran = await waiting
    assert (ran.code, ran.out, ran.err) == (0, "ready\n", "")
    assert actions.asked == ["ready"]


async def test_wait_waits_for_an_agent_that_is_not_there_yet(tmp_path: Path) -> None:
    """Its first attempt meets a server that closes the connection, and the second one may find no server at all."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / NAME))
        listener.listen()
        listener.setblocking(False)
        waiting = asyncio.create_task(order("wait", place=tmp_path))
        async with asyncio.timeout(PATIENCE):
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
    client.close()
    async with controlled(tmp_path, Acting()):
        ran = await waiting
    assert (ran.code, ran.out) == (0, "ready\n")


async def test_wait_gives_up_and_reports_why(tmp_path: Path) -> None:
    actions = Acting()
    actions.reason = "no certificate is usable yet"
    async with controlled(tmp_path, actions):
        ran = await order("wait", "--timeout", "100ms", place=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "agent: cannot wait any longer than 100ms for readiness: no certificate is usable yet\n"


async def test_wait_without_an_agent_reports_that(tmp_path: Path) -> None:
    ran = await order("wait", "--timeout", "1ms", place=tmp_path / "r")
    assert ran.code == 1
    assert f"for readiness: cannot reach an agent at {tmp_path}/r: there is no such directory" in ran.err


@pytest.mark.parametrize(("reason", "code"), [("", 0), ("no epoch serves", 1)])
async def test_wait_may_ask_a_page(reason: str, code: int, tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/healthz/ready"
    server = Server(Health(lambda: reason).answer)
    await server.start(listener)
    try:
        ran = await order("wait", "--url", url, "--timeout", "300ms")
    finally:
        await server.close()
    assert ran.code == code
    assert ran.err == (f"agent: cannot wait any longer than 300ms for readiness: {reason}\n" if reason else "")


async def test_wait_asks_a_page_again_until_it_is_good() -> None:
    asked = 0

    async def answer(_: Request) -> Response:
        nonlocal asked
        asked += 1
        return Response(200 if asked == 3 else 503, b"not yet\n")

    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(answer)
    await server.start(listener)
    try:
        ran = await order("wait", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}/")
    finally:
        await server.close()
    assert (ran.code, ran.out, asked) == (0, "ready\n", 3)
