import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.history import history
from agent.status.model import Change, End, Evidence, Phase, ProbeResult, to_json
from tests.cli.told import ask, telling
from tests.status.sample import ago, overview

NEWEST, SEVEN, SIX, FOUR = overview().rotations


async def said(tmp_path: Path, *arguments: object) -> list[str]:
    """Return the lines of a history as long as the sample's."""
    async with telling(tmp_path, overview()):
        ran = await ask(history, *arguments, place=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    return ran.out.splitlines()


def test_every_attempt_of_the_sample_has_a_word() -> None:
    assert [each.outcome for each in (NEWEST, SEVEN, SIX, FOUR)] == ["running", "serving", "serving", "refused"]


async def test_there_is_a_line_for_each_newest_first(tmp_path: Path) -> None:
    lines = await said(tmp_path)
    assert [" ".join(line.split()) for line in lines] == [
        "began epoch trigger outcome took what",
        "2026-05-04 11:59:59Z 8 certificate running web 1f02 -> 1f03",
        "2026-05-04 11:58:59Z 7 certificate serving 95 ms web 1f01 -> 1f02",
        "2026-05-04 11:00:00Z 6 operator succeeded 90 ms 2 cut",
        "2026-05-04 09:58:20Z 4 configuration refused 300 ms cannot use envoy.yaml: envoy says:…",
    ]
    assert max(map(len, lines)) <= 100


async def test_what_was_lost_stands_in_the_line(tmp_path: Path) -> None:
    wrong = ProbeResult("tcp://0.0.0.0:1", "1f01", matches=False)
    told = replace(SEVEN, changes=(Change("web", "1f" * 20, None),), evidence=Evidence(0, 1, 2, (wrong,), 3))
    async with telling(tmp_path, replace(overview(), rotations=(told,))):
        ran = await ask(history, place=tmp_path)
    line = ran.out.splitlines()[1]
    assert "1 overflow; 2 drops; 3 cut; anothe" in line, "before the changes, which may be many"
    async with telling(tmp_path, replace(overview(), rotations=(replace(told, changes=()),))):
        ran = await ask(history, place=tmp_path)
    assert "1 overflow; 2 drops; 3 cut" in ran.out


def ended(cause: str, text: str) -> End:
    return End(ago(5), cause, text, 8.5, "serving")


@pytest.mark.parametrize(
    ("cause", "text", "shown"),
    [
        ("signal", "was killed by SIGKILL", "was killed by SIGKILL after 8.5 s"),
        ("memory", "was killed by SIGKILL", "ran out of memory after 8.5 s"),
        ("code", "exited with 0", "exited with 0 after 8.5 s"),
    ],
)
async def test_a_crash_is_told_apart_with_its_cause(cause: str, text: str, shown: str, tmp_path: Path) -> None:
    told = replace(SIX, evidence=None, end=ended(cause, text))
    for arguments in ((), ("--failed",)):
        async with telling(tmp_path, replace(overview(), rotations=(told,))):
            ran = await ask(history, *arguments, place=tmp_path)
        assert " ".join(ran.out.splitlines()[1].split()).endswith(f"6 operator crashed 90 ms {shown}")


@pytest.mark.parametrize("cause", ["asked", "killed"])
async def test_an_epoch_that_the_agent_ended_has_succeeded(cause: str, tmp_path: Path) -> None:
    told = replace(SIX, end=ended(cause, "exited with 0"))
    async with telling(tmp_path, replace(overview(), rotations=(told,))):
        assert " succeeded " in (await ask(history, place=tmp_path)).out
        assert "no matching" in (await ask(history, "--failed", place=tmp_path)).out
        one = (await ask(history, "6", place=tmp_path)).out
    assert "exited with 0 on request of the agent" in one


async def test_what_was_overtaken_is_superseded(tmp_path: Path) -> None:
    told = replace(SIX, outcome="dropped", evidence=None)
    async with telling(tmp_path, replace(overview(), rotations=(told,))):
        assert " superseded " in (await ask(history, place=tmp_path)).out


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [((), [8, 7, 6, 4]), (("-n", 2), [8, 7]), (("--failed",), [4]), (("6",), [6])],
    ids=["all", "two", "failed", "one"],
)
async def test_json_is_a_line_for_each(arguments: tuple[object, ...], epochs: list[int], tmp_path: Path) -> None:
    told = [json.loads(line) for line in await said(tmp_path, "--json", *arguments)]
    assert told == [to_json(each) for each in overview().rotations if each.epoch in epochs]


async def test_an_epoch_s_number_shows_everything_about_it(tmp_path: Path) -> None:
    told = replace(SEVEN, phases=(Phase("start", 0.08), Phase("judge", 0.004), Phase("drain", 70.0)))
    async with telling(tmp_path, replace(overview(), rotations=(NEWEST, told))):
        ran = await ask(history, 7, place=tmp_path)
    assert [" ".join(line.split()) for line in ran.out.splitlines()] == [
        "epoch 7: serving",
        "began 2026-05-04 11:58:59Z",
        "trigger certificate",
        "revision 1d1e2f3a4b5c -> 2d1e2f3a4b5c",
        "certificate web: serial 1f01 -> 1f02",
        "took 84 ms: start 80 ms, judge 4 ms, drain 70 s",
        "queued 3 clients waited at the commit",
        "kernel 0 listen overflows, 0 listen drops",
        "cut unknown yet: the previous epoch still drains",
        "seen serial 1f02 at tcp://0.0.0.0:15443, as expected",
    ]


async def test_verbose_shows_everything_about_each_and_cuts_no_reason(tmp_path: Path) -> None:
    text = "\n".join(await said(tmp_path, "-v"))
    assert re.findall(r"^epoch (\d+): (\w+)$", text, re.MULTILINE) == [
        ("8", "running"), ("7", "serving"), ("6", "succeeded"), ("4", "refused"),
    ]  # fmt: skip
    assert "cannot use envoy.yaml: envoy says: no such cluster <x>" in text
    assert "drain 12 s" in text


async def test_what_follows_nothing_cuts_nothing(tmp_path: Path) -> None:
    told = replace(SEVEN, before=None, evidence=Evidence(0, 0, 0, (), None))
    async with telling(tmp_path, replace(overview(), rotations=(told,))):
        ran = await ask(history, 7, place=tmp_path)
    assert "none -> 2d1e2f3a4b5c" in ran.out
    assert "cut " not in ran.out


async def test_an_unknown_kernel_counter_is_not_zero(tmp_path: Path) -> None:
    blind = ProbeResult("tcp://0.0.0.0:1", None, matches=False, error="connection refused")
    told = replace(SEVEN, evidence=Evidence(1, None, None, (blind,), 0))
    async with telling(tmp_path, replace(overview(), rotations=(told,))):
        ran = await ask(history, 7, place=tmp_path)
    text = " ".join(ran.out.split())
    assert "queued 1 client waited at the commit" in text
    assert "kernel listen overflows unknown, listen drops unknown" in text
    assert "cut 0 connections at the drain deadline" in text
    assert "seen no certificate at tcp://0.0.0.0:1: connection refused" in text


async def test_an_unknown_epoch_is_a_usage_error(tmp_path: Path) -> None:
    async with telling(tmp_path, overview()):
        ran = await ask(history, 5, place=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("agent: cannot show epoch 5: the agent has no record of it")


async def test_an_empty_history_is_said(tmp_path: Path) -> None:
    async with telling(tmp_path, replace(overview(), rotations=(SEVEN,))):
        ran = await ask(history, "--failed", place=tmp_path)
    assert (ran.code, ran.out) == (0, "no matching attempts recorded\n")
