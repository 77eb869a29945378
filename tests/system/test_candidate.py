"""A candidate may die, hang or be told to leave at any moment before its gate opens: no client hears of it.

A strike is exact: the candidate is stopped first, and only if it does not wait for clients yet it is struck. It begins
to when the gate is open, and a stopped one cannot.
"""

import contextlib
import os
import random
import signal
import time
from signal import Signals

import pytest

from tests.system.bare import serial_served
from tests.system.bed import Bed
from tests.system.counts import count
from tests.system.eventually import eventually, pass_time
from tests.system.flight import land, launched
from tests.system.listening import accepts
from tests.system.loads import Loads, nothing_failed
from tests.system.room import alive, all_threads_stopped, kill
from tests.system.state import CANDIDATE, DRAINING, Epoch
from tests.system.wire import connect, exchange, tls_context

STRIKES = count("AGENT_STRIKES", short=2, long=100)
DEADLINES = {"envoy": "1s", "sidecar": "3s"}  # of a start: many times what it takes


def new_candidate(bed: Bed) -> Epoch:
    """Wait for a candidate."""
    return eventually(lambda: bed.state().among(CANDIDATE), within=5, every=0.001, what="a candidate")[0]


def strike(bed: Bed, pid: int, number: Signals) -> bool:
    """Strike a candidate if its gate is still shut; tell whether it was hit."""
    try:
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all_threads_stopped(pid), within=1, every=0.001)
        shut = alive(pid) and not accepts(pid, bed.tls.port)
        if shut:
            os.kill(pid, number)
        if not (shut and number is signal.SIGSTOP):
            os.kill(pid, signal.SIGCONT)
    except (ProcessLookupError, FileNotFoundError):
        return False
    return shut


@pytest.mark.timeout(60 + 4 * STRIKES)
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGSTOP, marks=pytest.mark.long)],
    ids=lambda one: one.name,
)
def test_a_struck_candidate_costs_no_request(number: Signals, bed_apart: Bed, loads: Loads) -> None:
    bed, hits = bed_apart, 0
    bed.more_flags += ["--start-deadline", DEADLINES[bed.binary.name]]
    bed.start()
    loads.gentle(bed.tls, bed.plain)
    for _ in range(3 * STRIKES):
        bed.rotate()
        pid = new_candidate(bed).pid
        pass_time(random.uniform(0, 0.06))
        hits += strike(bed, pid, number)
        bed.served(within=15)
        if hits == STRIKES:
            break
    assert hits == STRIKES, "too few candidates were hit before their gate opened"
    nothing_failed(loads.finish(), at_least=20 * STRIKES)


def test_the_serving_one_may_crash_while_a_candidate_starts(bed: Bed, loads: Loads) -> None:
    loads.gentle(bed.tls, bed.plain)
    serving = bed.serving_pid()
    bed.rotate()
    new_candidate(bed)
    death = kill(serving)
    bed.served()
    loads.more(20)
    for report in loads.finish():
        assert report.reasons()["refused"] == 0, str(report)
        assert all(loss.begun <= death.gone for loss in report.losses), str(report)


def test_a_killed_draining_one_loses_only_its_own_connections(bed: Bed, loads: Loads) -> None:
    with connect(bed.tls, tls_context()) as held:
        exchange(held, last=False)
        draining = bed.serving_pid()
        bed.rotate()
        bed.served()
        eventually(lambda: [one.pid for one in bed.state().among(DRAINING)] == [draining], within=2)
        loads.start("closed", bed.tls, clients=2)
        loads.start("bursts", bed.plain, clients=50)
        loads.start("keepalive", bed.tls, pace=0.005)
        os.kill(draining, signal.SIGKILL)
        with contextlib.suppress(ConnectionError):
            assert held.recv(1) == b""
        loads.more(100)
    nothing_failed(loads.finish())
    bed.settled()


def test_a_candidate_survives_the_death_of_the_draining_one(bed: Bed, loads: Loads) -> None:
    loads.gentle(bed.tls, bed.plain)
    with connect(bed.tls, tls_context()) as held:
        exchange(held, last=False)
        draining = bed.serving_pid()
        bed.rotate()
        bed.served()
        committed = time.monotonic()
        bed.rotate()
        new_candidate(bed)
        os.kill(draining, signal.SIGKILL)
        bed.served()
    for report in loads.finish():
        if report.name.startswith("keepalive"):
            continue  # some of its connections were in the killed one
        assert report.ok > 20, str(report)
        assert all(loss.begun < committed for loss in report.losses), f"lost though not in the killed one: {report}"


def test_no_client_is_answered_by_a_candidate_at_its_gate(bed: Bed) -> None:
    """While the candidate is frozen before its gate, every client is answered, and by the old epoch."""
    old = bed.serial_served()
    bed.rotate()
    pid = new_candidate(bed).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not accepts(pid, bed.tls.port)
        land(flights := launched(bed.tls, 200), within=5)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {flight.serial for flight in flights} == {old}
    bed.served()
    eventually(lambda: serial_served(bed.tls) != old, within=1, what="the old epoch accepts no more")
