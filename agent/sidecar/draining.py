"""Clients are asked to leave: over the time of a drain ever more of them, as in Envoy."""

import os
import time


class Draining:
    """Whether the next answer shall be a connection's last. `drain_time` in seconds."""

    def __init__(self, drain_time: float, *, immediate: bool) -> None:
        self._drain_time = drain_time
        self._immediate = immediate
        self._began_at: float | None = None
        self.is_failing = False  # /healthcheck/fail: everybody is asked

    def begin(self) -> None:
        """Begin; a drain that has begun goes on."""
        if self._began_at is None:
            self._began_at = time.monotonic()

    @property
    def has_begun(self) -> bool:
        """Whether there is a drain."""
        return self._began_at is not None

    def asks(self) -> bool:
        """Tell for one answer: with the probability that the elapsed part of the drain time gives."""
        if self.is_failing:
            return True
        if self._began_at is None:
            return False
        elapsed = time.monotonic() - self._began_at
        return self._immediate or elapsed >= self._drain_time * int.from_bytes(os.urandom(4), "big") / (1 << 32)
