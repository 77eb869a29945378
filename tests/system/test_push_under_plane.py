"""The pair of the connection to a control plane is pushed, whatever state the control plane is in; no epoch starts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.system.certificates import serial
from tests.system.conftest import MakeSite
from tests.system.eventually import eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.plane.behaviour import KINDS, SECRETS
from tests.system.plane.plane import ControlPlane
from tests.system.plane.site import Site
from tests.system.plane.sources import refused_listener
from tests.system.test_control_plane_faults import dead, silent, unavailable
from tests.system.test_push import pushes, same_epoch

pytestmark = pytest.mark.envoy

Fault = Callable[[ControlPlane], AbstractContextManager[object]]


@contextmanager
def slow(plane: ControlPlane) -> Iterator[None]:
    """Delay every response."""
    plane.change(delay_ms=dict.fromkeys(KINDS, 1000))
    yield
    plane.change(delay_ms={})


@contextmanager
def mute(plane: ControlPlane) -> Iterator[None]:
    """Answer no request for a secret."""
    plane.change(silent=[SECRETS])
    yield
    plane.change(silent=[])


def site_that_pushes(make_site: MakeSite, *, delta: bool) -> Site:
    site = make_site(delta=delta)
    site.instance.more_flags += ["--on-certificate", "push", "--push-drain", "1s"]
    site.start()
    return site


def renew(site: Site) -> None:
    """Renew the pair of the connection to the control plane, and wait until it is pushed."""
    before = pushes(site.instance)
    site.instance.rotate()
    eventually(lambda: pushes(site.instance) > before, what="it is pushed")


def reconnects(site: Site) -> None:
    """Restart the control plane, and wait until the proxy shows it the newest pair."""
    site.plane.kill()
    site.plane.start()
    newest = serial(site.instance.mint.newest)
    eventually(lambda: newest in site.plane.client_serials(), what="the control plane sees the newest pair")
    eventually(site.serves, what="it serves as before")


FAULTS = [
    pytest.param(fault, delta, marks=() if (fault, delta) in SHORT else pytest.mark.long)
    for SHORT in [{(dead, False), (slow, True)}]
    for fault in (dead, unavailable, silent, slow, mute)
    for delta in (False, True)
]


@pytest.mark.parametrize(("fault", "delta"), FAULTS)
def test_the_client_pair_is_pushed_while_the_control_plane_fails(
    fault: Fault, delta: bool, make_site: MakeSite, loads: Loads
) -> None:
    site = site_that_pushes(make_site, delta=delta)
    loads.light(site.instance.tls, site.instance.plain)
    with same_epoch(site.instance):
        with fault(site.plane):
            renew(site)
            renew(site)
        reconnects(site)
    loads.more(20)
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_the_client_pair_is_pushed_while_listeners_are_refused(make_site: MakeSite, loads: Loads) -> None:
    site = site_that_pushes(make_site, delta=False)
    loads.light(site.instance.tls, site.instance.plain)
    with same_epoch(site.instance):
        site.listeners(plain=refused_listener("plain", site.instance.plain.port))
        site.plane.change()
        eventually(lambda: site.plane.seen("nack"), what="the listener is refused")
        renew(site)
        site.listeners()
        site.plane.change()
        reconnects(site)
    nothing_failed(loads.finish(at_least=20))
