"""Certificates are rotated in every layout without an effect on clients at full speed."""

import os
import signal
import statistics
from functools import partial
from itertools import cycle, islice

import pytest

from tests.pki import Algorithm
from tests.system.agent_fixture import AgentFixture
from tests.system.bare import STARTS, first_shown, healthy
from tests.system.certificates import serial
from tests.system.concurrent_requests import land, launched
from tests.system.counts import count
from tests.system.eventually import eventually, throughout
from tests.system.layouts import ALTERNATING, IN_PLACE, KUBERNETES, MOVED, RENAMED, Layout
from tests.system.loads import Loads, nothing_failed
from tests.system.room import all_threads_stopped, stopped

pytestmark = [pytest.mark.quiet, pytest.mark.pushed]

ROTATIONS = count("AGENT_ROTATIONS", short=6, long=200)
MEASURED = count("AGENT_MEASURED", short=5, long=20)


@pytest.mark.timeout(600 + 4 * ROTATIONS)
def test_rotations_in_every_layout_under_load_fail_nothing(instance: AgentFixture, loads: Loads) -> None:
    loads.usual(instance.tls, instance.plain)
    loads.more(20)
    starts = [
        instance.while_starting(partial(rotate, instance, layout))[0]
        for layout in islice(cycle(ALTERNATING), ROTATIONS)
    ]
    loads.more(20)
    reports = loads.finish(at_least=100)
    nothing_failed(reports)
    longest = {report.name: round(report.longest_wait, 3) for report in reports}
    assert max(longest.values()) <= STARTS * max(starts), f"longest waits {longest}, starts of a proxy {starts}"


def rotate(instance: AgentFixture, layout: Layout) -> None:
    """Rotate, and wait for the new certificate."""
    instance.rotate(layout)
    instance.served()


@pytest.mark.parametrize(
    "layout",
    [KUBERNETES, IN_PLACE, *(pytest.param(one, marks=pytest.mark.long) for one in (RENAMED, MOVED))],
    ids=lambda one: one.name,
)
def test_a_new_certificate_is_served_within_a_few_starts(instance: AgentFixture, layout: Layout) -> None:
    measured = [start_and_rotation(instance, layout) for _ in range(MEASURED)]
    ratio = statistics.median(span / start for start, span in measured)
    assert ratio <= STARTS, f"{ratio:.2f} starts; starts and spans {measured}"


def start_and_rotation(instance: AgentFixture, layout: Layout) -> tuple[float, float]:
    """Rotate a settled fixture; return the duration of a concurrent start of a bare proxy and of the rotation.

    In seconds. A rotation lasts from the last written byte to the first handshake with the new certificate.
    """
    instance.settled()
    pair = instance.mint.leaf()
    return instance.while_starting(lambda: -instance.rotate(layout, pair) + first_shown(instance.tls, serial(pair)))


@pytest.mark.parametrize("port", ["tls", "plain"])
def test_clients_queued_at_a_hung_proxy_are_answered_by_the_next_one(instance: AgentFixture, port: str) -> None:
    old = instance.serving_pid()
    with stopped(old):
        flights = launched(instance.tls if port == "tls" else instance.plain, 300)
        instance.rotate()
        land(flights)
        assert all_threads_stopped(old)
    assert [str(flight.failure) for flight in flights if flight.failure] == []
    assert {flight.serial for flight in flights} <= {serial(instance.mint.newest), None}
    instance.settled()


def test_keys_of_every_kind_are_served(instance: AgentFixture) -> None:
    keys: tuple[Algorithm, ...] = ("rsa", "ed25519", "ecdsa")
    for key in keys:
        instance.rotate(pair=instance.mint.leaf(key=key))
        instance.served()


def test_the_same_bytes_written_again_start_nothing(instance: AgentFixture) -> None:
    before = instance.serving()
    IN_PLACE.again(instance.certs, instance.mint.newest)
    RENAMED.again(instance.certs, instance.mint.newest)
    throughout(lambda: [one.number for one in instance.epochs()] == [before.number], span=1, what="no other epoch")


def test_sighup_makes_a_new_epoch_of_the_same_revision(instance: AgentFixture, loads: Loads) -> None:
    before = instance.serving()
    loads.gentle(instance.tls, instance.plain)
    os.kill(instance.agent_pid, signal.SIGHUP)
    eventually(lambda: instance.serving().number > before.number)
    assert instance.serving().revision == before.revision
    loads.more(20)
    nothing_failed(loads.finish(at_least=20))


def test_a_first_certificate_that_comes_late_is_waited_for(unstarted: AgentFixture) -> None:
    unstarted.bootstrap.write(unstarted.config)
    unstarted.launch()
    eventually(lambda: not healthy(unstarted.status), what="the agent says that it is not ready")
    unstarted.layout.first(unstarted.certs, unstarted.mint.leaf())
    unstarted.ready()
