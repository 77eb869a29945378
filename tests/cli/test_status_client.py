import asyncio
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import click
import pytest

from agent.cli import status_client
from agent.cli.status_client import ask, look, of_the_group, place, read, run_dir
from agent.control_client.run_dir import NoAgent
from agent.core.errors import MachineError
from agent.http.message import Response
from agent.status.control import NAME
from agent.status.model import Blocked, Status, document
from tests.cli.told import ask as in_a_thread
from tests.cli.told import telling
from tests.status.sample import NOW, overview

# Reading


def told(**changes: object) -> str:
    return json.dumps(json.loads(document(overview())) | changes)


def test_every_field_is_read_as_it_was() -> None:
    assert read(document(overview()).decode()) == overview()
    empty = Status(NOW, "1", 1, NOW, True, "", "", None)
    assert read(document(empty).decode()) == empty


def test_values_have_their_types() -> None:
    found = read(told(paused_until="2026-05-04T14:00:00.500+02:00"))
    assert found.paused_until == NOW.replace(microsecond=500_000)
    assert (type(found.blocked[0]), found.blocked) == (Blocked, (Blocked.REFUSED_FILES,))


def test_a_newer_agents_fields_are_ignored_and_its_words_kept() -> None:
    tree = json.loads(told(weather={"fine": [1]}, blocked=["full_moon", "paused"]))
    tree["epochs"][0] |= {"colour": "blue", "state": "resting"}
    found = read(json.dumps(tree))
    assert (found.blocked, found.epochs[0].state) == (("full_moon", Blocked.PAUSED), "resting")


def test_an_older_agents_missing_fields_have_their_defaults() -> None:
    tree = json.loads(document(replace(overview(), hung=True, watch="polling")))
    del tree["hung"], tree["watch"], tree["epochs"][0]["serials"], tree["certificates"][0]["in_sync"]
    found = read(json.dumps(tree))
    assert (found.hung, found.watch, found.epochs[0].serials, found.certificates[0].in_sync) == (
        False, "inotify", (), True,
    )  # fmt: skip


def test_a_text_of_the_agent_cannot_control_the_terminal() -> None:
    found = read(told(reason="\x1b[2J\nready", sentence="a\tb"))
    assert (found.reason, found.sentence) == ("?[2J?ready", "a\tb")


def test_a_null_is_no_value_wherever_it_stands() -> None:
    assert read(told(epoch=None, paused_until=None)).epoch is None


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "[]", "{}", '"x"', "5", "null x", "<html>", '{"at": 5}', "{", '{"at": "yesterday"}',
        told(epochs=5), told(epochs=[5]), told(at="2026"), told(at=[]), told(certificates=[{}]), told(blocked=[[]]),
        told(paused_until="soon"), told(rotations=[{"epoch": 1}]), told(listeners="xy"),
    ],
    ids=lambda text: text[:20] if len(text) < 100 else None,
)  # fmt: skip
def test_an_answer_that_is_no_status_is_an_error_of_the_machine(text: str) -> None:
    with pytest.raises(MachineError, match="cannot parse"):
        read(text)


# Asking


async def test_the_agent_is_asked_for_its_status(tmp_path: Path) -> None:
    async with telling(tmp_path, overview()) as agent:
        found = await asyncio.to_thread(look, str(tmp_path))
    assert (found, agent.asked) == (overview(), ["GET /status"])


@pytest.mark.parametrize("status", [404, 500, 204])
async def test_any_other_answer_is_an_error_with_its_number_and_text(status: int, tmp_path: Path) -> None:
    async with telling(tmp_path, overview(), lambda _: Response(status, b"" if status == 204 else b"not here")):
        ran = await in_a_thread(reading(ask), place=tmp_path)
    assert (ran.code, str(status) in ran.err, "not here" in ran.err) == (1, True, status != 204)


def test_an_agent_that_does_not_answer_is_named_by_its_pid(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / NAME))
        deaf.listen()
        with pytest.raises(MachineError, match=f"pid {os.getpid()}") as caught:
            ask(str(tmp_path), 0.05)
    assert not isinstance(caught.value, NoAgent)


def test_without_an_agent_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoAgent, match=str(tmp_path)):
        ask(str(tmp_path / "none"))


def reading(how: object) -> click.Command:
    """A command that asks."""

    @click.command()
    @run_dir
    @click.pass_context
    def command(ctx: click.Context, /, run_dir: Path | None) -> object:
        return how(place(ctx, run_dir))  # type: ignore[operator]

    return command


# Which directory


def group(result: list[object]) -> click.Group:
    @click.group()
    @run_dir
    def outer(run_dir: Path | None) -> None: ...

    @outer.command()
    @run_dir
    @click.pass_context
    def inner(ctx: click.Context, /, run_dir: Path | None) -> None:
        result[:] = [place(ctx, run_dir), of_the_group(ctx)]

    return outer


@pytest.mark.parametrize(
    ("arguments", "environment", "expected", "of_group"),
    [
        (["--run-dir", "/g", "inner", "--run-dir", "/c"], None, "/c", Path("/g")),
        (["inner", "--run-dir", "/c"], None, "/c", None),
        (["--run-dir", "/g", "inner"], None, "/g", Path("/g")),
        (["inner"], "/e", "/e", Path("/e")),
        (["inner", "--run-dir", "/c"], "/e", "/c", Path("/e")),
    ],
)
def test_the_run_directory_of_the_command_wins_then_the_groups_then_the_variable(
    arguments: list[str], environment: str | None, expected: str, of_group: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENT_RUN_DIR", raising=False)
    if environment is not None:
        monkeypatch.setenv("AGENT_RUN_DIR", environment)
    result: list[object] = []
    group(result).main(arguments, standalone_mode=False)
    assert result == [expected, of_group]


def test_a_command_without_a_group_takes_the_usual_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_RUN_DIR", raising=False)
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/usual:/run/other")
    assert place(click.Context(click.Command("x")), None) == "/run/usual"
    assert of_the_group(click.Context(click.Command("x"))) is None
    assert status_client.place(click.Context(click.Command("x")), Path("/x")) == "/x"
