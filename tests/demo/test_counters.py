import json
import ssl
import time
from typing import Any

import pytest

from agent.demo.counters import Counters, UnexpectedAnswer, reason_of


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def report(counters: Counters) -> dict[str, Any]:
    line = counters.report()
    assert "\n" not in line
    told: dict[str, Any] = json.loads(line)
    return told


def test_at_first_nothing_is_counted_and_the_queue_is_unknown() -> None:
    assert report(Counters()) == {
        "served": 0, "connections": 0, "longest": 0.0, "deepest": None, "serials": {}, "failures": [],
    }  # fmt: skip


def test_answers_are_counted_with_the_longest_wait(clock: Clock) -> None:
    counters = Counters()
    for begun in (99.5, 97.0, 100.0):
        counters.answered(begun)
    assert (report(counters)["served"], report(counters)["longest"]) == (3, 3.0)


def test_the_deepest_queue_is_kept() -> None:
    counters = Counters()
    counters.queued(0)
    assert report(counters)["deepest"] == 0
    for depth in (5, 3):
        counters.queued(depth)
    assert report(counters)["deepest"] == 5


def test_a_serial_has_its_first_and_its_last_handshake_since_the_last_report(clock: Clock) -> None:
    counters = Counters()
    for now, serial in ((1.0, "a"), (2.0, "b"), (3.0, "a"), (4.0, "a")):
        clock.now = now
        counters.shown(serial)
    told = report(counters)
    assert (told["connections"], told["serials"]) == (4, {"a": [1.0, 4.0], "b": [2.0, 2.0]})
    clock.now = 5.0
    counters.shown("a")
    told = report(counters)
    assert (told["connections"], told["serials"]) == (5, {"a": [5.0, 5.0]})
    assert report(counters)["serials"] == {}


def test_failures_are_reported_once_and_200_at_a_time(clock: Clock) -> None:
    counters = Counters()
    for number in range(201):
        clock.now = 100.0 + number
        counters.failed(number, "reset")
    first, second, third = (report(counters)["failures"] for _ in range(3))
    assert (len(first), len(second), third) == (200, 1, [])
    assert first[0] == {"opened": 0, "ended": 100.0, "reason": "reset"}
    assert second == [{"opened": 200, "ended": 300.0, "reason": "reset"}]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (UnexpectedAnswer("404"), "answered wrongly"),
        (ConnectionRefusedError(), "refused"),
        (ConnectionResetError(), "reset"),
        (BrokenPipeError(), "reset"),
        (ssl.SSLEOFError(), "reset"),
        (ssl.SSLZeroReturnError(), "reset"),
        (TimeoutError(), "timed out"),
        (ssl.SSLCertVerificationError(), "not trusted"),
        (ssl.SSLError(), "not trusted"),
        (OSError(24, "Too many open files"), "broken"),
    ],
)
def test_an_error_is_a_word(error: OSError, word: str) -> None:
    assert reason_of(error) == word
