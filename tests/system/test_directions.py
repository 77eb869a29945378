"""At a stop, `--drain-direction inbound` closes inbound listeners, and keeps the application's outbound ones."""

import os
import signal
import socket
import time

import pytest

from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bootstrap import Bootstrap, Json, http, listener
from tests.system.eventually import eventually, throughout
from tests.system.listening import listening
from tests.system.proxies import Console
from tests.system.room import alive, stopped
from tests.system.wire import Failed, Target, connect, exchange, tls_context

ENDLESS = ["--stop-deadline", "10m", "--drain-time", "1s"]


class Inward(Bootstrap):
    """A bootstrap whose own two listeners are inbound; one has its own name for counters."""

    def tree(self) -> Json:
        """Return the bootstrap with these directions."""
        tree = super().tree()
        tls, plain, *_ = tree["static_resources"]["listeners"]
        tls["traffic_direction"] = plain["traffic_direction"] = "INBOUND"
        plain["stat_prefix"] = "in:plain"
        return tree


@pytest.fixture
def way_out(unstarted: AgentFixture) -> Target:
    """An outbound listener of a fixture whose other listeners are inbound."""
    instance = unstarted
    out = Target(HOST, instance.room.port())
    outward = {**listener("out", HOST, out.port, [{"filters": [http("ok\n")]}]), "traffic_direction": "OUTBOUND"}
    instance.bootstrap = Inward(instance.tls.port, instance.plain.port, instance.bootstrap.secured, more=[outward])
    instance.more_flags += [*ENDLESS, "--drain-direction", "inbound", "--http-actions"]
    instance.start()
    return out


def refused(target: Target) -> bool:
    """Return whether no process listens there any more."""
    return not listening(target.port)


def ask_to_stop(instance: AgentFixture) -> None:
    """Send SIGTERM, and wait until the inbound listeners are closed."""
    os.kill(instance.agent_pid, signal.SIGTERM)
    eventually(lambda: refused(instance.tls) and refused(instance.plain), what="the ways in are closed")


def once(target: Target) -> bool:
    """Make one request on a new connection."""
    with connect(target, tls_context()) as client:
        return bool(exchange(client, last=True).body)


@pytest.mark.sidecar
def test_the_ways_out_stay_open_until_the_last_client_has_left_by_the_way_it_came(
    unstarted: AgentFixture, way_out: Target
) -> None:
    instance = unstarted
    serving = instance.serving_pid()
    with socket.create_connection((HOST, instance.plain.port)), connect(way_out, tls_context()) as application:
        exchange(application, last=False)
        ask_to_stop(instance)
        throughout(lambda: once(way_out), span=1, what="new connections out")
        exchange(application, last=False)
        assert alive(serving)
        assert instance.agent is not None
    with connect(way_out, tls_context()) as application:
        exchange(application, last=False)
        assert instance.exited() == 0, "a connection out keeps nobody"
    assert not instance.journal.complaints("outbound")


@pytest.mark.sidecar
def test_clients_that_came_in_are_asked_to_leave_and_the_application_is_not(
    unstarted: AgentFixture, way_out: Target
) -> None:
    instance = unstarted
    with connect(instance.plain, tls_context()) as client, connect(way_out, tls_context()) as application:
        exchange(client, last=False)
        exchange(application, last=False)
        ask_to_stop(instance)
        eventually(lambda: left(client), every=0.1, what="the client is asked to leave")
        exchange(application, last=False)


def left(client: socket.socket) -> bool:
    """Send another request; return whether the connection has ended."""
    try:
        return exchange(client, last=False).closes
    except Failed:
        return True


def post(instance: AgentFixture, path: str) -> int:
    return Console(instance.status.port).ask(path, "POST").status


@pytest.mark.sidecar
def test_a_drain_by_http_closes_the_ways_in_and_the_ways_out_stay_until_sigterm(
    unstarted: AgentFixture, way_out: Target
) -> None:
    """A preStop hook drains while the application still calls others (istio/istio#51855, #60649)."""
    instance = unstarted
    serving = instance.serving_pid()
    with socket.create_connection((HOST, instance.plain.port)):
        assert post(instance, "/drain") == 200
        eventually(lambda: refused(instance.tls) and refused(instance.plain), what="the ways in are closed")
    with connect(way_out, tls_context()) as application:
        throughout(lambda: once(way_out), span=2, what="new connections out, with none left in")
        assert alive(serving)
        assert instance.agent is not None
        os.kill(instance.agent_pid, signal.SIGTERM)
        throughout(lambda: once(way_out), span=1, what="new connections out while one is left")
        exchange(application, last=False)
    assert instance.exited() == 0


@pytest.mark.sidecar
def test_after_a_drain_by_http_sigterm_ends_at_once_what_has_no_connection(
    unstarted: AgentFixture, way_out: Target
) -> None:
    instance = unstarted
    assert post(instance, "/drain") == 200
    eventually(lambda: refused(instance.tls) and refused(instance.plain), what="the ways in are closed")
    assert once(way_out)
    before = time.monotonic()
    os.kill(instance.agent_pid, signal.SIGTERM)
    assert instance.exited() == 0
    assert time.monotonic() - before < 5


@pytest.mark.sidecar
def test_a_stop_by_http_may_cut_what_is_left(unstarted: AgentFixture, way_out: Target) -> None:
    with socket.create_connection((HOST, unstarted.plain.port)), connect(way_out, tls_context()):
        assert post(unstarted, "/quitquitquit?now") == 200
        assert unstarted.exited() == 0


@pytest.mark.long
def test_if_the_admin_does_not_answer_all_listeners_are_closed(unstarted: AgentFixture, way_out: Target) -> None:
    instance = unstarted
    instance.stop()
    instance.launch()
    instance.ready()
    serving = instance.serving_pid()
    with socket.create_connection((HOST, instance.plain.port)):
        with stopped(serving):
            os.kill(instance.agent_pid, signal.SIGTERM)
            eventually(lambda: instance.journal.complaints("outbound"), what="the fallback is told")
        eventually(lambda: refused(way_out), what="the way out is closed as well")
    assert instance.exited() == 0
