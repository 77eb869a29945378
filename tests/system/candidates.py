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


def next_candidate(instance: AgentFixture, before: int) -> Epoch | None:
    """Wait for the candidate that follows epoch `before`; None if it took over before it was observed."""

    def seen() -> list[Epoch] | bool:
        return instance.state().among(CANDIDATE) or instance.serving().number > before

    found = eventually(seen, every=0.001, what="a candidate")
    return found[0] if isinstance(found, list) else None


def new_candidate(instance: AgentFixture) -> Epoch:
    """Wait for a candidate that cannot take over at present."""
    return eventually(lambda: instance.state().among(CANDIDATE), every=0.001, what="a candidate")[0]


def freeze(instance: AgentFixture, pid: int) -> bool:
    """Stop a candidate; return whether it does not accept clients yet, and continue it otherwise.

    It accepts clients when the gate is open, and a stopped one cannot.
    """
    try:
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all_threads_stopped(pid) or not alive(pid), every=0.001, what=f"{pid} is stopped")
        if alive(pid) and not accepts(pid, instance.tls.port):
            return True
        os.kill(pid, signal.SIGCONT)
    except (ProcessLookupError, FileNotFoundError):
        pass
    return False


@contextmanager
def frozen_candidate(instance: AgentFixture) -> Iterator[Epoch]:
    """Rotate until a candidate is stopped before it accepts clients; it continues at the end of the block."""
    candidate = next(found for _ in range(TRIES) if (found := _rotated_and_frozen(instance)) is not None)
    try:
        yield candidate
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(candidate.pid, signal.SIGCONT)


def _rotated_and_frozen(instance: AgentFixture) -> Epoch | None:
    before = instance.serving().number
    instance.rotate()
    candidate = next_candidate(instance, before)
    if candidate is not None and freeze(instance, candidate.pid):
        return candidate
    instance.served()
    instance.committed()
    return None
