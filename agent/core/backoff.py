"""The back-off between attempts to start an epoch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.policy import Policy, back_off

_CRASH_WINDOW = 60.0
_URGENT_SHARE = 6  # near expiry, the longest back-off is this many times shorter


@dataclass(slots=True)
class Backoff:
    """Counts failures in a row and computes when the next attempt may start.

    `jitter` returns a number from 0 to 1, so that a fleet does not retry in step.
    """

    policy: Policy
    jitter: Callable[[], float]
    not_before: float = float("-inf")
    in_a_row: int = 0
    postponed: int = 0
    _crashes: deque[float] = field(default_factory=deque)
    _window: deque[float] = field(default_factory=deque)

    def forgive(self) -> None:
        """Reset the counts: the content changed, or an operator requested a restart."""
        self.in_a_row = self.postponed = 0
        self.not_before = float("-inf")

    def fail(self, at: float, *, urgent: bool) -> float:
        """Count one failed attempt; return the delay until the next, in seconds."""
        self._forgive_in_time(at)
        self.in_a_row += 1
        self._window.append(at)
        return self._delay(self.in_a_row, at, urgent=urgent)

    def postpone(self, at: float, *, urgent: bool) -> None:
        """Count one attempt that was not made, which is no failure, and delay the next."""
        self._forgive_in_time(at)
        self.postponed += 1
        self._delay(self.postponed + 1, at, urgent=urgent)

    def _forgive_in_time(self, at: float) -> None:
        if at > self.not_before + self.policy.start_timeout + self.policy.healthy_timeout:
            self.in_a_row = self.postponed = 0  # the last attempt has served long enough

    def _delay(self, failures: int, at: float, *, urgent: bool) -> float:
        limit = self.policy.retry_limit / (_URGENT_SHARE if urgent else 1)
        delay = back_off(failures, limit) * (0.5 + self.jitter() / 2)
        self.not_before = at + delay
        return delay

    def crash(self, at: float, *, urgent: bool) -> float:
        """Count a crash of a serving epoch; return the delay, 0 for the first few in a minute."""
        self._crashes.append(at)
        _forget_before(self._crashes, at - _CRASH_WINDOW)
        if len(self._crashes) <= self.policy.crashes_forgiven:
            self.not_before = at
            return 0.0
        return self.fail(at, urgent=urgent)

    def used_up(self, at: float) -> bool:
        """Whether the failures in `policy.give_up_window` have reached `policy.give_up`."""
        if self.policy.give_up is None:
            return False
        _forget_before(self._window, at - self.policy.give_up_window)
        return len(self._window) >= self.policy.give_up


def _forget_before(times: deque[float], limit: float) -> None:
    while times and times[0] <= limit:
        times.popleft()
