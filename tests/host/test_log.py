import asyncio
import json
import logging
import os
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from agent.host.log import LogEvent, configure, log_event, subscribe, tell

OPEN: list[int] = []


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)  # also resets the loggers' cache of enabled levels
    while OPEN:
        os.close(OPEN.pop())


class Written:
    """The file of the log."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("log")
        OPEN.append(self.descriptor)

    def getvalue(self) -> str:
        return os.pread(self.descriptor, 1 << 20, 0).decode()


def written(style: Literal["text", "json"], level: str = "info") -> Written:
    stream = Written()
    configure(style, level, stream.descriptor)
    return stream


def one(stream: Written) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    made: dict[str, Any] = json.loads(line)
    return made


def test_an_event_is_a_line_for_people() -> None:
    stream = written("text")
    log_event(logging.WARNING, "certificate.refused", "cannot use a: b", fault="expired", epoch=3)
    stamp, rest = stream.getvalue().rstrip("\n").split(" ", 1)
    assert stamp.endswith("Z")
    assert rest == "WARN  certificate.refused  cannot use a: b fault=expired"


def test_an_event_is_json_with_opentelemetrys_names() -> None:
    stream = written("json")
    log_event(logging.ERROR, "epoch.died", "cannot go on: 100 %s", epoch=3, path=object)
    line = one(stream)
    assert list(line) == ["timestamp", "severityText", "severityNumber", "eventName", "body", "attributes"]
    assert (line["severityText"], line["severityNumber"], line["eventName"]) == ("ERROR", 17, "epoch.died")
    assert line["body"] == "cannot go on: 100 %s"
    assert line["attributes"]["epoch"] == 3


@pytest.mark.parametrize(
    ("level", "name", "number"),
    [
        (logging.DEBUG, "DEBUG", 5),
        (logging.INFO, "INFO", 9),
        (logging.WARNING, "WARN", 13),
        (logging.ERROR, "ERROR", 17),
    ],
)
def test_severities_are_opentelemetrys(level: int, name: str, number: int) -> None:
    stream = written("json", "debug")
    log_event(level, "x", "y")
    assert (one(stream)["severityText"], one(stream)["severityNumber"]) == (name, number)


def test_what_is_below_the_level_is_not_written() -> None:
    stream = written("text", "error")
    log_event(logging.WARNING, "x", "y")
    assert not stream.getvalue()


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_bug_comes_with_its_whole_story(style: Literal["text", "json"]) -> None:
    stream = written(style)
    try:
        int("the reason")
    except ValueError as error:
        log_event(logging.ERROR, "bug", "a task failed", error)
    assert "ValueError: invalid literal" in stream.getvalue()
    assert "test_log.py" in stream.getvalue()


def test_libraries_are_written_the_same_way() -> None:
    stream = written("json")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    assert one(stream)["eventName"] == "asyncio"
    assert one(stream)["body"] == "slow callback"


def test_a_line_of_json_stays_one_line() -> None:
    stream = written("json")
    log_event(logging.INFO, "x", "a\nb\u2028é")
    assert one(stream)["body"] == "a\nb\u2028é"


def test_a_log_without_a_reader_loses_lines_and_does_not_block() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, True)
    configure("text", "info", writing)
    for _ in range(5000):
        log_event(logging.INFO, "epoch.serving", "x" * 100)
    assert os.read(reading, 1 << 20).count(b"epoch.serving") < 5000
    log_event(logging.INFO, "epoch.serving", "the first that fits again")
    text = os.read(reading, 1 << 20).decode()
    assert "lines were lost" in text
    assert "the first that fits again" in text
    os.close(writing)
    os.close(reading)


def test_a_log_that_is_closed_costs_nothing() -> None:
    reading, writing = os.pipe()
    configure("text", "info", writing)
    os.close(reading)
    log_event(logging.INFO, "epoch.serving", "to nobody")
    os.close(writing)
    log_event(logging.INFO, "epoch.serving", "to nobody at all")


@pytest.mark.parametrize("style", ["text", "json"])
async def test_what_the_machine_is_short_of_is_one_line(style: Literal["text", "json"]) -> None:
    """Such as asyncio's error once a second about an accept(2) without a free descriptor."""
    stream = written(style)
    context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
    tell(asyncio.get_running_loop(), {**context, "socket": "<a socket>"})
    (line,) = stream.getvalue().splitlines()
    assert "machine.short" in line
    assert "socket.accept() out of system resource: Too many open files" in line
    assert "Traceback" not in line


async def test_any_other_complaint_of_a_loop_comes_with_its_whole_story() -> None:
    stream = written("text")
    try:
        raise KeyError("x")  # noqa: TRY301
    except KeyError as error:
        tell(asyncio.get_running_loop(), {"message": "a callback broke", "exception": error})
    assert "Traceback" in stream.getvalue()


def test_a_subscriber_receives_what_is_logged_meanwhile() -> None:
    received: list[LogEvent] = []
    log_event(logging.ERROR, "too.early", "before")
    with subscribe(received.append):
        log_event(logging.WARNING, "epoch.serving", "epoch 3 serves", epoch=3)
        log_event(logging.INFO, "rotation.done", "100 %s", duration=1.5)
    log_event(logging.ERROR, "too.late", "after")
    assert received == [
        LogEvent(logging.WARNING, "epoch.serving", "epoch 3 serves", 3),
        LogEvent(logging.INFO, "rotation.done", "100 %s", None),
    ]


def test_a_subscriber_receives_what_the_log_does_not_show() -> None:
    stream = written("text", "error")
    received: list[LogEvent] = []
    with subscribe(received.append):
        log_event(logging.INFO, "certificate.repaired", "usable again")
    assert stream.getvalue() == ""
    assert [each.name for each in received] == ["certificate.repaired"]


def test_a_subscription_ends_with_its_block_even_by_an_error() -> None:
    received: list[LogEvent] = []
    with pytest.raises(RuntimeError), subscribe(received.append):
        raise RuntimeError
    log_event(logging.INFO, "too.late", "after")
    assert received == []


def test_a_fact_without_a_value_is_left_out() -> None:
    stream = written("json")
    log_event(logging.ERROR, "epoch.died", "it died", epoch=None, path="/a")
    assert one(stream)["attributes"] == {"path": "/a"}


def test_facts_that_the_sentence_states_are_attributes_in_json_only() -> None:
    stated = {"duration": 0.25, "phases": {"launch": 0.1}}
    stream = written("json")
    log_event(logging.INFO, "rotation.done", "it took 0.25 s", stated=stated, epoch=3)
    assert one(stream)["attributes"] == {"epoch": 3, **stated}
    stream = written("text")
    log_event(logging.INFO, "rotation.done", "it took 0.25 s", stated=stated, epoch=3)
    assert stream.getvalue().rstrip().endswith("it took 0.25 s")


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 3)],
)
@pytest.mark.parametrize("style", ["text", "json"])
def test_the_journal_gets_a_priority_before_each_line(
    monkeypatch: pytest.MonkeyPatch, style: Literal["text", "json"], level: int, priority: int
) -> None:
    stream = Written()
    status = os.fstat(stream.descriptor)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    configure(style, "debug", stream.descriptor)
    log_event(level, "epoch.died", "it died", ValueError("why"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == (1 if style == "json" else 2)
    assert all(line.startswith(f"<{priority}>") for line in lines)


@pytest.mark.parametrize("stream_name", ["", "1:2", "nonsense", "9:9:9"])
def test_another_stream_gets_no_priority(monkeypatch: pytest.MonkeyPatch, stream_name: str) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream_name)
    stream = written("text")
    log_event(logging.ERROR, "epoch.died", "it died")
    assert not stream.getvalue().startswith("<")
