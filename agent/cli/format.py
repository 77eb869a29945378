"""Formats durations, times and numbers for people. Times are UTC, marked by a Z."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from agent.core.expiry import Expiry

if TYPE_CHECKING:
    from agent.status.model import Facts

EXPIRY_STYLES = {Expiry.FAR: "green", Expiry.SOON: "yellow", Expiry.URGENT: "red", Expiry.ENDED: "red"}
_SPANS = (
    (3 * 365 * 86_400, 365.25 * 86_400, "years"),
    (2 * 86_400, 86_400, "days"),
    (2 * 3_600, 3_600, "h"),
    (120, 60, "min"),
    (10, 1, "s"),
)
_SHORT_SERIAL = 8  # digits, enough to distinguish serials


def span(time: float | timedelta) -> str:
    """Format a duration in one unit, rounded down: `92 ms`, `1.2 s`, `75 min`, `60 days`."""
    seconds = max(0.0, time.total_seconds() if isinstance(time, timedelta) else time)
    for least, size, unit in _SPANS:
        if seconds >= least:
            return f"{int(seconds / size):,} {unit}"
    return f"{int(seconds * 10) / 10} s" if seconds >= 1 else f"{int(seconds * 1000)} ms"


def moment(at: datetime) -> str:
    """Format a time to the minute: `2026-07-03 12:00Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}Z"


def second(at: datetime) -> str:
    """Format a time to the second: `2026-07-03 12:00:07Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def recent(at: datetime, now: datetime) -> str:
    """Format a time to the second, without the date if it is today's: `12:00:07Z`."""
    full = second(at)
    return full.partition(" ")[2] if full[:10] == second(now)[:10] else full


def left(until: datetime, now: datetime) -> str:
    """Format the time left: `60 days left`, `ended 3 h ago`."""
    return f"{span(until - now)} left" if until >= now else f"ended {span(now - until)} ago"


def time_left(facts: "Facts", now: datetime) -> tuple[str, str]:
    """Format the time left of a certificate, and its colour: `12 days left (soon)`, `yellow`."""
    near = facts.expiry(now)
    word = f" ({near})" if near in {Expiry.SOON, Expiry.URGENT} else ""  # nobody has to tell colours apart
    return left(facts.not_after, now) + word, EXPIRY_STYLES[near]


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: `1 connection`, `1,200 connections`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(octets: int) -> str:
    """Format an amount of memory: `52 MB`."""
    return f"{octets / (1 << 20):,.0f} MB"


def short(serial: str | None) -> str:
    """Shorten a serial to its first digits; `none` without one."""
    if serial is None:
        return "none"
    return serial if len(serial) <= _SHORT_SERIAL else f"{serial[:_SHORT_SERIAL]}…"
