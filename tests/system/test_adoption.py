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
def surviving(bed_apart: AgentFixture) -> AgentFixture:
    """An agent fixture whose proxies outlive the agent."""
    bed_apart.more_flags += ["--survive"]
    bed_apart.start()
    return bed_apart


def test_a_killed_agent_finds_its_proxy_and_rotates_on(surviving: AgentFixture, loads: Loads) -> None:
    bed = surviving
    before = bed.serving()
    loads.usual(bed.tls, bed.plain)
    bed.kill_agent()
    loads.more(20)
    bed.launch()
    bed.ready()
    assert bed.serving() == before, "the same process, the same number, the same revision"
    bed.rotate()
    bed.served()
    eventually(lambda: bed.serving().number == before.number + 1, what="the next one serves")
    eventually(lambda: not alive(before.pid), what="the adopted one has drained")
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.timeout(600 + 6 * DEATHS)
def test_an_agent_may_be_killed_at_any_moment_of_a_rotation(surviving: AgentFixture, loads: Loads) -> None:
    bed = surviving
    loads.gentle(bed.tls, bed.plain)
    start = bed.bare_start(times=3)
    for number in range(DEATHS):
        bed.rotate()
        pass_time(1.6 * start * number / DEATHS)
        bed.kill_agent()
        bed.launch()
        bed.ready()
        bed.settled()
    loads.more(20)
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.long
@pytest.mark.timeout(600 * (1 + OPENINGS))
def test_an_agent_may_be_killed_just_after_a_gate_opened(surviving: AgentFixture, loads: Loads) -> None:
    """The proxy's request to its parent is lost with the agent, and the next agent answers it unasked."""
    bed = surviving
    loads.gentle(bed.tls, bed.plain)
    for delay in OPENING_DELAYS * OPENINGS:
        open_a_gate(bed)
        spin(delay)
        bed.kill_agent()
        bed.launch()
        bed.ready()
        eventually(lambda: UNDER_WAY.isdisjoint(stages(bed)), what="one of the two drains")
    loads.more(20)
    nothing_failed(loads.finish())


def open_a_gate(bed: AgentFixture) -> None:
    """Rotate until a read of the state shows an open gate: on a busy machine it may open and complete between two."""
    while True:
        before = bed.serving().number
        bed.rotate()
        look = partial(looked, bed, before)
        if OPENING in eventually(look, every=0, what="a gate opens"):
            return


def looked(bed: AgentFixture, before: int) -> list[str]:
    """Return the stages of the running epochs, once a gate is open, or once another epoch than `before` serves."""
    seen = bed.epochs()
    serves = any(one.stage == "serving" and one.number > before for one in seen)
    return [one.stage for one in seen] if serves or any(one.stage == OPENING for one in seen) else []


def stages(bed: AgentFixture) -> list[str]:
    """Return the stage of each running epoch, by the state file."""
    return [one.stage for one in bed.epochs()]


def spin(span: float) -> None:
    """Wait for less time than a sleep can."""
    end = time.monotonic() + span
    while time.monotonic() < end:
        pass


@pytest.mark.long
def test_counters_go_on_over_the_death_of_the_agent(bed_apart: AgentFixture, loads: Loads) -> None:
    bed = bed_apart
    bed.binary, bed.proxy_args = needed("sidecar").binary, ["-l", "warning"]
    bed.more_flags += ["--survive"]
    bed.start()
    loads.start("closed", bed.plain)
    loads.more(20)
    bed.kill_agent()
    loads.more(20)
    bed.launch()
    bed.ready()
    bed.rotate()
    bed.served()
    loads.more(20)
    answered = sum(report.ok for report in loads.finish())
    eventually(lambda: counted(bed) >= answered, what="the last answers are counted")
    assert counted(bed) == answered


def counted(bed: AgentFixture) -> int:
    """Read the number of responses that the agent has counted."""
    with urlopen(
        f"http://127.0.0.1:{bed.status.port}/stats?filter=^http.http.downstream_rq_2xx$", timeout=PATIENCE
    ) as answer:
        return int(answer.read().rpartition(b":")[2])


def test_a_half_done_rotation_is_rolled_back_and_done_again(surviving: AgentFixture, loads: Loads) -> None:
    bed = surviving
    before = bed.serving()
    loads.gentle(bed.tls, bed.plain)
    with frozen_candidate(bed) as candidate:
        bed.kill_agent()
        bed.launch()
        bed.ready()
        assert not alive(candidate.pid)
    assert bed.serving().number > candidate.number > before.number
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_a_drain_goes_on_after_the_agent_came_back(surviving: AgentFixture) -> None:
    bed = surviving
    bed.stop()
    bed.launch()
    bed.ready()
    old = bed.serving_pid()
    with connect(bed.tls, tls_context()) as held:
        exchange(held, last=False)
        bed.rotate()
        bed.served()
        eventually(lambda: [one.pid for one in bed.state().among(DRAINING)] == [old])
        bed.kill_agent()
        bed.launch()
        bed.ready()
        assert alive(old)
        exchange(held, last=False)
    eventually(lambda: not alive(old), what="it leaves with its last connection")


def test_a_proxy_that_died_with_its_agent_is_started_again(surviving: AgentFixture) -> None:
    bed = surviving
    serving = bed.serving_pid()
    bed.kill_agent()
    kill(serving)
    bed.launch()
    bed.ready()
    assert bed.serving_pid() != serving


@pytest.mark.long
def test_an_adopted_proxy_that_crashes_is_replaced_and_no_client_refused(surviving: AgentFixture, loads: Loads) -> None:
    bed = surviving
    bed.kill_agent()
    bed.launch()
    bed.ready()
    loads.gentle(bed.tls, bed.plain)
    kill(bed.serving_pid())
    bed.ready()
    loads.more(20)
    assert sum(report.reasons()["refused"] for report in loads.finish()) == 0


def test_a_change_while_no_agent_was_there_is_found(surviving: AgentFixture) -> None:
    bed = surviving
    before = bed.serving()
    bed.kill_agent()
    bed.rotate()
    bed.launch()
    bed.ready()
    assert bed.serving().number > before.number
