from datetime import UTC, datetime, timedelta, timezone

import pytest

from agent.cli.format import left, moment, plural, recent, second, short, size, span

NOON = datetime(2026, 5, 4, 12, 0, 7, 999_999, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (0, "0 ms"),
        (-5, "0 ms"),
        (0.0004, "0 ms"),
        (0.001, "1 ms"),
        (0.092, "92 ms"),
        (0.9999, "999 ms"),
        (1, "1.0 s"),
        (1.29, "1.2 s"),
        (9.99, "9.9 s"),
        (10, "10 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7_199, "119 min"),
        (7_200, "2 h"),
        (2 * 86_400 - 1, "47 h"),
        (2 * 86_400, "2 days"),
        (3 * 365 * 86_400 - 1, "1,094 days"),
        (3 * 365 * 86_400, "2 years"),
        (3 * 365.25 * 86_400, "3 years"),
        (1e12, "31,688 years"),
        (timedelta(days=60), "60 days"),
        (timedelta(milliseconds=1500), "1.5 s"),
        (timedelta(days=-1), "0 ms"),
        (timedelta.max, "2,737,850 years"),
    ],
)
def test_a_span_is_given_in_one_unit_rounded_down(time: float | timedelta, text: str) -> None:
    assert span(time) == text


def test_times_are_in_utc_and_cut_and_not_rounded() -> None:
    assert (moment(NOON), second(NOON)) == ("2026-05-04 12:00Z", "2026-05-04 12:00:07Z")
    midnight = datetime(2026, 5, 5, 0, 15, tzinfo=INDIA)
    assert (moment(midnight), second(midnight)) == ("2026-05-04 18:45Z", "2026-05-04 18:45:00Z")


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (NOON, "12:00:07Z"),
        (NOON - timedelta(hours=12), "00:00:07Z"),
        (NOON - timedelta(hours=13), "2026-05-03 23:00:07Z"),
        (NOON + timedelta(days=365), "2027-05-04 12:00:07Z"),
        (datetime(2026, 5, 5, 1, 0, tzinfo=INDIA), "19:30:00Z"),
    ],
)
def test_a_date_is_left_out_if_it_is_todays(at: datetime, text: str) -> None:
    assert recent(at, NOON) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(86_400 * 60, "60 days left"), (0, "0 ms left"), (-0.5, "ended 500 ms ago"), (-10_800, "ended 3 h ago")],
)
def test_the_time_left_may_be_over(seconds: float, text: str) -> None:
    assert left(NOON + timedelta(seconds=seconds), NOON) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (-1, "-1 files"), (1_234_567, "1,234,567 files")]
)
def test_a_noun_follows_its_number(count: int, text: str) -> None:
    assert plural(count, "file") == text


@pytest.mark.parametrize(
    ("octets", "text"), [(0, "0 MB"), (1 << 20, "1 MB"), (3 << 19, "2 MB"), (52 << 20, "52 MB"), (5 << 30, "5,120 MB")]
)
def test_memory_is_in_megabytes(octets: int, text: str) -> None:
    assert size(octets) == text


@pytest.mark.parametrize(
    ("serial", "text"),
    [(None, "none"), ("", ""), ("1f", "1f"), ("12345678", "12345678"), ("123456789", "12345678…")],
)
def test_a_long_serial_is_shortened(serial: str | None, text: str) -> None:
    assert short(serial) == text
