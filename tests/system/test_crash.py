"""When the serving proxy is killed, clients wait for the next one: none is refused, only requests in it are lost."""

import socket
import time
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import STARTS, healthy
from tests.system.certificates import Files, serial
from tests.system.concurrent_requests import land, launched
from tests.system.eventually import PATIENCE, eventually, pass_time, up_to
from tests.system.layouts import IN_PLACE
from tests.system.loads import Loads, Report
from tests.system.room import Death, kill, stopped

pytestmark = [pytest.mark.quiet, pytest.mark.pushed, pytest.mark.haproxy]
HOLD = 1.0  # of the fixture `broken`


def kill_serving(instance: AgentFixture) -> Death:
    """Kill the serving Envoy."""
    return kill(instance.serving_pid())


def only_in_flight(reports: list[Report], deaths: list[Death]) -> None:
    """Fail if a lost request was not in progress in a proxy at the moment that one was killed."""
    for report in reports:
        assert report.ok, str(report)
        assert len(report.losses) == report.failed, str(report)
        for loss in report.losses:
            assert loss.reason in {"reset", "eof"}, f"{report.name}: {loss}"
            in_it = (loss.begun <= death.gone and loss.ended >= death.struck for death in deaths)
            assert any(in_it), f"{report.name}: {loss}"


def gap(reports: list[Report], killed: float) -> float:
    """Return the time from the kill to the first response to a request that began after it."""
    return min(report.first_answer_after(killed) for report in reports) - killed


@pytest.mark.parametrize("disk", ["good", "garbage"])
def test_a_killed_proxy_is_replaced_and_no_client_is_refused(disk: str, instance: AgentFixture, loads: Loads) -> None:
    loads.gentle(instance.tls, instance.plain)
    loads.start("open", instance.tls, clients=1, rate=100)
    if disk == "garbage":
        instance.journal.mark()
        IN_PLACE.again(instance.certs, Files(b"garbage", b"garbage"))
        eventually(lambda: instance.journal.complaints(str(instance.certs)), what="a complaint about garbage")
    start, killed = instance.while_starting(lambda: replaced(instance))
    assert instance.serial_served() == serial(instance.mint.newest)
    loads.more(20)
    reports = loads.finish()
    only_in_flight(reports, [killed])
    assert gap(reports, killed.struck) <= STARTS * start, f"a start takes {start:.3f} s"


def replaced(instance: AgentFixture) -> Death:
    """Kill the serving Envoy and wait until the next one serves."""
    before = instance.serving().number
    killed = kill_serving(instance)
    eventually(lambda: instance.serving().number > before, what="the next one serves")
    return killed


def crash_and_recover(instance: AgentFixture) -> Death:
    """Kill the serving Envoy, wait until the next one serves and a second has passed."""
    killed = replaced(instance)
    pass_time(max(0.0, killed.struck + 1 - time.monotonic()))
    return killed


@pytest.mark.long
def test_five_crashes_a_second_apart_refuse_no_client(instance: AgentFixture, loads: Loads) -> None:
    loads.gentle(instance.tls, instance.plain)
    kills = [crash_and_recover(instance) for _ in range(5)]
    loads.more(20)
    only_in_flight(loads.finish(), kills)


def test_clients_queued_at_the_moment_of_a_crash_are_answered(instance: AgentFixture) -> None:
    with stopped(instance.serving_pid()):
        flights = launched(instance.tls, 200) + launched(instance.plain, 200)
        kill_serving(instance)
    land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []


def refused(instance: AgentFixture) -> bool:
    """Return whether the plain listener refuses a client."""
    try:
        socket.create_connection((instance.plain.host, instance.plain.port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_while_nothing_can_start_clients_are_held_and_then_refused(unstarted: AgentFixture, broken: Path) -> None:
    instance = unstarted
    assert healthy(instance.status)
    broken.touch()
    with stopped(instance.serving_pid()):
        waiting = launched(instance.plain, 5)
        killed = kill_serving(instance)
    up_to(killed.struck + HOLD, lambda: not refused(instance), what="clients are held")
    eventually(lambda: refused(instance), what="clients are refused after the hold")
    land(waiting)
    assert [flight.failure and flight.failure.reason for flight in waiting] == ["reset"] * 5
    assert not healthy(instance.status)
    broken.unlink()
    instance.ready()


@pytest.mark.parametrize("broken", ["5m"], indirect=True)
def test_a_repair_within_the_hold_is_not_noticed_by_clients(unstarted: AgentFixture, broken: Path) -> None:
    instance = unstarted
    broken.touch()
    kill_serving(instance)
    waiting = launched(instance.plain, 50)
    eventually(lambda: not healthy(instance.status), what="readiness is gone while clients are held")
    assert not refused(instance)
    broken.unlink()
    land(waiting)
    assert [str(flight.failure) for flight in waiting if flight.failure] == []


def test_after_a_crash_the_certificate_still_rotates(instance: AgentFixture) -> None:
    kill_serving(instance)
    instance.rotate()
    instance.served()
    instance.settled()
