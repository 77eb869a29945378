"""The control plane itself, with a bare Envoy: faults that do not occur would prove nothing about the agent."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.system.bare import body_of, serial_served
from tests.system.bootstrap import Json
from tests.system.certificates import Mint, authority, serial
from tests.system.eventually import eventually, throughout
from tests.system.layouts import CHAIN, IN_PLACE, KEY, ROOT
from tests.system.plane.behaviour import KINDS, LISTENERS, SECRETS
from tests.system.plane.plane import ControlPlane, control_plane
from tests.system.plane.sources import (
    ads,
    aggregated,
    plain_listener,
    refused_listener,
    secret_listener,
    single,
    xds_cluster,
)
from tests.system.proxies import Proxy, Running, running
from tests.system.room import Room
from tests.system.wire import Target

NAME = "edge-secret"


class Lone:
    """A bare Envoy with a control plane: its resources, and its addresses."""

    def __init__(self, room: Room, plane: ControlPlane, envoy: Path, *, delta: bool, aggregate: bool = True) -> None:
        self.room, self.plane, self.proxy = room, plane, Proxy("envoy", envoy)
        self.delta, self.aggregate, self.patience = delta, aggregate, "15s"
        self.served, self.clients = Mint(), Mint()
        self.tls = Target("127.0.0.1", room.port(), tls=True)
        self.plain = Target("127.0.0.1", room.port())
        self.certs = room.directory / "certs"
        IN_PLACE.first(self.certs, self.clients.leaf())
        (self.certs / ROOT).write_bytes(authority().pem)
        self.listeners()
        self.secret()

    def tree(self) -> Json:
        """Return the bootstrap."""
        dynamic = ads(delta=self.delta)
        if not self.aggregate:
            source = single(delta=self.delta)
            dynamic = {"lds_config": source, "cds_config": source}
        paths = (self.certs / CHAIN, self.certs / KEY, self.certs / ROOT) if self.plane.mutual else ()
        clusters = [xds_cluster(self.plane.port, *paths)]
        return {
            "node": {"id": "lone", "cluster": "tests"},
            "dynamic_resources": dynamic,
            "static_resources": {"clusters": clusters},
        }

    def listeners(self, *more: Json) -> None:
        """Set the two listeners, and more."""
        source = aggregated(self.patience) if self.aggregate else single(delta=self.delta)
        tls = secret_listener("tls", self.tls.port, NAME, source)
        self.plane.listeners(tls, plain_listener("plain", self.plain.port), *more)

    def secret(self) -> None:
        """Set a new secret."""
        leaf = self.served.leaf()
        self.plane.secret(NAME, leaf.chain_pem, leaf.key_pem)

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Run the proxy until its admin interface answers."""
        with running(self.room, self.proxy, self.tree()) as proxy:
            yield proxy

    def serves(self) -> None:
        """Wait until the newest secret is served."""
        wanted = serial(self.served.newest)
        eventually(lambda: serial_served(self.tls) == wanted, what="the newest secret is served")


@pytest.fixture
def plane(room: Room) -> Iterator[ControlPlane]:
    with control_plane(room) as plane:
        yield plane


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.long)], ids=["sotw", "delta"])
def lone(room: Room, plane: ControlPlane, envoy: Path, request: pytest.FixtureRequest) -> Lone:
    return Lone(room, plane, envoy, delta=request.param)


def refused(target: Target) -> bool:
    """Return whether no process listens there."""
    try:
        body_of(target, timeout=1)
    except ConnectionError as error:
        return "refused" in str(error)
    return False


BOTH = pytest.mark.parametrize("lone", [False, True], ids=["sotw", "delta"], indirect=True)


def acknowledged(plane: ControlPlane, kind: str) -> bool:
    """Return whether Envoy has acknowledged the last response of a kind: of two in a row it may skip the first."""
    acknowledged, sent = (plane.seen(event, kind=kind) for event in ("ack", "sent"))
    return bool(acknowledged) and acknowledged[-1]["version"] == sent[-1]["version"]


@BOTH
def test_listeners_and_secrets_are_served_changed_and_removed_and_each_is_acknowledged(lone: Lone) -> None:
    plane = lone.plane
    extra = Target("127.0.0.1", lone.room.port())
    plane.start()
    with lone.running():
        lone.serves()
        assert body_of(lone.plain) == b"ok\n"
        lone.secret()
        plane.change()
        lone.serves()
        lone.listeners(plain_listener("extra", extra.port, "extra\n"))
        plane.change()
        eventually(lambda: body_of(extra) == b"extra\n", what="the added listener answers")
        lone.listeners()
        plane.change()
        eventually(lambda: refused(extra), what="the removed listener is gone")
        assert serial_served(lone.tls) == serial(lone.served.newest)
        for kind in KINDS:
            eventually(partial(acknowledged, plane, kind), what=f"{kind} are acknowledged")
    assert set(plane.client_serials()) == {serial(lone.clients.newest)}
    assert {one["node"] for one in plane.seen("subscribed", kind=LISTENERS)} == {"lone"}
    assert plane.seen("nack") == []


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
def test_each_kind_can_have_a_stream_of_its_own_in_the_clear(delta: bool, room: Room, envoy: Path) -> None:
    with control_plane(room, mutual=False) as plane:
        lone = Lone(room, plane, envoy, delta=delta, aggregate=False)
        plane.start()
        with lone.running():
            lone.serves()
        methods = {one["method"] for one in plane.seen("opened")}
        way = "Delta" if delta else "Stream"
        assert methods == {f"{way}{what}" for what in ("Listeners", "Clusters", "Secrets")}


def test_responses_of_a_kind_are_late_or_do_not_come(lone: Lone) -> None:
    plane = lone.plane
    lone.patience = "0.5s"
    lone.listeners()
    plane.behaviour.delay_ms = {LISTENERS: 300}
    plane.behaviour.silent = [SECRETS]
    plane.start()
    with lone.running():
        eventually(lambda: plane.seen("subscribed", kind=SECRETS), what="the secret is asked for")
        (asked,), (sent, *_) = plane.seen("subscribed", kind=LISTENERS), plane.seen("sent", kind=LISTENERS)
        assert 0.3 <= sent["at"] - asked["at"] < 2
        throughout(lambda: plane.seen("sent", kind=SECRETS) == [], span=0.3, what="no secret is sent")
        plane.change(silent=[])
        lone.serves()


@BOTH
def test_what_envoy_refuses_is_recorded_with_its_reason(lone: Lone) -> None:
    plane = lone.plane
    plane.start()
    with lone.running():
        lone.serves()
        before = serial(lone.served.newest)
        plane.secret(NAME, lone.served.newest.chain_pem, lone.served.spare().key_pem)
        lone.listeners(refused_listener("bad", lone.room.port()))
        plane.change()
        eventually(lambda: plane.seen("nack", kind=SECRETS), what="the secret is refused")
        eventually(lambda: plane.seen("nack", kind=LISTENERS), what="the listener is refused")
        assert serial_served(lone.tls) == before
        assert "same matching rules" in plane.seen("nack", kind=LISTENERS)[0]["error"]
        lone.secret()
        lone.listeners()
        plane.change()
        lone.serves()


def test_streams_end_with_unavailable_while_the_fault_is_enabled(lone: Lone) -> None:
    plane = lone.plane
    plane.start()
    with lone.running():
        lone.serves()
        opened = len(plane.seen("opened"))
        plane.change(unavailable=True)
        eventually(lambda: len(plane.seen("opened")) >= opened + 2, what="the client tries again")
        eventually(lambda: len(plane.seen("closed")) >= opened + 1, what="and is turned away")
        lone.secret()
        plane.change(unavailable=False)
        lone.serves()


def test_it_is_killed_and_started_again_with_what_it_had(lone: Lone) -> None:
    plane = lone.plane
    plane.start()
    with lone.running() as proxy:
        lone.serves()
        plane.kill()
        eventually(lambda: connected(proxy) == 0, what="the stream is lost")
        lone.secret()
        plane.change()
        throughout(lambda: body_of(lone.plain) == b"ok\n", span=0.3, what="the proxy serves on")
        plane.start()
        lone.serves()


def connected(proxy: Running) -> int:
    """Return Envoy's gauge of its connection to the control plane."""
    return proxy.console.numbers("control_plane.")["connected_state"]


def test_new_streams_alone_can_get_an_empty_set(lone: Lone) -> None:
    plane = lone.plane
    plane.start()
    with lone.running():
        lone.serves()
        plane.change(empty_for_new=[LISTENERS])
        throughout(lambda: body_of(lone.plain) == b"ok\n", span=0.3, what="an open stream keeps its listeners")
    with lone.running():
        assert refused(lone.plain)
        plane.change(empty_for_new=[])
        lone.serves()


def test_an_empty_set_removes_the_listeners(lone: Lone) -> None:
    plane = lone.plane
    plane.start()
    with lone.running():
        lone.serves()
        plane.listeners()
        plane.change()
        eventually(lambda: refused(lone.plain), what="the listeners are gone")
        lone.listeners()
        plane.change()
        lone.serves()
