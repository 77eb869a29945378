"""Rotations with a control plane that works, is slow, or changes its resources during one."""

from functools import partial

import pytest

from tests.system.agent_fixture import HOST
from tests.system.bare import body_of
from tests.system.certificates import serial
from tests.system.conftest import Envoys, MakeSite
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.plane.behaviour import KINDS, LISTENERS
from tests.system.plane.site import SECRET
from tests.system.plane.sources import aggregated, plain_listener, refused_listener, secret_listener
from tests.system.state import CANDIDATE
from tests.system.test_plane import refused
from tests.system.wire import Target

pytestmark = pytest.mark.envoy

ROTATIONS = count("AGENT_PLANE_ROTATIONS", short=2, long=8)
WAYS = pytest.mark.parametrize("delta", [False, pytest.param(True, marks=pytest.mark.long)], ids=["sotw", "delta"])


@WAYS
def test_a_renewed_client_pair_rotates_and_loses_no_request(delta: bool, make_site: MakeSite, loads: Loads) -> None:
    """The client pair is the proxy's identity at the control plane."""
    site = make_site(delta=delta)
    site.start()
    loads.gentle(site.instance.tls, site.instance.plain)
    for _ in range(ROTATIONS):
        site.committed(site.rotate())
    loads.more(20)
    nothing_failed(loads.finish(at_least=20))
    assert set(site.plane.client_serials()) == {serial(pair) for pair in site.instance.mint.issued}


@WAYS
def test_a_pushed_secret_is_served_without_a_new_epoch(delta: bool, make_site: MakeSite, loads: Loads) -> None:
    """A new secret arrives by SDS in the running epoch."""
    site = make_site(delta=delta)
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    before = site.instance.serving()
    for _ in range(3):
        site.secret()
        site.plane.change()
        eventually(site.serves, what="the pushed secret is served")
    site.stays(before, span=0.5)
    nothing_failed(loads.finish(at_least=20))


DELAYS = [
    pytest.param(delay, delta, version, marks=() if (delay, delta, version) in SHORT else pytest.mark.long)
    for SHORT in [{(100, True, "1.40")}]
    for delay in (0, 10, 100, 1000)
    for delta in (False, True)
    for version in ("1.40", "1.36")
]


@pytest.mark.parametrize(("delay", "delta", "version"), DELAYS)
def test_a_rotation_awaits_a_slow_control_plane_and_wastes_no_candidate(
    delay: int, delta: bool, version: str, envoys: Envoys, make_site: MakeSite, loads: Loads
) -> None:
    """The candidate waits until every resource is applied, and is not replaced."""
    site = make_site(delta=delta, binary=envoys(version))
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    site.plane.change(delay_ms=dict.fromkeys(KINDS, delay))
    for _ in range(ROTATIONS // 2):
        site.committed(site.rotate())
        assert site.dropped() == []
    loads.more(20)
    nothing_failed(loads.finish(at_least=20))


def test_an_empty_set_of_listeners_does_not_replace_an_epoch_that_serves(make_site: MakeSite, loads: Loads) -> None:
    """The control plane sends new clients an empty set, as after a start with an empty cache."""
    site = make_site()
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    site.plane.change(empty_for_new=[LISTENERS])
    before = site.rotate()
    site.stays(before, span=1.5)
    site.explains(["listen"])
    site.plane.change(empty_for_new=[])
    site.committed(before)
    nothing_failed(loads.finish(at_least=20))


def test_when_the_control_plane_takes_all_listeners_readiness_fails_until_they_are_back(make_site: MakeSite) -> None:
    """The serving epoch loses its listeners."""
    site = make_site()
    site.start()
    before = site.instance.serving()
    site.plane.listeners()
    site.plane.change()
    eventually(lambda: refused(site.instance.plain), what="the listeners are gone")
    site.unready(["listen"])
    site.listeners()
    site.plane.change()
    site.ready()
    assert site.instance.serving() == before, "no restart is needed"


@pytest.mark.long
def test_a_listener_that_envoy_refuses_ends_the_rotation_at_once(make_site: MakeSite, loads: Loads) -> None:
    """A rejected resource ends the wait; the old epoch serves."""
    site = make_site()
    site.start()
    loads.light(site.instance.tls, site.instance.plain)
    site.listeners(plain=refused_listener("plain", site.instance.plain.port))
    site.plane.change()
    before = site.rotate()
    site.explains(["same matching rules"])
    eventually(lambda: not site.instance.state().among(CANDIDATE), what="the candidate is gone")
    site.stays(before, span=1)
    site.listeners()
    site.plane.change()
    site.rotate()
    site.committed(before)
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
@WAYS
def test_listeners_that_come_and_go_around_a_rotation_waste_no_candidate(
    delta: bool, make_site: MakeSite, loads: Loads
) -> None:
    """Added before one rotation, removed before the next, and removed during the last."""
    site = make_site(delta=delta)
    site.start()
    loads.gentle(site.instance.tls, site.instance.plain)
    extra, tls = Target(HOST, site.instance.room.port()), Target(HOST, site.instance.room.port(), tls=True)
    more = [
        plain_listener("extra", extra.port, "extra\n"),
        secret_listener("extra-tls", tls.port, SECRET, aggregated(), "extra\n"),
    ]
    for present in (True, False):
        site.listeners(*(more if present else []))
        site.plane.change()
        site.committed(site.rotate())
        assert site.dropped() == []
        check = answer if present else refuse
        eventually(partial(check, extra, tls), what=f"the listeners {check.__name__}")
    site.listeners(*more)
    site.plane.change()
    eventually(lambda: answer(extra, tls), what="the listeners answer again")
    site.plane.change(delay_ms={LISTENERS: 200})
    before = site.rotate()
    eventually(lambda: site.instance.state().among(CANDIDATE), every=0.001, what="a candidate")
    site.listeners()
    site.plane.change()
    site.committed(before)
    assert site.dropped() == []
    eventually(lambda: refuse(extra, tls), what="the removed listeners refuse")
    nothing_failed(loads.finish(at_least=20))


def answer(*targets: Target) -> bool:
    """Return whether the added listeners answer."""
    return all(body_of(target) == b"extra\n" for target in targets)


def refuse(*targets: Target) -> bool:
    """Return whether the removed listeners refuse."""
    return all(map(refused, targets))
