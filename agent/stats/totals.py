"""Sums statistics over all epochs; counters only grow, even when epochs exit.

Each epoch counts from 0 in its own segment. A total is the counts of exited epochs plus the current values of live
ones. Gauges are summed over live epochs.

A wrapped counter counts as an increase: steps are taken modulo 2**64. A step of 2**63 or more is a decrease, which no
correct writer makes; it counts nothing until the counter exceeds its old value. The totals are Python integers and do
not wrap. A segment that cannot be read is tried again at the next read; until then its last values count.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Self

from agent.stats.errors import InvalidSegment, Malformed
from agent.stats.layout import LARGEST_WORD
from agent.stats.reader import Segment
from agent.stats.snapshot import Snapshot

REMEMBERED = 64
"""Nonces of retired segments kept to avoid counting one twice; more than exist at once."""

_HALF = 2**63


class Totals:
    """Adds up the epochs, live and exited; `to_state` and `from_state` save and restore it."""

    def __init__(self) -> None:
        self._gone = _Account()
        self._live: dict[int, _Epoch] = {}
        self._retired: deque[str] = deque(maxlen=REMEMBERED)

    def attach(self, epoch: int, segment: Segment) -> None:
        """Count this segment from now on, and own it.

        An epoch restored from a state continues from its saved values; a retired segment is closed and not counted
        again. Raises `InvalidSegment`, and does not own the segment, if it belongs to another epoch.
        """
        if segment.header.epoch != epoch:
            raise InvalidSegment(segment.path, f"of epoch {segment.header.epoch}, not {epoch}")
        nonce = segment.header.nonce.hex()
        if nonce in self._retired:
            segment.close()
            return
        known = self._live.get(epoch)
        if known is not None and known.nonce != nonce:
            self.retire(epoch)
        self._live.setdefault(epoch, _Epoch(nonce)).follow(segment)

    def retire(self, epoch: int) -> None:
        """Read an epoch a last time and keep its counts; no effect for an unknown epoch."""
        gone = self._live.pop(epoch, None)
        if gone is not None:
            gone.look()
            gone.close()
            self._gone.take_in(gone.account)
            self._retired.append(gone.nonce)

    def read(self) -> Snapshot:
        """Return the current sums over all epochs."""
        sums, gauges = _Account(), dict[str, int]()
        sums.take_in(self._gone)
        for epoch in self._live.values():
            epoch.look()
            sums.take_in(epoch.account)
            _sum_up(gauges, epoch.gauges)
        return Snapshot(sums.counters, gauges, sums.dropped)

    def gauges(self, epoch: int) -> Mapping[str, int]:
        """Return the gauges of one epoch as of the last read; empty for an unknown epoch."""
        return self._live[epoch].gauges if epoch in self._live else {}

    def close(self) -> None:
        """Close all segments; their counts as of the last read stay in `to_state`."""
        for epoch in self._live.values():
            epoch.close()

    def to_state(self) -> dict[str, Any]:
        """Return the totals as of the last read, for JSON."""
        epochs = {str(number): {"nonce": one.nonce, **one.account.to_state()} for number, one in self._live.items()}
        return {"gone": self._gone.to_state(), "epochs": epochs, "retired": list(self._retired)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_state` returned; raises `Malformed` for anything else.

        Live epochs count with their last values until `attach` adds their segment or `retire` ends them.
        """
        totals = cls()
        try:
            totals._gone = _Account.from_state(state["gone"])
            totals._retired.extend(str(nonce) for nonce in state["retired"])
            for number, one in state["epochs"].items():
                totals._live[int(number)] = _Epoch(str(one["nonce"]), _Account.from_state(one))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Malformed(f"cannot restore totals: {error!r}") from error
        return totals


class _Account:
    """Counts as unbounded integers."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.dropped = 0

    def take_in(self, other: "_Account") -> None:
        """Add the counts of another account."""
        _sum_up(self.counters, other.counters)
        self.dropped += other.dropped

    def see(self, snapshot: Snapshot) -> None:
        """Update the counts from one segment's words, which hold the lower 64 bits."""
        counters = self.counters
        for name, word in snapshot.counters.items():
            seen = counters.get(name, 0)
            if word != seen or name not in counters:
                counters[name] = _forward(seen, word)
        self.dropped = _forward(self.dropped, snapshot.dropped)

    def to_state(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"counters": dict(self.counters), "dropped": self.dropped}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restore it from JSON; raises KeyError, TypeError, ValueError or AttributeError."""
        account = cls()
        account.counters = {str(name): _natural(value) for name, value in state["counters"].items()}
        account.dropped = _natural(state["dropped"])
        return account


class _Epoch:
    """A live epoch: its counts, its gauges, and its segment once there is one."""

    def __init__(self, nonce: str, account: _Account | None = None) -> None:
        self.nonce = nonce
        self.account = account or _Account()
        self.gauges: dict[str, int] = {}
        self._segment: Segment | None = None

    def follow(self, segment: Segment) -> None:
        """Read this segment from now on."""
        if segment is not self._segment:
            self.close()
        self._segment = segment

    def look(self) -> None:
        """Read the segment; keep the last values if that fails."""
        if self._segment is None:
            return
        try:
            snapshot = self._segment.read()
        except InvalidSegment:
            return
        self.account.see(snapshot)
        self.gauges = snapshot.gauges

    def close(self) -> None:
        """Close the segment."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None


def _forward(seen: int, word: int) -> int:
    """Return the next number whose lower 64 bits are `word`, or `seen` if that is a decrease."""
    step = (word - seen) & LARGEST_WORD
    return seen + step if step < _HALF else seen


def _sum_up(sums: dict[str, int], more: Mapping[str, int]) -> None:
    if not sums:
        sums.update(more)
        return
    for name, value in more.items():
        sums[name] = sums.get(name, 0) + value


def _natural(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is not a count")
    return value
