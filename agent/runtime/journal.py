"""What the agent would need to know if it came back: written before a start and after every event.

The file is `state.json` in the run directory: who the agent is, which epochs there are with pid, start time and
nonce, and what is wanted. Numbers of epochs are never reused, and what an agent that was killed left behind is
cleared away by it.
"""

import logging
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from agent.core.epochs import Epoch
from agent.core.errors import MachineError
from agent.core.reconciler import Reconciler
from agent.handoff.segment import Segment
from agent.host.clock import calendar
from agent.host.log import say
from agent.host.processes import created_at
from agent.host.run_directory import RunDirectory
from agent.runtime.counting import Counting
from agent.runtime.living import Living

_FORMAT = 1
_END_TIMEOUT = 5.0


class Journal:
    """Writes the state when it changed. A disk that does not take it is reported once and costs nothing else."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._last: dict[str, Any] = {}
        self._before = directory.recall()
        self._started_at = calendar().isoformat()
        self._failing = False

    @property
    def first_epoch(self) -> int:
        """The first number that no epoch of this run directory has had."""
        number = self._before.get("next_epoch", 1)
        return number if isinstance(number, int) and number > 0 else 1

    def clear_leftovers(self, counting: Counting) -> None:
        """End the epochs of an agent that was killed, and remove what they left, but for what they have counted.

        A stranger with such a pid is safe.
        """
        epochs = self._before.get("epochs", [])
        for epoch in epochs if isinstance(epochs, list) else []:
            if isinstance(epoch, dict):
                _clear(epoch)
        for path in self._directory.path.iterdir():
            if path.name.isascii() and path.name.isdecimal():
                number = int(path.name)
                counting.follow(number, path)
                counting.retire(number)
                self._directory.remove_epoch(number)

    def write(self, reconciler: Reconciler, living: Iterable[Living]) -> None:
        """Write the present state, if it is another one than was written last."""
        known = {epoch.number: epoch for epoch in living}
        state = {
            "format": _FORMAT,
            "agent": {"pid": os.getpid(), "started_at": self._started_at},
            "ready": reconciler.serving is not None and not reconciler.stopping,
            "epochs": [_describe(epoch, known.get(epoch.number)) for epoch in reconciler.epochs.values()],
            "next_epoch": reconciler.next_epoch,
            "wanted": None if reconciler.wish.wanted is None else reconciler.wish.wanted.digest,
            "last_good": None if reconciler.wish.last_good is None else reconciler.wish.last_good.digest,
            "refused": None if reconciler.wish.refused is None else reconciler.wish.refused.reason,
            "last_failure": None if reconciler.last_failure is None else reconciler.last_failure.reason,
        }
        if state != self._last:
            self._last = state
            self._write(state)

    def _write(self, state: dict[str, Any]) -> None:
        try:
            self._directory.remember(state)
            self._failing = False
        except MachineError as error:
            if not self._failing:
                say(logging.ERROR, "state.unwritable", f"{error}; the agent goes on without a memory")
            self._failing = True


def _describe(epoch: Epoch, living: Living | None) -> dict[str, Any]:
    described = {"number": epoch.number, "state": epoch.state.word, "revision": epoch.revision.digest, "pid": epoch.pid}
    if living is not None:
        described |= {"nonce": living.nonce, "base_id": living.segment.base_id, "created": living.created}
    return described


def _clear(epoch: dict[str, Any]) -> None:
    pid, base_id = _left_over(epoch), epoch.get("base_id")
    if pid is not None:
        text = f"epoch {epoch.get('number')} (pid {pid}) outlived its agent: it is ended"
        say(logging.WARNING, "epoch.left_over", text)
        _end(pid)
    if isinstance(base_id, int):
        Segment(base_id).release()


def _left_over(epoch: dict[str, Any]) -> int | None:
    """The pid of an epoch that still lives: the one that was noted, if it is the same process.

    An agent that was killed just after a launch could not note it: then it is the process with the epoch's nonce.
    """
    pid, created, nonce = epoch.get("pid"), epoch.get("created"), epoch.get("nonce")
    if not isinstance(nonce, str):
        return None
    if pid is None:
        return next((each for each in psutil.pids() if _has_nonce(each, nonce)), None)
    same = isinstance(pid, int) and created is not None and created_at(pid) == created
    return pid if same and _has_nonce(pid, nonce) else None


def _has_nonce(pid: int, nonce: str) -> bool:
    try:
        return f"PROXY_AGENT_NONCE={nonce}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _end(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        process.send_signal(signal.SIGTERM)
        process.wait(_END_TIMEOUT)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.Error:
        return
