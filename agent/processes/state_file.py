"""The state file, from which the next agent adopts the running epochs.

It is `state.json` in the run directory, written before each launch and after every event. It holds the agent's pid, the
epochs with pid, start time and manifest, and the desired state. Epoch numbers are never reused. An earlier agent's
entries stay in it until each of their epochs is adopted or has exited.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from agent.core.epochs import Epoch
from agent.core.errors import MachineError
from agent.core.reconciler import Reconciler
from agent.handoff.segment import Segment
from agent.host.clock import calendar
from agent.host.log import log_event
from agent.host.processes import boot
from agent.host.run_directory import RunDirectory
from agent.processes.epoch_process import EpochProcess
from agent.processes.reserved_segments import ReservedSegments
from agent.processes.survivor import described

_FORMAT = 2


class StateFile:
    """Writes the state when it changed; logs a write error once, and the caller retries.

    `last`: the current state; `behind`: whether the file holds an older one. `inherited`: an earlier agent's entries
    that are not settled yet.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self.last: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self._boot = boot()
        self._before = directory.recall()
        self._started_at = calendar().isoformat()
        self._is_failing = False
        epochs = self._before.get("epochs", []) if self._before.get("boot", self._boot) == self._boot else []
        self.inherited = [each for each in epochs if isinstance(each, dict)] if isinstance(epochs, list) else []

    @property
    def first_epoch(self) -> int:
        """The first epoch number never used in this run directory."""
        number = self._before.get("next_epoch", 1)
        return number if isinstance(number, int) and number > 0 else 1

    @property
    def served_since(self) -> int | None:
        """The start of the service in calendar seconds, if an earlier agent started it."""
        since = self._before.get("served_since")
        return since if isinstance(since, int) and self.inherited else None

    def settle(self, entry: dict[str, Any]) -> None:
        """Remove the entry of an earlier agent's epoch that was adopted or has exited."""
        self.inherited.remove(entry)

    @property
    def reserved(self) -> list[Segment]:
        """The segments that an earlier agent reserved for its next epochs; the last one may not exist."""
        base_ids = [self._before.get(name) for name in ("spare", "upcoming")]
        is_of_this_boot = self._before.get("boot") == self._boot
        return [Segment(each) for each in base_ids if isinstance(each, int) and is_of_this_boot]

    def write(
        self,
        reconciler: Reconciler,
        processes: Iterable[EpochProcess],
        served_since: int,
        segments: ReservedSegments | None = None,
    ) -> None:
        """Write the current state if it differs from the last one written."""
        known = {epoch.number: epoch for epoch in processes}
        epochs = [_describe(epoch, known.get(epoch.number)) for epoch in reconciler.epochs.values()]
        state = {
            "format": _FORMAT,
            "boot": self._boot,
            "agent": {"pid": os.getpid(), "started_at": self._started_at},
            "served_since": served_since,
            "ready": reconciler.serving is not None and not reconciler.stopping,
            "epochs": epochs + [each for each in self.inherited if each.get("number") not in reconciler.epochs],
            "next_epoch": reconciler.next_epoch,
            "spare": None if segments is None or segments.spare is None else segments.spare.base_id,
            "upcoming": None if segments is None else segments.upcoming,
            "wanted": None if reconciler.desired.wanted is None else reconciler.desired.wanted.digest,
            "last_good": None if reconciler.desired.last_good is None else reconciler.desired.last_good.digest,
            "refused": None if reconciler.desired.refused is None else reconciler.desired.refused.reason,
            "last_failure": None if reconciler.last_failure is None else reconciler.last_failure.reason,
        }
        self.last = state
        if self.behind:
            self._write()

    @property
    def behind(self) -> bool:
        """Whether the file holds an older state than `last`."""
        return self.last != self._written

    def _write(self) -> None:
        try:
            self._directory.remember(self.last)
        except MachineError as error:
            if not self._is_failing:
                log_event(
                    logging.ERROR, "state.unwritable", f"{error}; the agent continues without saved state, and retries"
                )
            self._is_failing = True
            return
        if self._is_failing:
            log_event(logging.INFO, "state.written", "the state can be written again")
        self._is_failing = False
        self._written = self.last


def _describe(epoch: Epoch, process: EpochProcess | None) -> dict[str, Any]:
    described_epoch = {
        "number": epoch.number,
        "state": epoch.state.word,
        "stage": epoch.state.value,
        "revision": epoch.revision.digest,
        "pid": epoch.pid,
    }
    if process is None:
        return described_epoch
    return described_epoch | {
        "nonce": process.nonce,
        "base_id": None if process.segment is None else process.segment.base_id,
        "created": process.created,
        "manifest": asdict(process.manifest),
        "places": described(process.asked),
        "pushed": _pushed(epoch, process),
    }


def _pushed(epoch: Epoch, process: EpochProcess) -> dict[str, Any] | None:
    """Describe the pushes into an epoch. A torn one may serve another revision than the recorded one."""
    is_torn = epoch.pushing is not None or epoch.is_torn
    pushed = None if process.target is None else process.target.pushed(process.loaded, is_torn=is_torn)
    return None if pushed is None else asdict(pushed)
