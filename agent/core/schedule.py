"""When a change may be rolled out: spread over a fleet, and within the operator's hours.

The reconciler ignores both while nothing serves, when an operator requests a restart, and near expiry.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Self

from agent.core.errors import UsageError

_SHARE = 100  # the spread is this fraction of the leaf's total life: 1/100
_CAP = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Window:
    """Daily hours, local time, from `begin` until `end`; across midnight if `end` is earlier."""

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse text like `02:00-04:00`. Raises `UsageError`."""
        begin, dash, end = text.partition("-")
        try:
            window = cls(time.fromisoformat(begin.strip()), time.fromisoformat(end.strip()))
        except ValueError:
            dash = ""
        if not dash or window.begin == window.end or window.begin.tzinfo or window.end.tzinfo:
            message = f"cannot use {text} as hours: write them like 02:00-04:00"
            raise UsageError(message)
        return window

    def opens(self, now: datetime) -> datetime:
        """Return `now` if it is inside the window, else its next opening; `now` is local."""
        clock = now.time()
        inside = self.begin <= clock < self.end
        if self.end < self.begin:
            inside = clock >= self.begin or clock < self.end
        if inside:
            return now
        opening = now.replace(hour=self.begin.hour, minute=self.begin.minute, second=self.begin.second, microsecond=0)
        return opening if opening > now else opening + timedelta(days=1)


def jitter_offset(instance: str, life: timedelta | None, limit: timedelta | None = None) -> timedelta:
    """Return how long this instance of a fleet waits: a fixed share of the fleet's spread.

    The spread is `limit`, or else a hundredth of the certificate's `life`, at most ten minutes.
    """
    whole = limit
    if whole is None:
        whole = _CAP if life is None else min(life / _SHARE, _CAP)
    place = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:8]) / 2**64
    return whole * place
