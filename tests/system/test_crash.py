"""Whenever the serving proxy dies, clients wait for the next one: none is refused, and only what was in it is lost."""

import socket
import time
from pathlib import Path

import pytest

from tests.system.bare import STARTS, healthy
from tests.system.bed import Bed
from tests.system.certificates import Files, serial
from tests.system.eventually import eventually, pass_time, throughout
from tests.system.flight import land, launched
from tests.system.layouts import IN_PLACE
from tests.system.loads import Loads, Report
from tests.system.room import Death, kill, stopped

pytestmark = pytest.mark.quiet


def kill_serving(bed: Bed) -> Death:
    """Kill the serving Envoy."""
    return kill(bed.serving_pid())


def only_in_flight(reports: list[Report], deaths: list[Death]) -> None:
    """Fail if a request was lost that was not on its way inside a proxy at the moment that one was killed."""
    for report in reports:
        assert report.ok > 20, str(report)
        assert len(report.losses) == report.failed, str(report)
        for loss in report.losses:
            assert loss.reason in {"reset", "eof"}, f"{report.name}: {loss}"
            in_it = (loss.begun <= death.gone and loss.ended >= death.struck for death in deaths)
            assert any(in_it), f"{report.name}: {loss}"


def gap(reports: list[Report], killed: float) -> float:
    """Return how long after the kill the first request that began after it was answered."""
    return min(report.first_answer_after(killed) for report in reports) - killed


@pytest.mark.parametrize("disk", ["good", "garbage"])
def test_a_killed_proxy_is_replaced_and_nobody_is_refused(disk: str, bed: Bed, loads: Loads) -> None:
    loads.gentle(bed.tls, bed.plain)
    loads.start("open", bed.tls, clients=1, rate=100)
    start = bed.bare_start()  # under the same load
    if disk == "garbage":
        bed.journal.mark()
        IN_PLACE.again(bed.certs, Files(b"garbage", b"garbage"))
        eventually(lambda: bed.journal.complaints(str(bed.certs)), within=10, what="a complaint about garbage")
    killed = kill_serving(bed)
    eventually(lambda: bed.serving().number > 1, within=5, what="the next one serves")
    assert bed.serial_served() == serial(bed.mint.newest)
    loads.more(20)
    reports = loads.finish()
    only_in_flight(reports, [killed])
    assert gap(reports, killed.struck) <= STARTS * start, f"a start takes {start:.3f} s"


def crash_and_recover(bed: Bed) -> Death:
    """Kill the serving Envoy, see the next one serve and a second pass."""
    before = bed.serving().number
    killed = kill_serving(bed)
    eventually(lambda: bed.serving().number > before, within=5, what="the next one serves")
    pass_time(max(0.0, killed.struck + 1 - time.monotonic()))
    return killed


@pytest.mark.long
def test_five_crashes_a_second_apart_refuse_nobody(bed: Bed, loads: Loads) -> None:
    loads.gentle(bed.tls, bed.plain)
    kills = [crash_and_recover(bed) for _ in range(5)]
    loads.more(20)
    only_in_flight(loads.finish(), kills)


def test_clients_queued_at_the_moment_of_a_crash_are_answered(bed: Bed) -> None:
    with stopped(bed.serving_pid()):
        flights = launched(bed.tls, 200) + launched(bed.plain, 200)
        kill_serving(bed)
    land(flights, within=5)
    assert [str(flight.failure) for flight in flights if flight.failure] == []


def refused(bed: Bed) -> bool:
    """Tell whether the plain listener refuses a client."""
    try:
        socket.create_connection((bed.plain.host, bed.plain.port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_while_nothing_can_start_clients_are_held_and_then_refused(bed_apart: Bed, broken: Path) -> None:
    bed = bed_apart
    assert healthy(bed.status)
    broken.touch()
    killed = kill_serving(bed)
    eventually(lambda: not healthy(bed.status), within=0.25, what="readiness is gone at once")
    waiting = launched(bed.plain, 5)
    throughout(lambda: not refused(bed), span=max(0.0, killed.struck + 0.8 - time.monotonic()), what="clients are held")
    eventually(lambda: refused(bed), within=1.5, what="clients are refused after the hold")
    land(waiting, within=1)
    assert {flight.failure.reason for flight in waiting if flight.failure} == {"reset"}
    broken.unlink()
    bed.ready(within=10)


@pytest.mark.parametrize("broken", ["10s"], indirect=True)
def test_a_repair_within_the_hold_is_not_noticed_by_clients(bed_apart: Bed, broken: Path) -> None:
    bed = bed_apart
    broken.touch()
    kill_serving(bed)
    waiting = launched(bed.plain, 50)
    pass_time(0.3)
    broken.unlink()
    land(waiting, within=10)
    assert [str(flight.failure) for flight in waiting if flight.failure] == []


def test_after_a_crash_the_certificate_still_rotates(bed: Bed) -> None:
    kill_serving(bed)
    bed.rotate()
    bed.served()
    bed.settled()
