"""Listeners that are added and removed while the proxy runs, from a file or a control plane."""

import os
import signal

import pytest

from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import body_of
from tests.system.bootstrap import Json, http, lds_from_file, lds_from_plane, listener, plane_cluster, write_lds
from tests.system.certificates import serial
from tests.system.concurrent_requests import land, launched
from tests.system.eventually import eventually, throughout
from tests.system.loads import Loads, nothing_failed
from tests.system.plane.plane import control_plane
from tests.system.room import Room, stopped
from tests.system.wire import Target

pytestmark = pytest.mark.envoy

SYNC = 1.0  # twice the interval at which the agent queries listeners
BODY = b"extra\n"


def extra(target: Target) -> Json:
    """Return a plain listener beside those of the bootstrap."""
    return listener("extra", target.host, target.port, [{"filters": [http(BODY.decode())]}])


def answers(target: Target) -> bool:
    """Return whether the extra listener answers."""
    return body_of(target) == BODY


def refuses(target: Target) -> bool:
    """Return whether the extra listener refuses clients, at once."""
    try:
        body_of(target, timeout=0.2)
    except ConnectionError as error:
        return "refused" in str(error)
    return False


class File:
    """Listeners from a file."""

    def __init__(self, instance: AgentFixture) -> None:
        self.path = instance.directory / "lds.yaml"
        self.target = Target(HOST, instance.room.port())
        self._version = 0
        instance.bootstrap.dynamic = lds_from_file(self.path)

    def publish(self, *, present: bool) -> None:
        """Put the listener into the file, or remove it."""
        self._version += 1
        write_lds(self.path, [extra(self.target)] if present else [], str(self._version))


@pytest.fixture
def lds(unstarted: AgentFixture) -> File:
    """The agent fixture runs, and its listener file is empty."""
    file = File(unstarted)
    file.publish(present=False)
    unstarted.start()
    return file


def test_a_listener_is_added_removed_and_added_again(unstarted: AgentFixture, lds: File, loads: Loads) -> None:
    instance = unstarted
    loads.gentle(instance.tls, instance.plain)
    lds.publish(present=True)
    eventually(lambda: answers(lds.target), what="added")
    load = loads.start("closed", lds.target, clients=2, pace=0.002)
    load.more(50)
    lds.publish(present=False)
    eventually(lambda: refuses(lds.target), what="removed: clients are refused, not kept hanging")
    lds.publish(present=True)
    eventually(lambda: answers(lds.target), what="added again")
    load.more(200)
    reports = loads.finish(at_least=20)
    nothing_failed(reports[:-1])
    last = reports[-1]
    assert set(last.reasons()) <= {"refused", "reset", "eof"}, str(last)
    waits = last.waits + [loss.ended - loss.begun for loss in last.losses]
    usual = max(report.longest_wait for report in reports[:-1])  # of clients of listeners that stayed
    assert max(waits) <= SYNC + 3 * usual, f"no client hangs longer than the sync interval: {max(waits)}, {usual}"


@pytest.mark.parametrize("again", [False, True], ids=["added", "added-again"])
def test_an_added_listener_survives_a_rotation_and_a_crash(
    again: bool, unstarted: AgentFixture, lds: File, loads: Loads
) -> None:
    instance = unstarted
    lds.publish(present=True)
    eventually(lambda: answers(lds.target), what="added")
    if again:
        lds.publish(present=False)
        eventually(lambda: refuses(lds.target))
        lds.publish(present=True)
        eventually(lambda: answers(lds.target), what="added again")
    held(instance, lds.target)
    load = loads.start("bursts", lds.target, clients=50, pace=0.01)
    instance.rotate()
    instance.served()
    load.more(200)
    nothing_failed(loads.finish(at_least=100))
    held(instance, lds.target)
    with stopped(instance.serving_pid()) as pid:
        flights = launched(lds.target, 100)
        os.kill(pid, signal.SIGKILL)
    land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []


def held(instance: AgentFixture, target: Target) -> None:
    """Wait until the agent holds the listening sockets."""
    eventually(lambda: instance.holds(target), what="the vault follows")


@pytest.mark.long
def test_a_dead_control_plane_delays_the_rotation_and_nothing_else(
    unstarted: AgentFixture, loads: Loads, room: Room
) -> None:
    instance, target = unstarted, Target(HOST, room.port())
    with control_plane(room, mutual=False) as plane:
        instance.bootstrap.dynamic = lds_from_plane("plane")
        instance.bootstrap.clusters = [plane_cluster("plane", plane.port)]
        plane.listeners(extra(target))
        plane.start()
        instance.start()
        eventually(lambda: answers(target), what="the listener of the control plane answers")
        held(instance, target)
        plane.kill()
        loads.gentle(instance.tls, target)
        before, old = instance.serving(), serial(instance.mint.newest)
        instance.journal.mark()
        instance.rotate()
        throughout(
            lambda: instance.serving() == before and instance.serial_served() == old,
            span=3,
            what="the old epoch serves",
        )
        assert instance.journal.complaints(), "somebody must be told"
        plane.start()
        instance.served()
        loads.more(20)
        nothing_failed(loads.finish(at_least=20))
        instance.stop()
