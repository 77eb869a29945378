import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.cli.request import request
from agent.http.message import Request, Response
from agent.status.control import NAME
from tests.cli.told import ask, telling
from tests.status.sample import overview
from tests.system.eventually import PATIENCE

NO_TEXT = bytes(range(256)) * 1000 + b"no newline"


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("GET", "stats"), "method=GET&target=%2Fstats"),
        (("get", "/stats?filter=a b&x=%20"), "method=GET&target=%2Fstats%3Ffilter%3Da+b%26x%3D%2520"),
        (("POST", "logging?level=debug", "--epoch", 7), "method=POST&target=%2Flogging%3Flevel%3Ddebug&epoch=7"),
        (("GET", "/"), "method=GET&target=%2F"),
    ],
    ids=["no slash", "a query", "an epoch", "the root"],
)
async def test_the_request_is_passed_on_as_it_was_meant(
    arguments: tuple[object, ...], asked: str, tmp_path: Path
) -> None:
    async with telling(tmp_path, overview(), lambda _: Response(200, b"fine")) as agent:
        ran = await ask(request, *arguments, place=tmp_path)
    assert (ran.code, ran.out, ran.err) == (0, "fine", "")
    assert agent.asked == [f"POST /request?{asked}"]


async def test_the_answer_comes_byte_for_byte(tmp_path: Path) -> None:
    code = "from agent.cli.request import request; request()"
    command = [sys.executable, "-c", code, "GET", "/stats", "--run-dir", str(tmp_path)]
    async with telling(tmp_path, overview(), lambda _: Response(200, NO_TEXT)), asyncio.timeout(PATIENCE):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, NO_TEXT)


@pytest.mark.parametrize("status", [404, 500, 302])
async def test_another_status_is_exit_code_1_with_the_body_where_it_always_is(status: int, tmp_path: Path) -> None:
    async with telling(tmp_path, overview(), lambda _: Response(status, b"no such thing\n")):
        ran = await ask(request, "GET", "nothing", place=tmp_path)
    assert (ran.code, ran.out) == (1, "no such thing\n")
    assert ran.err == f"agent: GET /nothing is answered with {status}\n"


async def test_no_content_is_fine(tmp_path: Path) -> None:
    async with telling(tmp_path, overview(), lambda _: Response(204)):
        ran = await ask(request, "POST", "healthcheck/ok", place=tmp_path)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


async def test_an_answer_that_breaks_off_is_no_success(tmp_path: Path) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"the first half"
        raise OSError

    def answer(_: Request) -> Response:
        return Response(200, half(), (("content-type", "text/plain"), ("transfer-encoding", "chunked")))

    async with telling(tmp_path, overview(), answer):
        ran = await ask(request, "GET", "stats", place=tmp_path)
    assert (ran.code, ran.out) == (1, "the first half")
    assert ran.err.startswith("agent: cannot read the rest of the answer: ")


async def test_without_an_agent_it_says_so(tmp_path: Path) -> None:
    ran = await ask(request, "GET", "stats", place=tmp_path / "none")
    assert (ran.code, ran.out) == (1, "")
    assert f"cannot reach an agent at {tmp_path}/none: there is no such directory" in ran.err


async def test_a_run_directory_that_is_not_ours_is_said(ordinary: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(ordinary / NAME))
        (ordinary / NAME).chmod(0)
        ran = await ask(request, "GET", "stats", place=ordinary)
    assert ran.code == 1
    assert "permission denied; run this as root or as the agent's user" in ran.err


async def test_an_agent_that_hangs_up_is_said(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / NAME))
        listener.listen()
        listener.setblocking(False)
        asking = asyncio.create_task(ask(request, "GET", "stats", place=tmp_path))
        client, _ = await asyncio.get_running_loop().sock_accept(listener)
        client.close()
        ran = await asking
    assert ran.code == 1
    assert ran.err.startswith(f"agent: cannot ask the agent at {tmp_path}: ")
