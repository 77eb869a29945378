"""A client that has connected and not yet begun its handshake is a client of the epoch that accepted it."""

import socket

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.bootstrap import Secured
from tests.system.eventually import eventually
from tests.system.layouts import CHAIN, KEY
from tests.system.status_pollers import overview
from tests.system.wire import Target, exchange, tls_context


def accepted(instance: AgentFixture, target: Target) -> socket.socket:
    """Connect without a handshake; return once the proxy has accepted the connection."""
    sock = socket.create_connection((target.host, target.port), timeout=60)
    eventually(lambda: waiting(instance) == 0, what="its accept queue is empty")
    return sock


def waiting(instance: AgentFixture) -> int:
    """The clients in the accept queue of the TLS listener."""
    listeners = overview(instance)["listeners"]
    return sum(int(each["queue"]) for each in listeners if each["address"].endswith(f":{instance.tls.port}"))


@pytest.mark.sidecar
def test_an_old_epoch_waits_for_a_hello_that_its_filters_await(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.bootstrap.secured = [Secured(instance.certs / CHAIN, instance.certs / KEY, "slow.example")]
    instance.tls = Target(instance.tls.host, instance.tls.port, tls=True, server_name="slow.example")
    instance.start()
    with accepted(instance, instance.tls) as sock:
        old = instance.serving().number
        instance.rotate()
        instance.served()
        draining = [each for each in overview(instance)["epochs"] if each["number"] == old]
        assert [each["state"] for each in draining] == ["draining"]
        eventually(lambda: counted(instance, old) == 1, what="it is counted")
        with tls_context().wrap_socket(sock, server_hostname="slow.example") as secured:
            assert exchange(secured, last=True).body == b"ok\n"
    eventually(lambda: old not in {each["number"] for each in overview(instance)["epochs"]}, what="it has ended")


def counted(instance: AgentFixture, number: int) -> int | None:
    """The clients of a draining epoch, as the agent counts them; it must run."""
    (found,) = [each for each in overview(instance)["epochs"] if each["number"] == number]
    connections = found["connections"]
    assert connections is None or isinstance(connections, int)
    return connections
