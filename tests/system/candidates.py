"""Candidates, for tests that act on one: none is missed on a fast or a slow machine."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.listening import accepts
from tests.system.room import alive, all_threads_stopped
from tests.system.state import CANDIDATE, Epoch

TRIES = 50


def next_candidate(bed: AgentFixture, before: int) -> Epoch | None:
    """Wait for the candidate that follows epoch `before`; None if it took over before it was observed."""

    def seen() -> list[Epoch] | bool:
        return bed.state().among(CANDIDATE) or bed.serving().number > before

    found = eventually(seen, every=0.001, what="a candidate")
    return found[0] if isinstance(found, list) else None


def new_candidate(bed: AgentFixture) -> Epoch:
    """Wait for a candidate that cannot take over at present."""
    return eventually(lambda: bed.state().among(CANDIDATE), every=0.001, what="a candidate")[0]


def freeze(bed: AgentFixture, pid: int) -> bool:
    """Stop a candidate; return whether it does not accept clients yet, and continue it otherwise.

    It accepts clients when the gate is open, and a stopped one cannot.
    """
    try:
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all_threads_stopped(pid) or not alive(pid), every=0.001, what=f"{pid} is stopped")
        if alive(pid) and not accepts(pid, bed.tls.port):
            return True
        os.kill(pid, signal.SIGCONT)
    except (ProcessLookupError, FileNotFoundError):
        pass
    return False


@contextmanager
def frozen_candidate(bed: AgentFixture) -> Iterator[Epoch]:
    """Rotate until a candidate is stopped before it accepts clients; it continues at the end of the block."""
    candidate = next(found for _ in range(TRIES) if (found := _rotated_and_frozen(bed)) is not None)
    try:
        yield candidate
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(candidate.pid, signal.SIGCONT)


def _rotated_and_frozen(bed: AgentFixture) -> Epoch | None:
    before = bed.serving().number
    bed.rotate()
    candidate = next_candidate(bed, before)
    if candidate is not None and freeze(bed, candidate.pid):
        return candidate
    bed.served()
    bed.committed()
    return None
