"""`agent drain` and `agent wait`, each before an agent that answers what a test tells it to."""

import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.control_client import client, commands
from agent.control_client.commands import run
from agent.control_client.run_dir import NoAgent
from agent.core.errors import MachineError, UsageError
from tests.control_client.fake_agent import Clock, Hook, answering_each, at_path

OK = b"HTTP/1.1 200 OK\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(commands, "time", made)
    monkeypatch.setattr(client, "time", made)
    return made


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be where the agent of AGENT_RUN_DIR has its control socket."""
    monkeypatch.setenv("AGENT_RUN_DIR", str(tmp_path))
    return tmp_path / "control"


def target(request: bytes) -> str:
    """Return method and target of a request."""
    return request.decode().partition(" HTTP/1.")[0]


# agent drain


@pytest.mark.parametrize("head", [OK, ACCEPTED])
def test_a_drain_prints_what_the_agent_answers(head: bytes, control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering_each(at_path(control), [[head, b"3 connections\n", b"ended\n"]]) as heard:
        commands.drain([])
    assert [target(each) for each in heard] == ["POST /drain"]
    assert capsys.readouterr().out == "3 connections ended\n"


def test_a_drain_that_is_not_waited_for_is_asked_for_as_such(control: Path) -> None:
    with answering_each(at_path(control), [[ACCEPTED]]) as heard:
        commands.drain(["--no-wait"])
    assert target(heard[0]) == "POST /drain?wait=0"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([BUSY, b"it stops already\n"], "it stops already"),
        ([BUSY], "503"),
        ([b"HTTP/1.1 201 Created\r\n\r\n"], "201"),
        ([b"HTTP/1.1 404 Not Found\r\n\r\n", b"\n\n"], "404"),
    ],
)
def test_another_answer_to_a_drain_is_an_error_with_the_agents_reason(
    answer: list[bytes], reason: str, control: Path
) -> None:
    with answering_each(at_path(control), [answer]), pytest.raises(MachineError, match=reason):
        commands.drain([])


def test_a_drain_without_a_timeout_is_waited_for_as_long_as_it_takes(control: Path, clock: Clock) -> None:
    with answering_each(at_path(control), [[OK, clock.passes(1e9), b"ended\n"]]):
        commands.drain([])


def test_a_drain_beyond_its_timeout_is_an_error_that_names_it(control: Path, clock: Clock) -> None:
    with (
        answering_each(at_path(control), [[OK, clock.passes(3.1), b"still "]]),
        pytest.raises(MachineError, match=r"3s.*continues"),
    ):
        commands.drain(["--timeout", "3s"])


def test_an_agent_that_hangs_up_leaves_the_end_of_a_drain_unknown(control: Path) -> None:
    with answering_each(at_path(control), [[b"HTTP/1."]]), pytest.raises(MachineError, match="how the drain ended"):
        commands.drain([])


def test_a_drain_where_no_agent_is_names_the_directory(tmp_path: Path) -> None:
    with pytest.raises(NoAgent, match=str(tmp_path)):
        commands.drain([f"--run-dir={tmp_path}"])


# agent wait


def test_a_wait_asks_the_agent_to_answer_once_it_is_ready(
    control: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering_each(at_path(control), [[OK, b"ready\n"]]) as heard:
        commands.wait([])
    assert target(heard[0]) == "GET /ready?wait=60.000"
    assert capsys.readouterr().out == "ready\n"
    assert clock.slept == []


def test_a_wait_asks_again_after_a_moment_until_the_agent_is_ready(control: Path, clock: Clock) -> None:
    answers: list[list[bytes | Hook]] = [[BUSY, b"no epoch serves\n"], [clock.passes(2.0)], [OK]]
    with answering_each(at_path(control), answers) as heard:
        commands.wait(["--timeout", "10s"])
    assert [target(each) for each in heard] == [
        "GET /ready?wait=10.000",
        "GET /ready?wait=9.950",
        "GET /ready?wait=7.900",
    ]
    assert clock.slept == [0.05, 0.05]


@pytest.mark.parametrize(
    ("body", "reason"), [(b"no epoch serves\n", "no epoch serves"), (b"", "503")], ids=["told", "untold"]
)
def test_a_wait_that_ends_in_vain_names_its_timeout_and_the_last_reason(
    body: bytes, reason: str, control: Path, clock: Clock
) -> None:
    answers: list[list[bytes | Hook]] = [[BUSY, b"another reason\n"], [clock.passes(10.0), BUSY + body]]
    with answering_each(at_path(control), answers), pytest.raises(MachineError, match=rf"10s.*{reason}"):
        commands.wait(["--timeout", "10s"])


def test_a_wait_never_sleeps_beyond_its_timeout(control: Path, clock: Clock) -> None:
    answers = [[BUSY], [BUSY], [BUSY]]
    with answering_each(at_path(control), answers) as heard, pytest.raises(MachineError, match="80ms"):
        commands.wait(["--timeout", "80ms"])
    assert clock.slept == [0.05, 0.03]
    assert target(heard[2]) == "GET /ready?wait=0.000"


def test_a_wait_that_slept_beyond_its_timeout_asks_once_more_for_an_answer_at_once(control: Path, clock: Clock) -> None:
    clock.on_sleep = clock.passes(0.3)
    with answering_each(at_path(control), [[BUSY], [OK]]) as heard:
        commands.wait(["--timeout", "80ms"])
    assert target(heard[1]) == "GET /ready?wait=0.000"


@pytest.mark.parametrize(("late", "reason"), [(0.4, "no epoch serves"), (0.6, "does not answer in time")])
def test_the_reason_may_come_half_a_second_after_the_timeout(
    late: float, reason: str, control: Path, clock: Clock
) -> None:
    answers: list[list[bytes | Hook]] = [[clock.passes(10.0 + late), BUSY, b"no epoch serves\n"]]
    with answering_each(at_path(control), answers), pytest.raises(MachineError, match=reason):
        commands.wait(["--timeout", "10s"])


def test_a_wait_waits_for_the_agent_itself(control: Path, clock: Clock) -> None:
    with ExitStack() as stack:

        def appear() -> None:
            if len(clock.slept) == 3:
                stack.enter_context(answering_each(at_path(control), [[OK]]))

        clock.on_sleep = appear
        commands.wait(["--timeout", "10s"])
    assert clock.slept == [0.05, 0.05, 0.05]


def test_a_wait_for_an_agent_that_never_comes_says_that_there_is_none(control: Path, clock: Clock) -> None:
    with pytest.raises(MachineError, match=rf"1s.*{control.parent}"):
        commands.wait(["--timeout", "1s"])
    assert clock.now == pytest.approx(1001.0)


def test_an_agent_that_hangs_up_is_named_with_its_directory(control: Path, clock: Clock) -> None:
    with (
        answering_each(at_path(control), [[clock.passes(10.0)]]),
        pytest.raises(MachineError, match=rf"{control.parent}.*does not answer"),
    ):
        commands.wait(["--timeout", "10s"])


# agent wait --url


def page() -> tuple[socket.socket, str]:
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}/healthz/ready"


def test_a_page_may_be_asked_in_place_of_the_agent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    listener, url = page()
    with answering_each(listener, [[BUSY, b"no\n"], [OK]]) as heard:
        commands.wait([f"--url={url}"])
    assert [target(each) for each in heard] == ["GET /healthz/ready"] * 2
    assert b"\r\nhost: 127.0.0.1\r\n" in heard[0]
    assert (clock.slept, capsys.readouterr().out) == ([0.05], "ready\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [([BUSY, b"no epoch serves\n"], "no epoch serves"), ([BUSY], "answers 503"), ([b"garbage"], "cannot read http:")],
)
def test_a_page_that_is_never_ready_is_named_with_its_last_answer(
    answer: Sequence[bytes], reason: str, clock: Clock
) -> None:
    listener, url = page()
    with (
        answering_each(listener, [[clock.passes(0.9), BUSY, b"another reason\n"], [clock.passes(0.1), *answer]]),
        pytest.raises(MachineError, match=rf"1s.*{reason}"),
    ):
        commands.wait(["--url", url, "--timeout", "1s"])


def test_a_page_has_a_second_to_answer_and_is_asked_again(clock: Clock) -> None:
    listener, url = page()
    with answering_each(listener, [[clock.passes(1.1), BUSY], [clock.passes(0.9), OK]]) as heard:
        commands.wait(["--url", url, "--timeout", "60s"])
    assert len(heard) == 2


def test_the_last_answer_of_a_page_is_not_waited_for_a_whole_second(clock: Clock) -> None:
    listener, url = page()
    with (
        answering_each(listener, [[clock.passes(0.8), BUSY, b"late\n"]]),
        pytest.raises(MachineError, match="does not answer in time"),
    ):
        commands.wait(["--url", url, "--timeout", "200ms"])


def test_a_page_that_nobody_serves_cannot_be_reached(clock: Clock) -> None:
    listener, url = page()
    listener.close()
    with pytest.raises(MachineError, match=rf"1s.*cannot reach {url}"):
        commands.wait(["--url", url, "--timeout", "1s"])


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "127.0.0.1:15020", "http://a:b/"])
def test_what_is_no_address_of_a_page_is_a_usage_error(url: str, clock: Clock) -> None:
    with pytest.raises(UsageError, match="cannot use the address"):
        commands.wait(["--url", url])


# Options


@pytest.mark.parametrize(
    ("arguments", "run_dir"),
    [
        (["--run-dir", "/given"], "/given"),
        (["--run-dir=/given"], "/given"),
        (["--run-dir=/a=b"], "/a=b"),
        (["--run-dir", "/first", "--run-dir", "/given"], "/given"),
        (["--run-dir", "--no-wait"], "--no-wait"),
        (["--run-dir", ""], "/environment"),
        ([], "/environment"),
    ],
)
def test_the_run_directory_is_the_given_one_or_that_of_the_environment(
    arguments: list[str], run_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_RUN_DIR", "/environment")
    with pytest.raises(NoAgent, match=f" at {run_dir}:"):
        commands.drain(arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("drain", ["--run-dir"], "--run-dir needs a value"),
        ("wait", ["--timeout", "1s", "--url"], "--url needs a value"),
        ("drain", ["--no-wait=yes"], "--no-wait=yes"),
        ("drain", ["--nowait"], "--nowait"),
        ("drain", ["now"], "now"),
        ("drain", ["--url", "http://a/"], "--url"),
        ("wait", ["--no-wait"], "--no-wait"),
        ("wait", ["--timeout=1s", ""], "agent wait"),
        ("wait", ["-t", "1s"], "-t"),
    ],
)
def test_an_option_that_is_not_there_is_named_with_the_help(name: str, arguments: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        {"drain": commands.drain, "wait": commands.wait}[name](arguments)
    assert f"agent {name} --help" in str(caught.value)


@pytest.mark.parametrize("name", ["drain", "wait"])
@pytest.mark.parametrize("span", ["", "soon", "0s", "-1s"])
def test_what_is_no_span_of_time_is_a_usage_error(name: str, span: str) -> None:
    with pytest.raises(UsageError, match="cannot use --timeout: "):
        {"drain": commands.drain, "wait": commands.wait}[name](["--timeout", span])


@pytest.mark.parametrize("span", ["1000000d", "9" * 400 + "s"])
def test_a_timeout_of_many_years_is_one(span: str, control: Path) -> None:
    with answering_each(at_path(control), [[OK]]):
        commands.drain(["--timeout", span])


@pytest.mark.parametrize(("name", "option"), [("drain", "--no-wait"), ("wait", "--url URL")])
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--timeout", "nonsense", "--help", "--bogus"]])
def test_help_is_shown_and_nothing_is_asked(
    name: str, option: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: agent {name} [OPTIONS]\n")
    assert option in shown
    assert shown.endswith("exit.\n")


@pytest.mark.parametrize("name", ["drain", "wait"])
def test_every_option_is_in_the_help(name: str) -> None:
    valued, flags = commands.OPTIONS[name]
    text = {"drain": commands.DRAIN_HELP, "wait": commands.WAIT_HELP}[name]
    assert [option for option in (*valued, *flags) if f"  {option} " not in text] == []


# Exit codes


def test_success_is_zero(control: Path, clock: Clock) -> None:
    with answering_each(at_path(control), [[OK], [OK]]):
        assert (run("drain", []), run("wait", [])) == (0, 0)


@pytest.mark.parametrize(("arguments", "code"), [([], 1), (["--bogus"], 2), (["--timeout", "soon"], 2)])
def test_an_error_is_printed_and_a_usage_error_has_its_own_code(
    arguments: list[str], code: int, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("drain", arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("agent: cannot ")
    assert printed.err.count("\n") == 1


def test_an_interrupt_is_one_and_quiet(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.on_sleep = interrupt
    assert run("wait", []) == 1
    assert capsys.readouterr() == ("", "")


def test_a_hook_without_a_standard_output_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run("wait", ["--help"]) == 0
