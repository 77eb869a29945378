from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import UsageError
from agent.core.schedule import Window, jitter_offset

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("hours", "opens"),
    [
        ("11:00-13:00", NOON),
        ("12:00-13:00", NOON),
        ("02:00-04:00", NOON.replace(hour=2) + DAY),
        ("13:30-14:00", NOON.replace(hour=13, minute=30)),
        ("11:00-12:00", NOON.replace(hour=11) + DAY),
        ("23:00-13:00", NOON),
        ("23:00-01:00", NOON.replace(hour=23)),
        ("23:00-12:00", NOON.replace(hour=23)),
        ("12:00-11:59", NOON),
        ("12:00:01-12:00", NOON.replace(second=1)),
        (" 02:00 - 04:00 ", NOON.replace(hour=2) + DAY),
    ],
)
def test_a_window_opens_at_its_hour_or_is_open(hours: str, opens: datetime) -> None:
    assert Window.parse(hours).opens(NOON) == opens


@pytest.mark.parametrize(
    "text", ["", "02:00", "02:00-", "two-four", "02:00-02:00", "25:00-26:00", "02:00+01:00-04:00", "02:00-04:00Z"]
)
def test_what_are_no_hours_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write them like 02:00-04:00"):
        Window.parse(text)


@given(st.times(), st.times(), st.datetimes())
def test_a_window_opens_within_a_day_and_is_open_then(begin: object, end: object, now: datetime) -> None:
    if begin == end or now.year > 9990:
        return
    window = Window(begin.replace(microsecond=0), end.replace(microsecond=0))  # type: ignore[attr-defined]
    if window.begin == window.end:
        return
    opening = window.opens(now)
    assert now <= opening <= now + DAY
    assert window.opens(opening) == opening


def test_an_instance_waits_for_a_known_share_of_a_hundredth_of_the_life() -> None:
    """A quarter or so: the first eight bytes of the SHA-256 of its name."""
    assert jitter_offset("pod-0", timedelta(seconds=2**14 * 100)) == jitter_offset("pod-0", None, timedelta(minutes=10))
    assert jitter_offset("pod-0", timedelta(seconds=100)) == jitter_offset("pod-0", None, timedelta(seconds=1))
    assert jitter_offset("pod-0", timedelta()) == timedelta()


def test_a_fleet_is_spread_evenly_and_each_instance_keeps_its_place() -> None:
    life = timedelta(hours=10)
    waits = [jitter_offset(f"pod-{number}:/run", life) for number in range(1000)]
    assert waits == [jitter_offset(f"pod-{number}:/run", life) for number in range(1000)]
    assert timedelta() <= min(waits) < timedelta(seconds=6)
    assert timedelta(seconds=354) < max(waits) < life / 100
    assert abs(sum(waits, timedelta()) / 1000 - life / 200) < timedelta(seconds=20)


@pytest.mark.parametrize(
    ("life", "limit", "most"),
    [
        (timedelta(days=90), None, 600),
        (None, None, 600),
        (timedelta(minutes=10), None, 6),
        (DAY, timedelta(minutes=1), 60),
    ],
)
def test_what_a_fleet_takes_is_a_share_of_the_life_and_has_a_cap(
    life: timedelta | None, limit: timedelta | None, most: float
) -> None:
    waits = [jitter_offset(str(number), life, limit).total_seconds() for number in range(500)]
    assert most * 0.95 < max(waits) < most
