from dataclasses import replace
from datetime import timedelta

import pytest
from rich.text import Text

from agent.cli.history_view import details, rows
from agent.cli.table import Table
from agent.status.model import AttemptView, Change, Evidence, Phase, ProbeResult
from tests.cli.sheets import lines, sheet, styles
from tests.status.sample import NOW

PLAIN = AttemptView(7, "certificate", "serving", "", NOW, "2d1e", "1d1e")
CLEAN = Evidence(0, 0, 0)
RIGHT = ProbeResult("tcp://[::]:1", "1f", matches=True)
WRONG = ProbeResult("tcp://[::]:1", "2f", matches=False)


def row(width: int = 400, /, **more: object) -> str:
    """The line of an attempt, below the head."""
    (_, line) = lines(lambda table: rows([replace(PLAIN, **more)], 7, table), width)  # type: ignore[arg-type]
    return line


def facts(**more: object) -> dict[str, str]:
    """The details of an attempt, by their names; of several with one name the last."""
    found = lines(lambda table: details([replace(PLAIN, **more)], 7, table))  # type: ignore[arg-type]
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in found}


# One line each


def test_without_attempts_there_is_one_line_and_no_head() -> None:
    (line,) = lines(lambda table: rows([], 7, table))
    assert "trigger" not in line


def test_attempts_are_lines_below_a_head_in_their_order() -> None:
    table = sheet()
    rows([replace(PLAIN, epoch=number) for number in (12345, 8, 7)], 7, table)
    assert [line.plain.split()[2] for line in table.lines[1:]] == ["12345", "8", "7"]
    assert [line.plain.index("certificate") for line in table.lines[1:]] == [table.lines[0].plain.index("trigger")] * 3
    assert str(table.lines[0].style) == "dim"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "2026-05-04 12:00:00Z 7 certificate serving"),
        ({"phases": (Phase("start", 0.095), Phase("drain", 70))}, "2026-05-04 12:00:00Z 7 certificate serving 95 ms"),
        ({"phases": (Phase("start", 1),), "outcome": "running"}, "2026-05-04 12:00:00Z 7 certificate running"),
        (
            {"reason": "no \x1b[2J such file", "outcome": "failed"},
            "2026-05-04 12:00:00Z 7 certificate failed no ?[2J such file",
        ),
        ({"outcome": "full_moon"}, "2026-05-04 12:00:00Z 7 certificate full_moon"),
        (
            {"changes": (Change("web", None, "1f" * 10), Change("api", "2a", None))},
            "2026-05-04 12:00:00Z 7 certificate serving web none -> 1f1f1f1f…; api 2a -> none",
        ),
        ({"evidence": CLEAN}, "2026-05-04 12:00:00Z 7 certificate serving"),
        ({"evidence": Evidence(9, None, None, (RIGHT,), 0, 0)}, "2026-05-04 12:00:00Z 7 certificate serving"),
    ],
)
def test_a_line_has_what_happened_and_no_more(more: dict[str, object], line: str) -> None:
    assert row(400, **more) == line


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (Evidence(0, 1, 0), ["1 overflow"]),
        (Evidence(0, 2, 1200), ["2 overflows", "1,200 drops"]),
        (Evidence(0, 0, 0, (), 1200), ["1,200 cut"]),
        (Evidence(0, 0, 0, (), 0, 5), ["5"]),
        (Evidence(0, 0, 0, (RIGHT, WRONG)), ["certificate"]),
        (Evidence(0, 1, 1, (WRONG,), 1, 1), ["1 overflow", "1 drop", "1 cut", "1", "certificate"]),
    ],
)
def test_every_loss_stands_in_the_line(evidence: Evidence, words: list[str]) -> None:
    losses = row(evidence=evidence).removeprefix("2026-05-04 12:00:00Z 7 certificate serving ").split("; ")
    assert len(losses) == len(words)
    assert all(word in loss for word, loss in zip(words, losses, strict=True))


@pytest.mark.parametrize("width", [60, 80, 110])
def test_a_long_reason_ends_in_an_ellipsis_at_the_edge(width: int) -> None:
    table = sheet(width)
    rows([replace(PLAIN, reason="x" * 200), PLAIN], 7, table)
    assert (len(table.lines[1].plain), table.lines[1].plain[-1]) == (width, "…")
    assert not table.lines[2].plain.endswith(" ")


@pytest.mark.parametrize(
    ("outcome", "style"),
    [
        ("serving", "green"),
        ("running", "cyan"),
        ("refused", "red"),
        ("failed", "red"),
        ("short", "yellow"),
        ("dropped", "dim"),
    ],
)  # fmt: skip
def test_an_outcome_has_its_colour(outcome: str, style: str) -> None:
    for draw, expected in ((rows, style), (details, f"bold {style}")):
        table = sheet(terminal=True)
        draw([replace(PLAIN, outcome=outcome)], 7, table)
        shown = {"dropped": "superseded"}.get(outcome, outcome)
        assert (shown, expected) in [each for line in table.lines for each in styles(line)]


# All details


def test_attempts_are_told_apart_by_a_blank_line() -> None:
    found = lines(lambda table: details([PLAIN, replace(PLAIN, epoch=8)], 7, table))
    assert [at for at, line in enumerate(found) if not line] == [4]
    assert [line for line in found if line.startswith("epoch")] == ["epoch 7: serving", "epoch 8: succeeded"]
    assert lines(lambda table: details([], 7, table)) == []


def test_the_reason_stands_below_the_outcome() -> None:
    found = lines(lambda table: details([replace(PLAIN, reason="no such file")], 7, table))
    assert found[:2] == ["epoch 7: serving", "no such file"]


def test_an_attempt_without_evidence_has_three_facts() -> None:
    assert facts() == {
        "epoch": "7: serving", "began": "2026-05-04 12:00:00Z", "trigger": "certificate", "revision": "1d1e -> 2d1e",
    }  # fmt: skip
    assert facts(before=None)["revision"] == "none -> 2d1e"


def test_serials_are_not_shortened_and_phases_are_all_there() -> None:
    found = facts(
        changes=(Change("web", "1f" * 20, None), Change("api", None, "2f" * 20)),
        phases=(Phase("start", 0.08), Phase("judge", 0.004), Phase("drain", 70.0)),
    )
    assert found["certificate"] == f"api: serial none -> {'2f' * 20}"
    assert found["took"] == "84 ms: start 80 ms, judge 4 ms, drain 70 s"
    assert "served" not in found


def test_the_time_since_the_change_is_there() -> None:
    found = facts(
        changed_at=PLAIN.began_at - timedelta(seconds=0.2), phases=(Phase("start", 0.08), Phase("drain", 70.0))
    )
    assert found["served"] == "280 ms after the change on disk was noticed"


@pytest.mark.parametrize(
    ("evidence", "name", "words"),
    [
        (CLEAN, "queued", ["0 clients"]),
        (Evidence(1, 0, 0), "queued", ["1 client "]),
        (Evidence(0, 1, 2), "kernel", ["1 listen overflow,", "2 listen drops"]),
        (Evidence(0, None, None), "kernel", ["listen overflows", "listen drops"]),
        (Evidence(0, 0, 0, (), 0), "cut", ["0 connections"]),
        (Evidence(0, 0, 0, (), 1200), "cut", ["1,200 connections"]),
        (Evidence(0, 0, 0, (), 0, 1), "its", ["1 connection"]),
        (Evidence(0, 0, 0, (RIGHT,)), "seen", ["1f", "tcp://[::]:1"]),
        (Evidence(0, 0, 0, (WRONG,)), "seen", ["2f", "tcp://[::]:1", "not"]),
        (Evidence(0, 0, 0, (ProbeResult("unix:///s", None, False, "refused"),)), "seen", ["unix:///s: refused"]),
        (Evidence(0, 0, 0, (ProbeResult("unix:///s", None, False),)), "seen", ["unix:///s: "]),
    ],
)
def test_evidence_is_told(evidence: Evidence, name: str, words: list[str]) -> None:
    text = facts(evidence=evidence)[name]
    assert [word for word in words if word not in text] == []
    assert "None" not in text


def test_what_is_not_known_yet_is_not_said_to_be_zero() -> None:
    assert "0" not in facts(evidence=Evidence(0, None, None))["kernel"]
    assert "0" not in facts(evidence=CLEAN)["cut"]
    assert "its" not in facts(evidence=CLEAN)
    assert "cut" not in facts(evidence=CLEAN, before=None)
    assert "cut" in facts(evidence=Evidence(0, 0, 0, (), 0), before=None)


@pytest.mark.parametrize(
    ("evidence", "part", "style"),
    [
        (Evidence(0, 0, 0, (), 1), "1 connection", "yellow"),
        (Evidence(0, 0, 0, (), 0), "0 connections", ""),
        (Evidence(0, 0, 0, (), 0, 2), "2 connections", "yellow"),
        (Evidence(0, 0, 0, (), 1, 0), "cut 0 connections", ""),
        (Evidence(0, 0, 0, (RIGHT,)), "1f", "green"),
        (Evidence(0, 0, 0, (WRONG,)), "2f", "red"),
    ],
)
def test_what_was_lost_or_wrong_has_a_colour(evidence: Evidence, part: str, style: str) -> None:
    table: Table = sheet(terminal=True)
    details([replace(PLAIN, evidence=evidence)], 7, table)
    found: list[Text] = [line for line in table.lines if part in line.plain]
    assert [each for words, each in styles(found[0]) if part in words] == ([style] if style else [])


def test_a_push_has_its_own_number_behind_that_of_its_epoch() -> None:
    pushed = (Phase("apply", 0.006), Phase("verify", 0.002))
    assert "7.2 certificate succeeded 8 ms" in " ".join(row(push=2, phases=pushed).split())
    table = sheet()
    details([replace(PLAIN, push=2), PLAIN], 7, table)
    heads = [line.plain for line in table.lines if line.plain.startswith("epoch")]
    assert heads == ["epoch 7, push 2: succeeded", "epoch 7: serving"]
