import asyncio
import json
import os
import re
import socket
import sys
from pathlib import Path

import click
import pytest

from agent.cli import control
from agent.core.errors import MachineError
from agent.status.actions import OperationResult, Progress
from agent.status.control import NAME
from tests.cli.told import order
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
    for name in names:
        ran = await order(name, place=tmp_path / "r")
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


class Answering:
    """A control socket that answers every request with the same bytes."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.heard: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append((await reader.readuntil(b"\r\n")).decode().strip())
        for part in self.parts:
            writer.write(part)
        await writer.drain()
        writer.close()


def answer(status: int, body: str, *more: str) -> tuple[bytes, ...]:
    return (f"HTTP/1.0 {status} X\r\n\r\n".encode(), body.encode(), *(each.encode() for each in more))


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (200, "rotations go on", 0, ["rotations go on"]),
        (202, "soon", 0, ["soon"]),
        (400, "cannot resume: that is no time", 2, ["cannot resume: that is no time"]),
        (400, "nonsense", 1, ["resume", "nonsense"]),
        (409, "cannot resume: it stops", 1, ["cannot resume: it stops"]),
        (503, "", 1, ["resume", "503"]),
        (301, "elsewhere", 1, ["resume", "elsewhere"]),
    ],
)
async def test_an_answer_is_printed_or_is_the_reason(
    status: int, body: str, code: int, words: list[str], tmp_path: Path
) -> None:
    agent = Answering(*answer(status, body))
    async with await asyncio.start_unix_server(agent.serve, tmp_path / NAME):
        ran = await order("resume", place=tmp_path)
    assert (ran.code, agent.heard) == (code, ["POST /resume HTTP/1.0"])
    assert [word for word in words if word not in ran.out + ran.err] == []
    assert bool(ran.out) is (code == 0)


@pytest.mark.parametrize(
    ("lines", "code", "out"),
    [
        (('{"at": 1, "text": "a\\u001b[2J"}\n', '{"outcome": "serving", "epoch": 8}\n'), 0, ["1.000 s a?[2J", "8"]),
        (('{"outcome": "serving", "epoch": 8}\n', '{"outcome": "failed"}\n'), 1, []),
        (('{"outcome": "failed"}\n', '{"outcome": "serving", "epoch": 8}\n'), 0, ["8"]),
        (('{"at": 1, "text": "a"}\n', "{half"), 1, ["1.000 s a"]),
        (("{}\n",), 1, []),
        ((), 1, []),
    ],
)
async def test_a_timeline_ends_with_its_last_outcome(
    lines: tuple[str, ...], code: int, out: list[str], tmp_path: Path
) -> None:
    agent = Answering(*answer(200, "", *lines))
    async with await asyncio.start_unix_server(agent.serve, tmp_path / NAME):
        ran = await order("restart", place=tmp_path)
        raw = await order("restart", "--json", place=tmp_path)
    said = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert (ran.code, len(said), bool(ran.err)) == (code, len(out), code == 1)
    assert all(word in line for word, line in zip(out, said, strict=True))
    assert raw.out.splitlines() == [line.strip() for line in lines if line.endswith("\n")]
    assert raw.code == code


@pytest.mark.parametrize("name", ["restart", "upgrade"])
async def test_a_timeline_that_is_refused_or_not_begun_is_an_error(name: str, tmp_path: Path) -> None:
    for parts, words in ((answer(409, "cannot do it: it stops"), "it stops"), ((), f"pid {os.getpid()}")):
        agent = Answering(*parts)
        async with await asyncio.start_unix_server(agent.serve, tmp_path / NAME):
            ran = await order(name, place=tmp_path)
        (tmp_path / NAME).unlink(missing_ok=True)
        assert (ran.code, ran.out, words in ran.err) == (1, "", True)


async def test_an_upgraded_agent_that_does_not_become_ready_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_EXECUTION_TIMEOUT", "50ms")
    actions = Acting(OperationResult("executing"))
    actions.reason = "it adopts epoch 7"
    async with controlled(tmp_path, actions):
        ran = await order("upgrade", place=tmp_path)
    assert (ran.code, "new program" in ran.err) == (1, True)


async def test_an_agent_whose_process_cannot_be_watched_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(os, "pidfd_open", fail)
    async with controlled(tmp_path, Acting()):
        ran = await order("stop", place=tmp_path)
    assert (ran.code, ran.out) == (0, "stopping\n")


@pytest.mark.parametrize(
    ("command", "typed", "expected"),
    [("drain", "--t", ["--timeout"]), ("wait", "--u", ["--url"]), ("wait", "--he", ["--help"]), ("drain", "--x", [])],
)
def test_a_quick_command_completes_its_own_options(command: str, typed: str, expected: list[str]) -> None:
    quick = {"drain": control.drain, "wait": control.wait}[command]
    assert [each.value for each in quick.shell_complete(click.Context(quick), typed)] == expected
