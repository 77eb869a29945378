"""When a change may take the place of what serves: spread over a fleet, and within the hours that an operator allows.

Nothing of it counts while nothing serves, when somebody asks, or near expiry; that is the reconciler's to know.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Self

from agent.core.errors import UsageError

_SHARE = 100  # of a leaf's whole life: a day's certificate is spread over a quarter of an hour
_CAP = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of each day, local time, from `begin` until `end`; over midnight where the end comes first."""

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `02:00-04:00`. Raises `UsageError`."""
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
        """Return `now` if it lies within, else the next moment that does; `now` is local."""
        clock = now.time()
        inside = self.begin <= clock < self.end
        if self.end < self.begin:
            inside = clock >= self.begin or clock < self.end
        if inside:
            return now
        opening = now.replace(hour=self.begin.hour, minute=self.begin.minute, second=self.begin.second, microsecond=0)
        return opening if opening > now else opening + timedelta(days=1)


def jitter_offset(instance: str, life: timedelta | None, limit: timedelta | None = None) -> timedelta:
    """Return by how much this instance of a fleet waits, always the same: its share of what all of them take.

    All of them together take `limit`, or else a hundredth of the certificate's `life`, ten minutes at most.
    """
    whole = limit
    if whole is None:
        whole = _CAP if life is None else min(life / _SHARE, _CAP)
    place = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:8]) / 2**64
    return whole * place
