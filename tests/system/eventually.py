"""Waiting in system tests. The limits are not performance requirements: a machine may be slow."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = float(os.environ.get("TESTS_PATIENCE", "120"))
"""Seconds after which a missing event is a failure, on any machine."""


def eventually(check: Callable[[], T], *, within: float = PATIENCE, what: str = "", every: float = 0.01) -> T:
    """Call `check` until its result is true and return it; fail after `within` seconds with the last result.

    A shorter limit than the default is for a check that is expected to fail.

    An OSError or AssertionError of `check` means "not yet"; the last one becomes the cause of the failure.
    """
    deadline = time.monotonic() + within
    while True:
        last: object
        cause: Exception | None = None
        try:
            last = answer = check()
            if answer:
                return answer
        except (OSError, AssertionError) as error:
            last, cause = repr(error), error
        if time.monotonic() >= deadline:
            name = what or getattr(check, "__qualname__", "the condition")
            raise AssertionError(f"{name}: not within {within:g} s; last answer: {last!r}") from cause
        time.sleep(every)


def throughout(check: Callable[[], bool], *, span: float, what: str, every: float = 0.01) -> None:
    """Call `check` repeatedly for `span` seconds and fail at the first false result.

    See `up_to` about later results.
    """
    up_to(time.monotonic() + span, check, what=what, every=every)


def up_to(end: float, check: Callable[[], bool], *, what: str, every: float = 0.01) -> None:
    """Call `check` repeatedly up to a moment of the monotonic clock and fail at the first false result.

    A result, or an exception, after that moment does not concern the time before it and is ignored: on a slow machine
    one check may take any time.
    """
    while (asked := time.monotonic()) < end:
        try:
            answer = check()
        except Exception:
            if time.monotonic() < end:
                raise
            return
        assert answer or time.monotonic() >= end, f"{what}: no longer, {end - asked:.2f} s before the end"
        time.sleep(every)


def pass_time(span: float) -> None:
    """Let `span` seconds pass: only if a test is about this span, never to wait for an event."""
    time.sleep(span)
