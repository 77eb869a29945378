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

pytestmark = pytest.mark.quiet
HOLD = 1.0  # of the fixture `broken`


def kill_serving(bed: AgentFixture) -> Death:
    """Kill the serving Envoy."""
    return kill(bed.serving_pid())


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
def test_a_killed_proxy_is_replaced_and_no_client_is_refused(disk: str, bed: AgentFixture, loads: Loads) -> None:
    loads.gentle(bed.tls, bed.plain)
    loads.start("open", bed.tls, clients=1, rate=100)
    if disk == "garbage":
        bed.journal.mark()
        IN_PLACE.again(bed.certs, Files(b"garbage", b"garbage"))
        eventually(lambda: bed.journal.complaints(str(bed.certs)), what="a complaint about garbage")
    start, killed = bed.while_starting(lambda: replaced(bed))
    assert bed.serial_served() == serial(bed.mint.newest)
    loads.more(20)
    reports = loads.finish()
    only_in_flight(reports, [killed])
    assert gap(reports, killed.struck) <= STARTS * start, f"a start takes {start:.3f} s"


def replaced(bed: AgentFixture) -> Death:
    """Kill the serving Envoy and wait until the next one serves."""
    before = bed.serving().number
    killed = kill_serving(bed)
    eventually(lambda: bed.serving().number > before, what="the next one serves")
    return killed


def crash_and_recover(bed: AgentFixture) -> Death:
    """Kill the serving Envoy, wait until the next one serves and a second has passed."""
    killed = replaced(bed)
    pass_time(max(0.0, killed.struck + 1 - time.monotonic()))
    return killed


@pytest.mark.long
def test_five_crashes_a_second_apart_refuse_no_client(bed: AgentFixture, loads: Loads) -> None:
    loads.gentle(bed.tls, bed.plain)
    kills = [crash_and_recover(bed) for _ in range(5)]
    loads.more(20)
    only_in_flight(loads.finish(), kills)


def test_clients_queued_at_the_moment_of_a_crash_are_answered(bed: AgentFixture) -> None:
    with stopped(bed.serving_pid()):
        flights = launched(bed.tls, 200) + launched(bed.plain, 200)
        kill_serving(bed)
    land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []


def refused(bed: AgentFixture) -> bool:
    """Return whether the plain listener refuses a client."""
    try:
        socket.create_connection((bed.plain.host, bed.plain.port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_while_nothing_can_start_clients_are_held_and_then_refused(bed_apart: AgentFixture, broken: Path) -> None:
    bed = bed_apart
    assert healthy(bed.status)
    broken.touch()
    with stopped(bed.serving_pid()):
        waiting = launched(bed.plain, 5)
        killed = kill_serving(bed)
    up_to(killed.struck + HOLD, lambda: not refused(bed), what="clients are held")
    eventually(lambda: refused(bed), what="clients are refused after the hold")
    land(waiting)
    assert [flight.failure and flight.failure.reason for flight in waiting] == ["reset"] * 5
    assert not healthy(bed.status)
    broken.unlink()
    bed.ready()


@pytest.mark.parametrize("broken", ["5m"], indirect=True)
def test_a_repair_within_the_hold_is_not_noticed_by_clients(bed_apart: AgentFixture, broken: Path) -> None:
    bed = bed_apart
    broken.touch()
    kill_serving(bed)
    waiting = launched(bed.plain, 50)
    eventually(lambda: not healthy(bed.status), what="readiness is gone while clients are held")
    assert not refused(bed)
    broken.unlink()
    land(waiting)
    assert [str(flight.failure) for flight in waiting if flight.failure] == []


def test_after_a_crash_the_certificate_still_rotates(bed: AgentFixture) -> None:
    kill_serving(bed)
    bed.rotate()
    bed.served()
    bed.settled()
