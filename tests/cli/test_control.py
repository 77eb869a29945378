import asyncio
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from agent.cli import control
from agent.core.errors import MachineError
from agent.status.actions import OperationResult, Progress
from agent.status.control import NAME
from tests.cli.orders import order
from tests.status.acting import Acting, controlled
from tests.system.eventually import PATIENCE

CANDIDATE = Progress(0.0123, "epoch 8 starts")


def test_help_lists_every_order() -> None:
    ran = asyncio.run(order("--help"))
    for command in ("drain", "pause", "restart", "resume", "stop", "upgrade", "wait"):
        assert re.search(rf"^  {command} +[A-Z]", ran.out, re.MULTILINE)


# restart


async def test_a_restart_prints_its_timeline_and_exits_0_if_the_new_epoch_serves(tmp_path: Path) -> None:
    actions = Acting(CANDIDATE, Progress(1.5, "its gate opens"), OperationResult("serving", 8))
    async with controlled(tmp_path, actions):
        ran = await order("restart", "--binary", "--force", "--now", place=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "   0.012 s  epoch 8 starts\n   1.500 s  its gate opens\nepoch 8 serves\n"
    assert actions.asked == ["restart binary force now"]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (OperationResult("refused", None, "the key does not fit"), "agent: cannot restart: the key does not fit\n"),
        (OperationResult("overtaken", 8), "agent: cannot restart: overtaken\n"),
        (MachineError("no memory for another epoch"), "agent: cannot restart: no memory for another epoch\n"),
    ],
    ids=["refused", "another word", "an error"],
)
async def test_a_restart_that_does_not_serve_exits_1_with_the_reason(
    end: OperationResult | Exception, said: str, tmp_path: Path
) -> None:
    async with controlled(tmp_path, Acting(CANDIDATE, end)):
        ran = await order("restart", place=tmp_path)
    assert (ran.code, ran.out, ran.err) == (1, "   0.012 s  epoch 8 starts\n", said)


async def test_a_restart_prints_progress_at_once(tmp_path: Path) -> None:
    """Through a pipe, as systemd and scripts read it."""
    said = asyncio.Event()

    class Slow(Acting):
        async def _tell(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            yield CANDIDATE
            await said.wait()
            yield OperationResult("serving", 8)

    async with controlled(tmp_path, Slow()):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from agent.cli.control import restart; restart()", "--run-dir", str(tmp_path),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert b"epoch 8 starts" in await process.stdout.readline()
            said.set()
            assert (await process.stdout.read(), await process.wait()) == (b"epoch 8 serves\n", 0)


async def test_json_is_the_agents_answer(tmp_path: Path) -> None:
    async with controlled(tmp_path, Acting(CANDIDATE, OperationResult("refused", 8, "why not"))):
        ran = await order("restart", "--json", place=tmp_path)
    assert [json.loads(line) for line in ran.out.splitlines()] == [
        {"at": 0.0123, "text": "epoch 8 starts"},
        {"outcome": "refused", "epoch": 8, "reason": "why not"},
    ]
    assert (ran.code, ran.err) == (1, "agent: cannot restart: why not\n")


async def test_after_the_first_line_the_agent_may_be_slow(tmp_path: Path) -> None:
    async with controlled(tmp_path, Acting()):
        exchange = await asyncio.to_thread(control._reach, str(tmp_path))
        before = exchange.deadline
        await asyncio.to_thread(control._expect_timeline, exchange, "/restart")
        after = exchange.deadline
        exchange.close()
    assert before is not None
    assert after is None


async def test_an_agent_that_goes_away_in_the_middle_is_no_success(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions) as room:
        ran = asyncio.create_task(order("restart", place=tmp_path))
        async with asyncio.timeout(PATIENCE):
            await actions.asked_something.wait()
        await room.close()
        ended = await ran
    assert (ended.code, ended.out) == (1, "")
    assert "cannot restart: the agent exited before it reported the result" in ended.err


async def test_where_no_agent_runs_every_order_says_so(tmp_path: Path) -> None:
    said = f"agent: cannot reach an agent at {tmp_path}/r: there is no such directory; start one"
    names = ("restart", "upgrade", "stop", "pause", "resume", "drain")
    for name, ran in zip(
        names, await asyncio.gather(*(order(name, place=tmp_path / "r") for name in names)), strict=True
    ):
        assert (ran.code, ran.out) == (1, ""), name
        assert ran.err.startswith(said), name


async def test_the_run_directory_may_stand_before_the_order_or_in_the_environment(tmp_path: Path) -> None:
    actions = Acting()
    async with controlled(tmp_path, actions):
        assert (await order("--run-dir", tmp_path, "resume")).code == 0
        assert (await order("--run-dir", tmp_path, "drain", "--no-wait")).code == 0
        assert (await order("resume", AGENT_RUN_DIR=str(tmp_path))).code == 0
    assert actions.asked == ["resume", "drain", "resume"]


# upgrade


async def test_an_upgrade_has_gone_well_when_the_new_program_is_ready(tmp_path: Path) -> None:
    actions = Acting(Progress(0.2, "the new program can take over"), OperationResult("executing"))
    async with controlled(tmp_path, actions):
        ran = await order("upgrade", place=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "   0.200 s  the new program can take over\nthe new agent serves\n"
    assert actions.asked == ["upgrade", "ready"]


async def test_a_failed_upgrade_reports_why(tmp_path: Path) -> None:
    timeline = (OperationResult("executing"), OperationResult("failed", None, "the new program does not start"))
    async with controlled(tmp_path, Acting(*timeline)):
        ran = await order("upgrade", place=tmp_path)
    assert (ran.code, ran.err) == (1, "agent: cannot upgrade: the new program does not start\n")


# stop, pause, resume

_STOPPING = """
import asyncio, sys
from pathlib import Path
from tests.status.acting import Acting, controlled

async def main():
    actions = Acting()
    async with controlled(Path(sys.argv[1]), actions):
        print("here", flush=True)
        await actions.asked_something.wait()
        print(actions.asked, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def test_stop_comes_back_when_the_agent_has_gone(tmp_path: Path) -> None:
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _STOPPING, str(tmp_path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert agent.stdin is not None
    assert agent.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await agent.stdout.readline() == b"here\n"
        stopping = asyncio.create_task(order("stop", place=tmp_path))
        assert await agent.stdout.readline() == b"['stop']\n"
        assert (await asyncio.wait({stopping}, timeout=0.3))[0] == set()
        agent.stdin.close()
        assert await agent.wait() == 0
        ran = await stopping
    assert (ran.code, ran.out, ran.err) == (0, f"stopping\npid {agent.pid} has exited\n", "")


@pytest.mark.parametrize(
    ("arguments", "asked", "said"),
    [
        (("stop", "--no-wait"), "stop", "stopping\n"),
        (("pause",), "pause 600", "rotations are paused for 600 s\n"),
        (("pause", "--for", "1m30s"), "pause 90", "rotations are paused for 90 s\n"),
        (("resume",), "resume", "rotations resume\n"),
    ],
    ids=" ".join,
)
async def test_an_order_is_given_and_its_answer_printed(
    arguments: tuple[str, ...], asked: str, said: str, tmp_path: Path
) -> None:
    actions = Acting()
    async with controlled(tmp_path, actions):
        ran = await order(*arguments, place=tmp_path)
    assert (ran.code, ran.out, ran.err) == (0, said, "")
    assert actions.asked == [asked]


async def test_an_order_that_is_not_followed_exits_1_with_the_reason(tmp_path: Path) -> None:
    actions = Acting()
    actions.refusal = MachineError("the agent is stopping")
    async with controlled(tmp_path, actions):
        ran = await order("pause", place=tmp_path)
    assert (ran.code, ran.err) == (1, "agent: cannot pause: the agent is stopping\n")


async def test_an_agent_that_turns_us_away_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / NAME))
        listener.listen()
        ordered = asyncio.create_task(order("resume", place=tmp_path))
        listener.setblocking(False)
        async with asyncio.timeout(PATIENCE):
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
        client.close()
        ran = await ordered
    assert ran.code == 1
    assert f"agent: cannot resume: no answer from pid {os.getpid()}: " in ran.err
