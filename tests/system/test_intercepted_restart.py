"""Hot restarts behind intercepted traffic: clients of the pod and of its peer lose no connection.

The proxy runs as its own user. It takes outbound connections at 15001 and inbound ones at 15006, and passes them on to
their original destinations.
"""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.pods import ANY, PASSTHROUGH, PEER, POD, PROXY, Pod, open_pod, run
from tests.system.proxies import needed
from tests.system.room import Process, Room
from tests.system.state import SERVING, read_state

pytestmark = pytest.mark.envoy

CLIENTS = 30
RESTARTS = count("AGENT_INTERCEPTED_RESTARTS", short=3, long=20)
_TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_ORIGINAL = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"


def listener(name: str, family: int, port: int, direction: str) -> dict[str, Any]:
    """Return a listener that passes each connection on to where its client meant it."""
    return {
        "name": f"{name}-{family}",
        "traffic_direction": direction,
        "address": {"socket_address": {"address": ANY[family], "port_value": port}},
        "listener_filters": [
            {"name": "envoy.filters.listener.original_dst", "typed_config": {"@type": _ORIGINAL}},
        ],
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {"@type": _TCP_PROXY, "stat_prefix": name, "cluster": f"{name}-{family}"},
                    }
                ]
            }
        ],
    }


def cluster(name: str, family: int, source: str = "") -> dict[str, Any]:
    """Return a cluster of original destinations, reached from `source` if there is one."""
    bound = {"upstream_bind_config": {"source_address": {"address": source, "port_value": 0}}} if source else {}
    return {
        "name": f"{name}-{family}", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "30s",
        **bound,
    }  # fmt: skip


def bootstrap() -> dict[str, Any]:
    """Return the configuration of the proxy."""
    both = (4, 6)
    return {
        "static_resources": {
            "listeners": [
                *(listener("outbound", family, 15001, "OUTBOUND") for family in both),
                *(listener("inbound", family, 15006, "INBOUND") for family in both),
            ],
            "clusters": [
                *(cluster("outbound", family) for family in both),
                *(cluster("inbound", family, PASSTHROUGH[family]) for family in both),
            ],
        }
    }


@pytest.fixture
def pod(room: Room) -> Iterator[Pod]:
    """A pod whose application listens, and a peer."""
    with open_pod(room, 80) as pod:
        pod.serve(*(f"{ANY[family]}:8080" for family in (4, 6)))
        yield pod


def started(room: Room, run_dir: Path) -> Process:
    """Start the agent with a proxy of its own user, and wait until it serves."""
    config = room.directory / "envoy.json"
    config.write_text(json.dumps(bootstrap()), encoding="utf-8")
    flags = ["--config", str(config), "--run-dir", str(run_dir), "--status-port", "0", "--drain-time", "1s"]
    flags += ["--stop-deadline", "5s", "--drain-deadline", "1m", "--proxy-user", str(PROXY)]
    command = [sys.executable, "-m", "agent", "--proxy-bin", str(needed("envoy").binary), *flags]
    agent = room.spawn([*command, "--", "--concurrency", "2", "-l", "warning"], log=room.directory / "agent.log")
    eventually(lambda: read_state(run_dir).ready, what="the agent is ready")
    return agent


def test_intercepted_clients_lose_no_connection_in_hot_restarts(pod: Pod, room: Room) -> None:
    run_dir = room.directory / "run"
    agent = started(room, run_dir)
    run(sys.executable, "-m", "agent", "intercept")
    assert pod.ask(PEER[4], 80)[0].split()[2] != "", "the connection goes by way of the proxy"
    with (
        pod.hammering(PEER[4], 80, clients=CLIENTS) as outbound_4,
        pod.hammering(PEER[6], 80, clients=CLIENTS) as outbound_6,
        pod.hammering(POD[4], 8080, from_peer=True, clients=CLIENTS) as inbound_4,
        pod.hammering(POD[6], 8080, from_peer=True, clients=CLIENTS) as inbound_6,
    ):
        for number in range(2, RESTARTS + 2):
            agent.send_signal(signal.SIGHUP)
            serves = lambda wanted=number: [each.number for each in read_state(run_dir).among(SERVING)] == [wanted]  # noqa: E731
            eventually(serves, what=f"epoch {number} serves")
        counts = [finish() for finish in (outbound_4, outbound_6, inbound_4, inbound_6)]
    assert [list(each) for each in counts] == [["80"], ["80"], ["8080"], ["8080"]], counts
    assert all(sum(each.values()) > RESTARTS for each in counts)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0
