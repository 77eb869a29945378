import asyncio
import io
import json
import re
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from agent.cli.status import _looks, _print_headlines, _print_lines, exit_code, status
from agent.cli.status_client import read
from agent.cli.status_view import draw
from agent.cli.table import Table, console
from agent.cli.watch_view import Screen
from agent.control_client.run_dir import NoAgent
from agent.core.errors import MachineError
from agent.http.message import Response
from agent.status.model import Blocked, End, Status, document
from tests.cli.told import ask, telling
from tests.status.sample import NOW, ago, overview

BOX = re.compile("[\u2500-\u259f]")


def drawn(told: Status, width: int = 80) -> str:
    """Return the output written to a pipe."""
    out = Console(file=io.StringIO(), width=width, highlight=False)
    sheet = Table(out)
    draw(told, sheet)
    return "\n".join(line.plain for line in sheet.lines)


def well() -> Status:
    """The sample without its problems."""
    web = overview().certificates[0]
    return replace(overview(), certificates=(web,), refused=(), blocked=(), out_of_sync_since=None)


def crashed(*seconds: float) -> Status:
    """The sample without its problems, but for crashes so many seconds ago."""
    one = well().rotations[1]
    ends = [End(ago(each), "signal", "was killed by SIGSEGV", 12.0, "serving") for each in seconds]
    return replace(well(), rotations=tuple(replace(one, epoch=3 - n, end=end) for n, end in enumerate(ends)))


def test_crashes_are_a_trouble_from_the_second_on() -> None:
    text = unwrapped(drawn(crashed(10, 60)))
    assert "2 crashes in the last hour, the last one 10 s ago: epoch 3 was killed by SIGSEGV after 12 s" in text
    assert "crashes in the last hour" not in drawn(crashed(10))


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def test_json_is_parsed_into_the_same_status() -> None:
    assert read(document(overview()).decode()) == overview()


def test_an_agent_that_is_newer_is_understood_as_far_as_it_goes() -> None:
    told = json.loads(document(overview()))
    told |= {"weather": "fine", "blocked": ["full_moon", "paused"]}
    told["epochs"][0]["colour"] = "blue"
    newer = read(json.dumps(told))
    assert newer.blocked == ("full_moon", Blocked.PAUSED)
    assert "full_moon" in drawn(newer)


def test_an_agent_that_is_older_is_understood_too() -> None:
    told = json.loads(document(well()))
    del told["hung"], told["epochs"][0]["serials"]
    assert not read(json.dumps(told)).hung


@pytest.mark.parametrize("answer", ["", "[]", "{}", '"x"', '{"at": 5}', "<html>"])
def test_what_is_no_overview_is_no_crash(answer: str) -> None:
    with pytest.raises(MachineError, match="cannot parse the agent's answer"):
        read(answer)


# The exit code


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (well(), 0),
        (replace(well(), ready=False, reason="it starts"), 1),
        (replace(overview(), ready=False, reason="it starts"), 1),
        (replace(well(), refused=overview().refused), 3),
        (replace(well(), out_of_sync_since=ago(1)), 3),
        (replace(well(), certificates=(replace(well().certificates[0], in_sync=False),)), 3),
        (replace(well(), hung=True), 3),
        (crashed(10), 0),
        (crashed(10, 3_500), 3),
        (crashed(10, 3_700), 0),
    ],
    ids=[
        "well",
        "not ready",
        "not ready and refused",
        "refused",
        "out of sync",
        "one set out of sync",
        "hung",
        "one crash",
        "two crashes",
        "one crash in the last hour",
    ],
)
def test_the_exit_code_is_the_answer(told: Status, code: int) -> None:
    assert exit_code(told) == code


async def test_the_command_says_it_and_exits_by_it(tmp_path: Path) -> None:
    async with telling(tmp_path, overview()) as agent:
        ran = await ask(status, place=tmp_path)
    assert (ran.code, ran.err, agent.asked) == (3, "", ["GET /status"])
    assert ran.out == drawn(overview()) + "\n"


async def test_json_is_what_the_agent_answers(tmp_path: Path) -> None:
    async with telling(tmp_path, overview()):
        ran = await ask(status, "--json", place=tmp_path)
    assert (ran.code, ran.out.encode()) == (3, document(overview()))


async def test_without_an_agent_it_says_so(tmp_path: Path) -> None:
    ran = await ask(status, place=tmp_path / "none")
    assert (ran.code, ran.out) == (1, "")
    assert f"cannot reach an agent at {tmp_path}/none: there is no such directory" in ran.err


async def test_an_agent_that_has_no_status_is_no_crash(tmp_path: Path) -> None:
    async with telling(tmp_path, overview(), lambda _: Response(404, b"there is no /status")):
        ran = await ask(status, place=tmp_path)
    assert (ran.code, ran.err) == (
        1, "agent: cannot read the agent's status: it answers 404: there is no /status\n",
    )  # fmt: skip


# The output for a person


def test_the_first_line_is_the_answer() -> None:
    assert drawn(overview()).splitlines()[0] == (
        "ready: epoch 7 serves, certificate until 2026-05-07 12:00Z (3 days left)"
    )
    down = replace(overview(), ready=False, reason="there is no certificate yet; write one into /etc/certs")
    assert drawn(down).startswith("not ready: there is no certificate yet; write one into /etc/certs\n")


def test_a_refused_file_is_explained_at_the_top_with_what_serves_instead() -> None:
    lines = drawn(overview()).splitlines()
    section = unwrapped("\n".join(lines[lines.index("refused") :][:6]))
    assert lines.index("refused") < 6
    for words in ("api: certificate and key do not belong together", overview().refused[0].message):
        assert words in section
    assert "serves serial 2a, until 2026-05-07 12:00Z, 3 days left" in section
    assert "on disk serial 2b, until 2026-08-02 12:00Z, 90 days left" in section


@pytest.mark.parametrize("width", [40, 80, 110])
def test_nothing_is_wider_than_the_terminal_and_no_reason_is_cut(width: int) -> None:
    why = f"cannot use /etc/{'long/' * 30}tls.crt: it is empty; write the PEM into it"
    told = replace(overview(), refused=(replace(overview().refused[0], message=why),))
    text = drawn(told, width)
    assert max(map(len, text.splitlines())) <= width
    assert why.replace(" ", "") in re.sub(r"\s", "", text)


def test_every_wait_is_explained_and_a_failure_named() -> None:
    failed = replace(overview().rotations[3], outcome="failed", reason="it died by SIGKILL")
    told = replace(overview(), blocked=tuple(Blocked), paused_until=NOW + timedelta(minutes=5), rotations=(failed,))
    text = unwrapped(drawn(told))
    assert text.count(" for ") >= len(Blocked)
    assert "after an attempt that failed: it died by SIGKILL" in text
    assert "agent resume ends it, 2026-05-04 12:05:00Z at the latest" in text
    assert not [each for each in Blocked if each in text and "_" in each]


def test_a_pipe_gets_neither_bars_nor_colours() -> None:
    text = drawn(overview())
    assert not BOX.search(text)
    assert "\x1b" not in text


def terminal(monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8", **variables: str) -> str:
    """Return the output written to a terminal."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80", **variables}.items():
        monkeypatch.setenv(name, value)
    sheet = Table(console())
    draw(replace(overview(), version="1.0\N{EM DASH}beta"), sheet)
    sheet.print()
    return raw.getvalue().decode(encoding)


def test_a_terminal_gets_a_bar_for_each_drain_and_each_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    text = terminal(monkeypatch)
    assert len([line for line in text.splitlines() if BOX.search(line)]) == 4
    assert "\x1b[32m" in text


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not re.search(r"\x1b\[[\d;]*3\d", terminal(monkeypatch, NO_COLOR="1"))


def test_a_terminal_without_unicode_gets_other_bars_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    text = terminal(monkeypatch, "latin-1")
    assert "######" in text
    assert "1.0?beta" in text


def test_a_name_cannot_steer_the_terminal() -> None:
    told = replace(overview(), refused=(replace(overview().refused[0], message="cannot use /x\x1b[2J\x07: no"),))
    assert "cannot use /x?[2J?: no" in drawn(told)


# Watching


def test_a_screen_shows_what_it_had_while_the_agent_is_away() -> None:
    screen = Screen(Console(file=io.StringIO(), width=80))
    screen.take(MachineError("there is no such directory"))
    assert [line.plain for line in screen.lines()] == ["no agent answers; waiting for it", "there is no such directory"]
    screen.take(document(overview()).decode())
    assert screen.lines()[0].plain.startswith("ready: epoch 7")
    screen.take(MachineError("it is gone"))
    shown = [line.plain for line in screen.lines()]
    assert shown[:2] == ["no agent answers; waiting for it", "it is gone"]
    assert any(line.startswith("ready: epoch 7") for line in shown)


def test_a_screen_that_is_too_small_says_so() -> None:
    out = Console(file=io.StringIO(), width=80, height=10)
    screen = Screen(out)
    screen.take(document(overview()).decode())
    rows = list(screen.__rich_console__(out, out.options.update(height=10)))
    assert len(rows) == 10
    assert re.match(r"… \d\d more lines", str(rows[-1]))


async def test_watching_survives_a_restart_of_the_agent(tmp_path: Path) -> None:
    looks = _looks(str(tmp_path), interval=0.0)
    assert isinstance(await asyncio.to_thread(next, looks), NoAgent)
    async with telling(tmp_path, well()):
        assert await asyncio.to_thread(next, looks) == document(well()).decode().strip()
    assert isinstance(await asyncio.to_thread(next, looks), NoAgent)
    async with telling(tmp_path, overview()):
        assert await asyncio.to_thread(next, looks) == document(overview()).decode().strip()
    looks.close()


async def test_watching_an_agent_without_a_status_ends_at_once(tmp_path: Path) -> None:
    async with telling(tmp_path, overview(), lambda _: Response(404, b"no")):
        ran = await ask(status, "--watch", place=tmp_path)
    assert (ran.code, ran.err) == (1, "agent: cannot read the agent's status: it answers 404: no\n")


def test_a_pipe_gets_a_line_whenever_the_answer_changes(capsys: pytest.CaptureFixture[str]) -> None:
    later = replace(well(), at=NOW + timedelta(days=1))
    looks: list[str | MachineError] = [document(each).decode() for each in (well(), later, overview())]
    _print_headlines(iter([*looks, NoAgent("it is gone"), NoAgent("it is gone")]))
    assert [line[22:] for line in capsys.readouterr().out.splitlines()] == [
        "ready: epoch 7 serves, certificate until 2026-07-03 12:00Z",
        "ready: epoch 7 serves, certificate until 2026-05-07 12:00Z; 1 file refused",
        "it is gone",
    ]


def test_json_lines_come_one_a_second_and_what_is_wrong_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    _print_lines(iter(["{}", NoAgent("it is gone")]))
    assert capsys.readouterr() == ("{}\n", "agent: it is gone\n")
