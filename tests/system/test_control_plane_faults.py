"""A control plane that is down, fails, hangs or sends invalid resources, during a rotation, a crash, or at the start.

The serving epoch continues, no incomplete epoch replaces it, and the reason is shown to the operator.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.system.bare import healthy
from tests.system.bootstrap import replace
from tests.system.certificates import Mint, authority
from tests.system.concurrent_requests import land, launched
from tests.system.conftest import Envoys, MakeSite
from tests.system.eventually import eventually, throughout
from tests.system.layouts import ROOT
from tests.system.loads import Loads, nothing_failed
from tests.system.plane.behaviour import KINDS, LISTENERS, SECRETS
from tests.system.plane.plane import ControlPlane
from tests.system.plane.site import SECRET, Site
from tests.system.plane.sources import CLUSTER, aggregated, refused_listener
from tests.system.room import alive, kill, stopped
from tests.system.state import CANDIDATE
from tests.system.test_crash import only_in_flight
from tests.system.test_crash import refused as refuses

pytestmark = pytest.mark.envoy

ERRORS = ("refused", "unavailable", "unreachable", "connect", "closed", "answer", "timeout", "timed out")
HOLD = 1.0
START_DEADLINE = 3.0
Fault = Callable[[ControlPlane], AbstractContextManager[object]]


@contextmanager
def dead(plane: ControlPlane) -> Iterator[None]:
    """Stop the control plane."""
    plane.kill()
    yield
    plane.start()


@contextmanager
def unavailable(plane: ControlPlane) -> Iterator[None]:
    """End every stream with UNAVAILABLE."""
    plane.change(unavailable=True)
    yield
    plane.change(unavailable=False)


@contextmanager
def silent(plane: ControlPlane) -> Iterator[None]:
    """Answer no request."""
    plane.change(silent=list(KINDS))
    yield
    plane.change(silent=[])


def hanging(plane: ControlPlane) -> AbstractContextManager[object]:
    """Let the control plane hang: the kernel accepts its connections, without an answer."""
    return stopped(plane.pid)


FAULTS = [
    pytest.param(fault, delta, marks=() if (fault, delta) in SHORT else pytest.mark.long)
    for SHORT in [{(dead, True)}]
    for fault in (dead, unavailable, silent, hanging)
    for delta in (False, True)
]


@pytest.mark.parametrize(("fault", "delta"), FAULTS)
def test_a_rotation_waits_for_its_control_plane_and_says_so(
    fault: Fault, delta: bool, make_site: MakeSite, loads: Loads
) -> None:
    """For each kind of fault of the control plane."""
    site = make_site(delta=delta)
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    with fault(site.plane):
        before = site.rotate()
        site.explains(site.names_of_the_plane(), ERRORS)
        site.stays(before, span=1)
    site.committed(before)
    loads.more(20)
    nothing_failed(loads.finish(at_least=20))


@contextmanager
def empty(plane: ControlPlane) -> Iterator[None]:
    """Send no listeners on new streams, as after a start with an empty cache."""
    plane.change(empty_for_new=[LISTENERS])
    yield
    plane.change(empty_for_new=[])


@pytest.mark.parametrize(
    "fault", [silent, pytest.param(unavailable, marks=pytest.mark.long), pytest.param(empty, marks=pytest.mark.long)]
)
def test_a_rotation_that_its_control_plane_fails_is_tried_again_after_a_growing_delay(
    fault: Fault, make_site: MakeSite, loads: Loads
) -> None:
    """The delay is at most a minute (`Policy.retry_limit`); the old epoch serves and readiness stays."""
    site = make_site()
    site.instance.more_flags += ["--start-deadline", "1s"]
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    with fault(site.plane):
        before = site.rotate()
        eventually(lambda: len(site.dropped()) >= 4, what="candidates are dropped")
        assert healthy(site.instance.status)
        site.stays(before, span=0.5)
        assert "did not serve within 1 s" in site.log()
    site.committed(before)
    delays = [float(each) for each in re.findall(r"next attempt (?:in )?([0-9.]+) s", site.log())]
    assert len(delays) >= 2
    assert delays[0] < delays[-1] <= 60, "jitter takes at most half of a delay that doubles"
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_a_rotation_does_not_commit_when_envoy_gives_up_waiting_for_its_listeners(
    make_site: MakeSite, loads: Loads
) -> None:
    """Beyond `initial_fetch_timeout`, when Envoy continues without listeners."""
    site = make_site(fetch_timeout="1s")
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    site.plane.kill()
    before = site.rotate()
    site.stays(before, span=4)
    site.plane.start()
    site.committed(before)
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
@pytest.mark.parametrize("delta", [False, pytest.param(True, marks=pytest.mark.long)], ids=["sotw", "delta"])
def test_a_rotation_waits_for_a_secret_that_does_not_come(delta: bool, make_site: MakeSite, loads: Loads) -> None:
    """Beyond `initial_fetch_timeout`, when Envoy would listen without a certificate."""
    site = make_site(delta=delta, fetch_timeout="1s")
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    site.plane.change(silent=[SECRETS])
    before = site.rotate()
    site.stays(before, span=2.5)
    site.explains([SECRET])
    site.plane.change(silent=[])
    site.committed(before)
    nothing_failed(loads.finish(at_least=20))


VERSIONS = pytest.mark.parametrize("version", ["1.40", pytest.param("1.36", marks=pytest.mark.long)])


@VERSIONS
def test_a_secret_that_envoy_refuses_ends_the_rotation_at_once(
    version: str, envoys: Envoys, make_site: MakeSite, loads: Loads
) -> None:
    """A rejected secret ends the wait; the old epoch serves."""
    site = make_site(binary=envoys(version))
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    served = site.secrets.newest
    site.unfit_secret()
    site.plane.change()
    before = site.rotate()
    site.explains([SECRET])
    eventually(lambda: not site.instance.state().among(CANDIDATE), what="the candidate is gone")
    site.stays(before, span=1)
    assert site.secrets.newest is served
    site.secret()
    site.plane.change()
    site.rotate()
    site.committed(before)
    nothing_failed(loads.finish(at_least=20))


@VERSIONS
def test_a_first_start_without_a_usable_secret_is_not_ready_and_the_repair_serves_by_itself(
    version: str, envoys: Envoys, make_site: MakeSite
) -> None:
    """No epoch serves yet."""
    site = make_site(binary=envoys(version))
    site.unfit_secret()
    site.plane.start()
    site.launch()
    eventually(lambda: site.plane.seen("nack", kind=SECRETS), what="Envoy refuses the secret")
    site.unready([SECRET])
    throughout(lambda: not healthy(site.instance.status), span=1, what="not ready", every=0.05)
    site.secret()
    site.plane.change()
    site.ready()


@pytest.mark.long
def test_after_a_crash_without_a_control_plane_the_first_candidate_waits_for_it(make_site: MakeSite) -> None:
    """Clients are held, then refused; the start deadline ends no candidate while no epoch serves."""
    site = make_site()
    site.instance.more_flags += ["--hold", f"{HOLD:g}s", "--start-deadline", f"{START_DEADLINE:g}s"]
    site.start()
    site.instance.journal.mark()
    site.plane.kill()
    death = kill(site.instance.serving_pid())
    eventually(lambda: not healthy(site.instance.status), what="readiness is gone at once")
    waiting = launched(site.instance.plain, 5)
    held = death.struck + HOLD - 0.2 - time.monotonic()
    throughout(lambda: not refuses(site.instance), span=max(0.0, held), what="clients are held")
    eventually(lambda: refuses(site.instance), what="clients are refused after the hold")
    land(waiting)
    assert {flight.failure.reason for flight in waiting if flight.failure} == {"reset"}
    site.unready(site.names_of_the_plane(), ERRORS)
    outlives_the_start_deadline(site)


def outlives_the_start_deadline(site: Site) -> None:
    """Check that one candidate waits longer than the start deadline, and serves when the plane is back."""
    candidate = eventually(lambda: site.instance.state().among(CANDIDATE), what="a candidate")[0]
    throughout(lambda: alive(candidate.pid), span=START_DEADLINE + 1, what="the candidate waits", every=0.05)
    assert not healthy(site.instance.status)
    site.plane.start()
    site.ready()
    assert site.instance.serving().pid == candidate.pid
    assert site.dropped() == []


@pytest.mark.long
def test_a_first_start_waits_for_its_control_plane(make_site: MakeSite) -> None:
    """No epoch has served yet."""
    site = make_site()
    site.instance.more_flags += ["--start-deadline", f"{START_DEADLINE:g}s"]
    site.launch()
    site.unready(site.names_of_the_plane(), ERRORS)
    outlives_the_start_deadline(site)


def trusts_another(site: Site) -> Callable[[], None]:
    """Let the proxy trust another authority than the control plane's; return how to repair it."""
    trusted = site.instance.certs / ROOT
    trusted.write_bytes(authority("another").pem)
    return lambda: replace(trusted, authority().pem.decode())


def is_not_trusted(site: Site) -> Callable[[], None]:
    """Give the proxy a pair of another authority than the one that the control plane trusts."""
    site.instance.rotate(pair=Mint(authority("another")).leaf())

    def repair() -> None:
        site.instance.rotate()

    return repair


@pytest.mark.parametrize(
    ("fault", "words"), [(trusts_another, "its certificate fails"), (is_not_trusted, "the client certificate")]
)
def test_a_certificate_that_is_refused_is_named_at_the_first_start_and_its_repair_serves(
    fault: Callable[[Site], Callable[[], None]], words: str, make_site: MakeSite
) -> None:
    """The proxy refuses the control plane's certificate, or the control plane the proxy's."""
    site = make_site()
    site.instance.more_flags += ["--start-deadline", "2s"]
    site.plane.start()
    site.prepare()
    repair = fault(site)
    site.instance.launch()
    for name in site.names_of_the_plane():
        site.unready([name], [words])
    repair()
    site.ready()


def test_listeners_that_are_refused_at_the_first_start_are_named_and_served_once_corrected(
    make_site: MakeSite,
) -> None:
    """The candidate outlives the start deadline, since no other could be better."""
    site = make_site()
    site.instance.more_flags += ["--start-deadline", "1s"]
    site.listeners(plain=refused_listener("plain", site.instance.plain.port))
    site.plane.start()
    site.launch()
    site.unready([CLUSTER], ["same matching rules"])
    candidate = eventually(lambda: site.instance.state().among(CANDIDATE), what="a candidate")[0]
    throughout(lambda: alive(candidate.pid), span=2, what="the candidate waits", every=0.05)
    site.listeners()
    site.plane.change()
    site.ready()
    assert site.instance.serving().pid == candidate.pid


def test_a_first_start_waits_for_endpoints_longer_than_the_start_deadline(make_site: MakeSite) -> None:
    """Envoy waits for the endpoints of a static cluster before it fetches anything else; the plane sends none."""
    site = make_site()
    site.instance.more_flags += ["--start-deadline", "1.5s"]
    source = {"eds_config": aggregated("5s"), "service_name": "backend"}
    cluster = {"name": "backend", "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": source}
    site.instance.bootstrap.clusters.append(cluster)
    site.plane.start()
    site.launch()
    site.unready(site.names_of_the_plane(), ["cluster.backend"])
    site.ready()
    assert site.instance.serving().number == 1
    assert site.dropped() == []


@pytest.mark.parametrize("delta", [False, pytest.param(True, marks=pytest.mark.long)], ids=["sotw", "delta"])
def test_a_crash_under_a_control_plane_that_is_well_loses_only_what_was_in_flight(
    delta: bool, make_site: MakeSite, loads: Loads
) -> None:
    """With a working control plane."""
    site = make_site(delta=delta)
    site.start()
    loads.gentle(site.instance.tls, site.instance.plain)
    loads.more(20)
    before = site.instance.serving()
    death = kill(before.pid)
    site.committed(before)
    loads.more(20)
    only_in_flight(loads.finish(), [death])
