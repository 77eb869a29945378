"""The one way a system test waits. No limit here says how fast something has to be: a machine may be slow."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 120.0
"""Seconds after which something that has not happened is taken never to happen, on any machine."""


def eventually(check: Callable[[], T], *, within: float = PATIENCE, what: str = "", every: float = 0.01) -> T:
    """Ask `check` until its answer is true and return that answer; fail after `within` seconds with the last answer.

    A shorter limit than the usual one is for a check that is expected to fail.

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
    """Ask `check` again and again for `span` seconds and fail at the first answer that is false.

    See `up_to`, which tells about answers that come later.
    """
    up_to(time.monotonic() + span, check, what=what, every=every)


def up_to(end: float, check: Callable[[], bool], *, what: str, every: float = 0.01) -> None:
    """Ask `check` again and again up to a moment of the monotonic clock and fail at the first answer that is false.

    An answer, or an exception, that comes after that moment says nothing about the time before it and is ignored:
    a slow machine may take any time over one check.
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
    """Let `span` seconds pass: for a span that is itself what a test is about, never to wait for something."""
    time.sleep(span)
