"""The one way a system test waits."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], *, within: float, what: str = "", every: float = 0.01) -> T:
    """Ask `check` until its answer is true and return that answer; fail after `within` seconds with the last answer.

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
    """Ask `check` again and again for `span` seconds and fail at the first answer that is false."""
    end = time.monotonic() + span
    while time.monotonic() < end:
        assert check(), f"{what}: held no longer {span - (end - time.monotonic()):.2f} s into {span:g} s"
        time.sleep(every)


def pass_time(span: float) -> None:
    """Let `span` seconds pass: for a span that is itself what a test is about, never to wait for something."""
    time.sleep(span)
