"""Drains HTTP connections gradually over the drain time, as in Envoy."""

import os
import time


class Draining:
    """Decides which responses are the last of their connection. `drain_time` in seconds."""

    def __init__(self, drain_time: float, *, immediate: bool) -> None:
        self._drain_time = drain_time
        self._immediate = immediate
        self._began_at: float | None = None
        self.is_failing = False  # set by /healthcheck/fail: every response is its connection's last

    def begin(self) -> None:
        """Begin the drain; do nothing if it has begun."""
        if self._began_at is None:
            self._began_at = time.monotonic()

    @property
    def has_begun(self) -> bool:
        """Whether the drain has begun."""
        return self._began_at is not None

    def asks(self) -> bool:
        """Return whether one response is to be its connection's last.

        The probability is the elapsed part of the drain time.
        """
        if self.is_failing:
            return True
        if self._began_at is None:
            return False
        elapsed = time.monotonic() - self._began_at
        return self._immediate or elapsed >= self._drain_time * int.from_bytes(os.urandom(4), "big") / (1 << 32)
