"""Many rotations at once cause few epochs, and concurrent drains are few and bounded."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import pass_time
from tests.system.layouts import ALTERNATING, KEY_LATE
from tests.system.loads import Loads, nothing_failed
from tests.system.state import DRAINING, SERVING
from tests.system.wire import connect, exchange, tls_context

PAUSE = 0.15  # a slow machine may pause long enough to end a burst, which takes the agent 0.2 s
LIMIT = 2.0  # the longest time that the agent waits for the end of a burst
LAYOUTS = [layout for layout in ALTERNATING if layout is not KEY_LATE]


@contextmanager
def watched(instance: AgentFixture) -> Iterator[dict[str, int]]:
    """Read the agent's state every 5 ms; return the largest number of epochs in each state."""
    most = {SERVING: 0, DRAINING: 0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            with suppress(OSError):
                state = instance.state()
                most.update({name: max(most[name], len(state.among(name))) for name in most})

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


@pytest.mark.pushed
def test_twenty_rotations_in_two_seconds_are_a_handful_of_epochs(instance: AgentFixture, loads: Loads) -> None:
    loads.gentle(instance.tls, instance.plain)
    first, pairs, written = instance.serving().number, [instance.mint.leaf() for _ in range(20)], list[float]()
    for number, pair in enumerate(pairs):
        written.append(instance.rotate(LAYOUTS[number % len(LAYOUTS)], pair))
        pass_time(0.1)
    instance.served()
    nothing_failed(loads.finish(at_least=20))
    pauses = sum(later - earlier > PAUSE for earlier, later in pairwise(written))
    assert instance.serving().number - first <= 10 + pauses + (written[-1] - written[0]) // LIMIT


@pytest.mark.long
def test_rotations_during_drains_fail_nothing_and_no_more_than_three_drain(
    unstarted: AgentFixture, loads: Loads
) -> None:
    instance = unstarted
    instance.prepare()
    instance.more_flags += ["--drain-deadline", instance.ten_starts(), "--drain-time", "5m"]
    instance.launch()
    instance.ready()
    loads.gentle(instance.tls, instance.plain)
    with ExitStack() as held, watched(instance) as most:
        for _ in range(6):
            sock = held.enter_context(connect(instance.tls, tls_context()))
            exchange(sock, last=False)  # keeps its epoch draining until the deadline
            instance.rotate()
            instance.served()
    assert most[SERVING] == 1
    assert 2 <= most[DRAINING] <= 3
    nothing_failed(loads.finish(at_least=20))
    instance.settled()


@pytest.mark.long
def test_where_clients_stay_for_long_a_certificate_waits_for_no_drain_deadline(
    instance: AgentFixture, loads: Loads
) -> None:
    """Three drain for five minutes: the next one waits for the drain time, a second here."""
    loads.gentle(instance.tls, instance.plain)
    with ExitStack() as held, watched(instance) as most:
        for _ in range(5):
            exchange(held.enter_context(connect(instance.tls, tls_context())), last=False)
            instance.rotate()
            instance.served()
        instance.committed()
    assert instance.journal.named("rotation.waits"), "it is said"
    assert most[DRAINING] > 3
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
@pytest.mark.pushed
def test_bursts_of_clients_are_all_answered_across_a_rotation(instance: AgentFixture, loads: Loads) -> None:
    """The accept queues are never empty: clients in them must not be lost."""
    loads.start("bursts", instance.plain, clients=400)
    loads.start("bursts", instance.tls, clients=50)
    for _ in range(2):
        loads.more(200)
        instance.rotate()
        instance.served()
    loads.more(200)
    nothing_failed(loads.finish(at_least=400))
