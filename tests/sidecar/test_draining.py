import os
import time

import pytest

from agent.sidecar.draining import Draining


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, which the test tells."""
    told = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: told[0])
    return told


@pytest.fixture
def chance(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The random number from 0 to 1, which the test tells."""
    told = [0.5]
    monkeypatch.setattr(os, "urandom", lambda size: int(told[0] * 2 ** (8 * size)).to_bytes(size, "big"))
    return told


def test_nothing_is_asked_before_a_drain(clock: list[float], chance: list[float]) -> None:
    for immediate in (True, False):
        draining = Draining(0, immediate=immediate)
        assert not draining.has_begun
        assert not draining.asks()


@pytest.mark.parametrize(
    ("elapsed", "luck", "asks"),
    [
        (0, 0.0, True),
        (0, 0.01, False),
        (30, 0.49, True),
        (30, 0.5, True),
        (30, 0.51, False),
        (59, 0.99, False),
        (60, 0.999, True),
        (600, 0.999, True),
    ],
)
def test_the_chance_grows_with_the_elapsed_part(
    clock: list[float], chance: list[float], elapsed: float, luck: float, asks: bool
) -> None:
    draining = Draining(60, immediate=False)
    draining.begin()
    assert draining.has_begun
    clock[0] += elapsed
    chance[0] = luck
    assert draining.asks() is asks


def test_each_response_has_its_own_chance(clock: list[float]) -> None:
    draining = Draining(100, immediate=False)
    draining.begin()
    clock[0] += 50
    asked = [draining.asks() for _ in range(400)]
    assert 100 < sum(asked) < 300


def test_an_immediate_drain_asks_every_time(clock: list[float], chance: list[float]) -> None:
    draining = Draining(600, immediate=True)
    draining.begin()
    chance[0] = 0.999
    assert draining.asks()


def test_a_drain_of_no_time_asks_every_time(clock: list[float], chance: list[float]) -> None:
    draining = Draining(0, immediate=False)
    draining.begin()
    chance[0] = 0.999
    assert draining.asks()


def test_a_second_beginning_changes_nothing(clock: list[float], chance: list[float]) -> None:
    draining = Draining(100, immediate=False)
    draining.begin()
    clock[0] += 60
    draining.begin()
    assert draining.asks()


def test_a_failed_health_check_asks_until_it_is_taken_back(clock: list[float], chance: list[float]) -> None:
    draining = Draining(600, immediate=False)
    assert draining.is_failing is False
    draining.is_failing = True
    assert draining.asks()
    assert not draining.has_begun
    draining.is_failing = False
    assert not draining.asks()
