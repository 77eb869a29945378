"""A candidate may exit, hang or be terminated at any moment before its gate opens, without an effect on clients.

A signal is exact: the candidate is stopped first, and gets it only if it does not accept clients yet.
"""

import contextlib
import os
import random
import signal
import time
from signal import Signals

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import serial_served
from tests.system.candidates import freeze, frozen_candidate, next_candidate
from tests.system.certificates import serial
from tests.system.concurrent_requests import land, launched
from tests.system.counts import count
from tests.system.eventually import eventually, pass_time
from tests.system.listening import accepts
from tests.system.loads import Loads, nothing_failed
from tests.system.room import kill
from tests.system.state import DRAINING
from tests.system.wire import connect, exchange, tls_context

STRIKES = count("AGENT_STRIKES", short=2, long=100)


def strike(instance: AgentFixture, pid: int, number: Signals) -> bool:
    """Send a signal to a candidate if its gate is still closed; return whether it was sent."""
    if not freeze(instance, pid):
        return False
    os.kill(pid, number)
    if number is not signal.SIGSTOP:
        with contextlib.suppress(ProcessLookupError):  # the agent may have noticed its exit already
            os.kill(pid, signal.SIGCONT)
    return True


@pytest.mark.timeout(600 + 4 * STRIKES)
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGSTOP, marks=pytest.mark.long)],
    ids=lambda one: one.name,
)
def test_a_struck_candidate_costs_no_request(number: Signals, unstarted: AgentFixture, loads: Loads) -> None:
    instance, hits = unstarted, 0
    instance.prepare()
    if number is signal.SIGSTOP:
        instance.more_flags += ["--start-deadline", instance.ten_starts()]
    instance.launch()
    instance.ready()
    loads.gentle(instance.tls, instance.plain)
    while hits < STRIKES:  # the others were observed too late
        before = instance.serving().number
        instance.rotate()
        if (candidate := next_candidate(instance, before)) is not None:
            pass_time(random.uniform(0, 0.06))
            hits += strike(instance, candidate.pid, number)
        instance.served()
        instance.committed()
    nothing_failed(loads.finish(at_least=20 * STRIKES))


def test_the_serving_one_may_crash_while_a_candidate_starts(instance: AgentFixture, loads: Loads) -> None:
    loads.gentle(instance.tls, instance.plain)
    with frozen_candidate(instance):
        death = kill(instance.serving_pid())
    instance.served()
    loads.more(20)
    for report in loads.finish():
        assert report.reasons()["refused"] == 0, str(report)
        assert all(loss.begun <= death.gone for loss in report.losses), str(report)


def test_a_killed_draining_one_loses_only_its_own_connections(instance: AgentFixture, loads: Loads) -> None:
    with connect(instance.tls, tls_context()) as held:
        exchange(held, last=False)
        draining = instance.serving_pid()
        instance.rotate()
        instance.served()
        drains(instance, draining)
        loads.start("closed", instance.tls, clients=2)
        loads.start("bursts", instance.plain, clients=50)
        loads.start("keepalive", instance.tls, pace=0.005)
        os.kill(draining, signal.SIGKILL)
        with contextlib.suppress(ConnectionError):
            assert held.recv(1) == b""
        loads.more(100)
    nothing_failed(loads.finish(at_least=100))
    instance.settled()


def drains(instance: AgentFixture, pid: int) -> None:
    """Wait until this epoch is the only draining one, and accepts no more clients."""
    eventually(lambda: [one.pid for one in instance.state().among(DRAINING)] == [pid], what=f"{pid} drains")
    eventually(
        lambda: not accepts(pid, instance.tls.port) and not accepts(pid, instance.plain.port), what="it accepts no more"
    )


def test_a_candidate_survives_the_death_of_the_draining_one(instance: AgentFixture, loads: Loads) -> None:
    loads.gentle(instance.tls, instance.plain)
    with connect(instance.tls, tls_context()) as held:
        exchange(held, last=False)
        draining = instance.serving_pid()
        instance.rotate()
        instance.served()
        drains(instance, draining)
        committed = time.monotonic()
        with frozen_candidate(instance):
            kill(draining)
        instance.served()
    loads.more(20)
    for report in loads.finish():
        if report.name.startswith("keepalive"):
            continue  # some of its connections were in the killed one
        assert all(loss.begun < committed for loss in report.losses), f"lost though not in the killed one: {report}"


def test_no_client_is_answered_by_a_candidate_at_its_gate(instance: AgentFixture) -> None:
    """While the candidate is stopped at its gate, the old epoch answers every client."""
    with frozen_candidate(instance):
        old = instance.serial_served()
        land(flights := launched(instance.tls, 200))
    assert old != serial(instance.mint.newest)
    assert {flight.serial for flight in flights} == {old}
    instance.served()
    eventually(lambda: serial_served(instance.tls) != old, what="the old epoch accepts no more")
