"""An agent that is killed and restarted adopts its proxies, without an effect on clients."""

import time
from functools import partial
from urllib.request import urlopen

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.candidates import frozen_candidate
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually, pass_time
from tests.system.loads import Loads, nothing_failed
from tests.system.proxies import needed
from tests.system.room import alive, kill
from tests.system.state import DRAINING
from tests.system.wire import connect, exchange, tls_context

DEATHS = count("AGENT_DEATHS", short=2, long=60)
OPENINGS = count("AGENT_OPENINGS", short=1, long=10)
OPENING, UNDER_WAY = "opening", frozenset({"starting", "waiting", "opening"})
OPENING_DELAYS = [0.0005, 0.001, 0.0015, 0.002, 0.003]  # seconds: the request is in transit


@pytest.fixture
def surviving(unstarted: AgentFixture) -> AgentFixture:
    """An agent fixture whose proxies outlive the agent."""
    unstarted.more_flags += ["--survive"]
    unstarted.start()
    return unstarted


@pytest.mark.haproxy
def test_a_killed_agent_finds_its_proxy_and_rotates_on(surviving: AgentFixture, loads: Loads) -> None:
    instance = surviving
    before = instance.serving()
    loads.usual(instance.tls, instance.plain)
    instance.kill_agent()
    loads.more(20)
    instance.launch()
    instance.ready()
    assert instance.serving() == before, "the same process, the same number, the same revision"
    instance.rotate()
    instance.served()
    eventually(lambda: instance.serving().number == before.number + 1, what="the next one serves")
    eventually(lambda: not alive(before.pid), what="the adopted one has drained")
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.haproxy
@pytest.mark.timeout(600 + 6 * DEATHS)
def test_an_agent_may_be_killed_at_any_moment_of_a_rotation(surviving: AgentFixture, loads: Loads) -> None:
    instance = surviving
    loads.gentle(instance.tls, instance.plain)
    start = instance.bare_start(times=3)
    for number in range(DEATHS):
        instance.rotate()
        pass_time(1.6 * start * number / DEATHS)
        instance.kill_agent()
        instance.launch()
        instance.ready()
        instance.settled()
    loads.more(20)
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.long
@pytest.mark.timeout(600 * (1 + OPENINGS))
def test_an_agent_may_be_killed_just_after_a_gate_opened(surviving: AgentFixture, loads: Loads) -> None:
    """The proxy's request to its parent is lost with the agent, and the next agent answers it unasked."""
    instance = surviving
    loads.gentle(instance.tls, instance.plain)
    for delay in OPENING_DELAYS * OPENINGS:
        open_a_gate(instance)
        spin(delay)
        instance.kill_agent()
        instance.launch()
        instance.ready()
        eventually(lambda: UNDER_WAY.isdisjoint(stages(instance)), what="one of the two drains")
    loads.more(20)
    nothing_failed(loads.finish())


def open_a_gate(instance: AgentFixture) -> None:
    """Rotate until a read of the state shows an open gate: on a busy machine it may open and complete between two."""
    while True:
        before = instance.serving().number
        instance.rotate()
        look = partial(looked, instance, before)
        if OPENING in eventually(look, every=0, what="a gate opens"):
            return


def looked(instance: AgentFixture, before: int) -> list[str]:
    """Return the stages of the running epochs, once a gate is open, or once another epoch than `before` serves."""
    seen = instance.epochs()
    serves = any(one.stage == "serving" and one.number > before for one in seen)
    return [one.stage for one in seen] if serves or any(one.stage == OPENING for one in seen) else []


def stages(instance: AgentFixture) -> list[str]:
    """Return the stage of each running epoch, by the state file."""
    return [one.stage for one in instance.epochs()]


def spin(span: float) -> None:
    """Wait for less time than a sleep can."""
    end = time.monotonic() + span
    while time.monotonic() < end:
        pass


@pytest.mark.long
def test_counters_go_on_over_the_death_of_the_agent(unstarted: AgentFixture, loads: Loads) -> None:
    instance = unstarted
    instance.binary, instance.proxy_args = needed("sidecar").binary, ["-l", "warning"]
    instance.more_flags += ["--survive"]
    instance.start()
    loads.start("closed", instance.plain)
    loads.more(20)
    instance.kill_agent()
    loads.more(20)
    instance.launch()
    instance.ready()
    instance.rotate()
    instance.served()
    loads.more(20)
    answered = sum(report.ok for report in loads.finish())
    eventually(lambda: counted(instance) >= answered, what="the last answers are counted")
    assert counted(instance) == answered


def counted(instance: AgentFixture) -> int:
    """Read the number of responses that the agent has counted."""
    with urlopen(
        f"http://127.0.0.1:{instance.status.port}/stats?filter=^http.http.downstream_rq_2xx$", timeout=PATIENCE
    ) as answer:
        return int(answer.read().rpartition(b":")[2])


def test_a_half_done_rotation_is_rolled_back_and_done_again(surviving: AgentFixture, loads: Loads) -> None:
    instance = surviving
    before = instance.serving()
    loads.gentle(instance.tls, instance.plain)
    with frozen_candidate(instance) as candidate:
        instance.kill_agent()
        instance.launch()
        instance.ready()
        assert not alive(candidate.pid)
    assert instance.serving().number > candidate.number > before.number
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_a_drain_goes_on_after_the_agent_came_back(surviving: AgentFixture) -> None:
    instance = surviving
    instance.stop()
    instance.launch()
    instance.ready()
    old = instance.serving_pid()
    with connect(instance.tls, tls_context()) as held:
        exchange(held, last=False)
        instance.rotate()
        instance.served()
        eventually(lambda: [one.pid for one in instance.state().among(DRAINING)] == [old])
        instance.kill_agent()
        instance.launch()
        instance.ready()
        assert alive(old)
        exchange(held, last=False)
    eventually(lambda: not alive(old), what="it leaves with its last connection")


def test_a_proxy_that_died_with_its_agent_is_started_again(surviving: AgentFixture) -> None:
    instance = surviving
    serving = instance.serving_pid()
    instance.kill_agent()
    kill(serving)
    instance.launch()
    instance.ready()
    assert instance.serving_pid() != serving


@pytest.mark.long
def test_an_adopted_proxy_that_crashes_is_replaced_and_no_client_refused(surviving: AgentFixture, loads: Loads) -> None:
    instance = surviving
    instance.kill_agent()
    instance.launch()
    instance.ready()
    loads.gentle(instance.tls, instance.plain)
    kill(instance.serving_pid())
    instance.ready()
    loads.more(20)
    assert sum(report.reasons()["refused"] for report in loads.finish()) == 0


def test_a_change_while_no_agent_was_there_is_found(surviving: AgentFixture) -> None:
    instance = surviving
    before = instance.serving()
    instance.kill_agent()
    instance.rotate()
    instance.launch()
    instance.ready()
    assert instance.serving().number > before.number
