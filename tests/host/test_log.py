import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from agent.host.log import configure, say


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def written(style: Literal["text", "json"], level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(style, level, stream)
    return stream


def one(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    made: dict[str, Any] = json.loads(line)
    return made


def test_an_event_is_a_line_for_people() -> None:
    stream = written("text")
    say(logging.WARNING, "certificate.refused", "cannot use a: b", fault="expired", epoch=3)
    stamp, rest = stream.getvalue().rstrip("\n").split(" ", 1)
    assert stamp.endswith("Z")
    assert rest == "WARN  certificate.refused  cannot use a: b fault=expired"


def test_an_event_is_json_with_opentelemetrys_names() -> None:
    stream = written("json")
    say(logging.ERROR, "epoch.died", "cannot go on: 100 %s", epoch=3, path=object)
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
    say(level, "x", "y")
    assert (one(stream)["severityText"], one(stream)["severityNumber"]) == (name, number)


def test_what_is_below_the_level_is_not_written() -> None:
    stream = written("text", "error")
    say(logging.WARNING, "x", "y")
    assert not stream.getvalue()


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_bug_comes_with_its_whole_story(style: Literal["text", "json"]) -> None:
    stream = written(style)
    try:
        int("the reason")
    except ValueError as error:
        say(logging.ERROR, "bug", "a task failed", error)
    assert "ValueError: invalid literal" in stream.getvalue()
    assert "test_log.py" in stream.getvalue()


def test_libraries_are_written_the_same_way() -> None:
    stream = written("json")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    assert one(stream)["eventName"] == "asyncio"
    assert one(stream)["body"] == "slow callback"


def test_a_line_of_json_stays_one_line() -> None:
    stream = written("json")
    say(logging.INFO, "x", "a\nb\u2028é")
    assert one(stream)["body"] == "a\nb\u2028é"
