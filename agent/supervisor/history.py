"""History of rotations with their evidence, kept in the run directory across restarts."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from agent.certificates.names import named
from agent.certificates.x509 import Leaf
from agent.core.attempts import KEPT, Attempt, AttemptLog, AttemptResult
from agent.core.effects import Effect
from agent.core.epochs import Epoch
from agent.core.errors import MachineError
from agent.core.events import Event
from agent.core.revision import Revision
from agent.host import clock, listen_counters
from agent.host.listen_counters import ListenCounters
from agent.host.log import log_event
from agent.host.run_directory import RunDirectory
from agent.status.model import AttemptView, Change, End, Evidence, Phase, ProbeResult, to_json

_FILE = "history.json"

Leaves = Callable[[Revision], Mapping[str, Leaf]]


@dataclass(slots=True)
class _Record:
    """An attempt with its start, certificate changes and evidence."""

    attempt: Attempt
    began_at: datetime
    changes: tuple[Change, ...]
    counters: ListenCounters | None  # at the start of the attempt
    changed_at: datetime | None = None
    evidence: Evidence | None = None
    end: End | None = None
    row: Any = None  # its JSON, cached once the record is settled

    @property
    def is_settled(self) -> bool:
        if self.attempt.outcome is AttemptResult.SERVING and not self.attempt.push:
            return self.evidence is not None and self.evidence.cut is not None and self.end is not None
        return self.attempt.outcome is not AttemptResult.RUNNING

    def to_json(self) -> Any:  # noqa: ANN401  # any JSON value
        row = self.row or to_json(self.view())
        self.row = row if self.is_settled else None
        return row

    def view(self) -> AttemptView:
        attempt = self.attempt
        return AttemptView(
            epoch=attempt.epoch,
            trigger=attempt.trigger.value,
            outcome=attempt.outcome.value,
            reason=attempt.reason,
            began_at=self.began_at,
            revision=attempt.revision.name,
            before=None if attempt.before is None else attempt.before.name,
            changes=self.changes,
            phases=tuple(Phase(name, round(seconds, 6)) for name, seconds in attempt.phases.items()),
            evidence=self.evidence,
            end=self.end,
            changed_at=self.changed_at,
            push=attempt.push,
        )


class History:
    """Every attempt of this agent, and the last ones of earlier agents.

    `leaves` returns the leaf certificates that a revision serves.
    """

    def __init__(self, epochs: dict[int, Epoch], directory: RunDirectory, leaves: Leaves) -> None:
        self._attempts = AttemptLog(epochs)
        self._directory = directory
        self._leaves = leaves
        self._records: dict[tuple[int, int], _Record] = {}  # by epoch and push, see `Attempt.key`
        self._past = _recall(directory)
        self._past_rows = [to_json(each) for each in self._past]

    def views(self) -> tuple[AttemptView, ...]:
        """Return the attempts, newest first."""
        own = [record.view() for record in self._records.values()]
        return tuple(reversed([*self._past, *own][-KEPT:]))

    def view(self, epoch: int) -> AttemptView | None:
        """Return the attempt that started this epoch, if it is this agent's."""
        return self._view((epoch, 0))

    def _view(self, key: tuple[int, int]) -> AttemptView | None:
        record = self._records.get(key)
        return None if record is None else record.view()

    def enter(self, event: Event, effects: Iterable[Effect]) -> list[AttemptView]:
        """Record an event and its effects; return the attempts that they ended."""
        ended = self._attempts.enter(event, effects)
        self._follow()
        # A successful start is written later, with its evidence.
        if any(each.push or each.outcome is not AttemptResult.SERVING for each in ended):
            self.keep()
        return [view for each in ended if (view := self._view(each.key)) is not None]

    def _follow(self) -> None:
        """Keep exactly one record for each attempt in the attempt log."""
        attempts = {each.key: each for each in self._attempts.attempts}
        for gone in self._records.keys() - attempts.keys():
            del self._records[gone]
        for new in attempts.keys() - self._records.keys():
            self._records[new] = self._begin(attempts[new])

    def _begin(self, attempt: Attempt) -> _Record:
        began_at = clock.calendar() - timedelta(seconds=clock.monotonic() - attempt.began)
        began_at = began_at.replace(microsecond=began_at.microsecond // 1000 * 1000)  # milliseconds, as in the file
        waited = None if attempt.changed is None else timedelta(seconds=round(attempt.began - attempt.changed, 3))
        changed_at = None if waited is None else began_at - waited
        return _Record(attempt, began_at, self._changes(attempt), listen_counters.read(), changed_at)

    def _changes(self, attempt: Attempt) -> tuple[Change, ...]:
        before = {} if attempt.before is None else self._leaves(attempt.before)
        after = self._leaves(attempt.revision)
        names = named({*before, *after})
        changed = [group for group in sorted(names) if before.get(group) != after.get(group)]
        return tuple(Change(names[group], _serial(before.get(group)), _serial(after.get(group))) for group in changed)

    # Evidence

    def committed(self, epoch: int, queued: int) -> None:
        """Record that this epoch serves, and how many clients were queued when its gate opened."""
        if (record := self._records.get((epoch, 0))) is not None:
            record.evidence = Evidence(queued, None, None)

    def handed_over(self, epoch: int) -> None:
        """Record that the predecessor no longer accepts, and what the kernel counted until then."""
        self._attempts.handed_over(epoch, clock.monotonic())
        record = self._records.get((epoch, 0))
        now = listen_counters.read()
        if record is None or record.evidence is None or record.counters is None or now is None:
            return
        window = now - record.counters
        record.evidence = replace(record.evidence, overflows=window.overflows, drops=window.drops)

    def proved(self, epoch: int, seen: tuple[ProbeResult, ...]) -> None:
        """Record what a TLS client saw; only the predecessor's drain is then still open."""
        record = self._records.get((epoch, 0))
        if record is not None and record.evidence is not None:
            record.evidence = replace(record.evidence, seen=seen)
            self.keep()

    def cut(self, drained: int, connections: int | None) -> None:
        """Record that an epoch's drain was cut with this many connections left."""
        successor, own = self._successor(drained), self._records.get((drained, 0))
        if successor is not None and successor.evidence is not None:
            successor.evidence = replace(successor.evidence, cut=connections)
        if own is not None and own.evidence is not None:
            own.evidence, own.row = replace(own.evidence, cut_at_end=connections), None
        self.keep()

    def exited(self, epoch: int, end: End) -> None:
        """Record the exit of an epoch that had served."""
        if (record := self._records.get((epoch, 0))) is not None:
            record.end, record.row = end, None
            self.keep()

    def drained(self, epoch: int) -> float | None:
        """Record that an epoch exited; return its drain time in seconds, if it has a successor."""
        record = self._successor(epoch)
        if record is None:
            return None
        if record.evidence is not None and record.evidence.cut is None:
            record.evidence = replace(record.evidence, cut=0)
        self.keep()
        return record.attempt.phases.get("drain")

    def _successor(self, epoch: int) -> _Record | None:
        return next((each for each in self._records.values() if each.attempt.supersedes == epoch), None)

    # Persistence

    def keep(self) -> None:
        """Write the history to the run directory; a failed write is logged and otherwise ignored."""
        rows = [*self._past_rows, *(record.to_json() for record in self._records.values())]
        try:
            self._directory.remember({"attempts": rows[-KEPT:]}, _FILE)
        except MachineError as error:
            log_event(logging.DEBUG, "history.unwritable", str(error))  # the state file's failure is the error


def _serial(leaf: Leaf | None) -> str | None:
    return None if leaf is None else leaf.serial_hex


def _recall(directory: RunDirectory) -> list[AttemptView]:
    rows = directory.recall(_FILE).get("attempts", [])
    found = []
    for row in rows if isinstance(rows, list) else []:
        try:
            found.append(_read(row))
        except (KeyError, TypeError, ValueError):
            continue  # an earlier format or a manual edit: skip it, it is only history
    return found


def _read(row: dict[str, Any]) -> AttemptView:
    """Parse what `to_json` wrote; an attempt without an end becomes a dropped one."""
    evidence, end, changed_at = row["evidence"], row.get("end"), row.get("changed_at")  # the last two are newer
    return AttemptView(
        epoch=int(row["epoch"]),
        trigger=str(row["trigger"]),
        outcome=AttemptResult.DROPPED.value if row["outcome"] == AttemptResult.RUNNING.value else str(row["outcome"]),
        reason=str(row["reason"]),
        began_at=datetime.fromisoformat(row["began_at"]),
        revision=str(row["revision"]),
        before=row["before"],
        changes=tuple(Change(**each) for each in row["changes"]),
        phases=tuple(Phase(**each) for each in row["phases"]),
        evidence=evidence and Evidence(**{**evidence, "seen": tuple(ProbeResult(**each) for each in evidence["seen"])}),
        end=end and End(**{**end, "at": datetime.fromisoformat(end["at"])}),
        changed_at=changed_at and datetime.fromisoformat(changed_at),
        push=int(row.get("push", 0)),
    )
