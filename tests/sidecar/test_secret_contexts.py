"""Secrets and contexts: what the start waits for, and what is refused before anything is fetched."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.handoff.gate import Gate
from agent.sidecar.model import (
    Cluster,
    Configuration,
    DownstreamTls,
    Echo,
    HttpManager,
    Pipe,
    SocketAddress,
    TcpProxy,
    UpstreamTls,
)
from agent.sidecar.traffic import DataPlane
from agent.stats.writer import Writer
from tests.sidecar.secret_plane import inline, pair_of, plane, secret_of, trusted
from tests.sidecar.secret_stand import (
    BY_SECRET,
    CLIENT_CA,
    FACTORY,
    SERVER,
    behind,
    issued,
    served,
)
from tests.sidecar.stand import (
    authority,
    cluster,
    echo,
    end_of,
    leave,
    listener,
    origin,
    standing,
    written,
)
from tests.system.eventually import PATIENCE

# The start


async def test_a_secret_that_has_not_come_in_time_refuses_connections_until_it_comes(tmp_path: Path) -> None:
    late = secret_of("server", initial_fetch_timeout=0.05)
    leaf = issued()
    listeners = [
        listener(Echo(), tls=DownstreamTls((), certificate_secrets=(late,))),
        listener(TcpProxy("t", "c"), "proxy"),
    ]
    tls = UpstreamTls(certificate_secrets=(late,))
    async with (
        plane(tmp_path) as control,
        origin(echo) as address,
        standing(listeners, [cluster(address, tls=tls), behind(control)]) as stand,
    ):
        assert stand.stat("sds.server.init_fetch_timeout") == 1
        assert stand.traffic.unready == set()
        assert stand.traffic.filled(DownstreamTls((), certificate_secrets=(late,))) is None
        assert await served(stand) is None
        assert stand.of_listener(f"{FACTORY}.downstream_context_secrets_not_ready") == 1
        proxied = await stand.connect("proxy")
        assert await end_of(proxied[0]) == b""
        await leave(proxied)
        assert stand.stat("cluster.c.client_ssl_socket_factory.upstream_context_secrets_not_ready") == 1
        assert stand.stat("cluster.c.upstream_cx_connect_timeout") == 0
        await control.give("1", "server", pair_of(leaf))
        assert await served(stand) == leaf.certificate.serial_number


async def test_it_comes_to_the_gate_when_each_secret_is_in_use_or_refused(tmp_path: Path) -> None:
    reached = asyncio.Event()
    gate = Gate(tmp_path / "gate", reached.set)
    gate.pid = os.getpid()
    await gate.shut(None)
    both = DownstreamTls((), certificate_secrets=(SERVER,), ca_secret=CLIENT_CA)
    waiting = listener(HttpManager("g", gate="gate"), "agent_gate")._replace(bind_to_port=False)
    async with plane(tmp_path) as control:
        clusters = (Cluster("gate", "STATIC", (Pipe(str(gate.path)),)), behind(control))
        settings = Configuration((listener(Echo(), tls=both), waiting), clusters)
        traffic = DataPlane(settings, Writer.private(), drain_time=1, drain_immediately=False)
        assert traffic.unready == {"SdsApi server", "SdsApi ca", "agent_gate"}
        warming = asyncio.ensure_future(traffic.warm())
        await control.poll("ca")
        assert await control.give("1", "server", pair_of(issued(), issued().key_pem)) == ""
        assert traffic.unready == {"SdsApi ca", "agent_gate"}
        assert not reached.is_set()
        await control.give("1", "ca", trusted(authority()))
        async with asyncio.timeout(PATIENCE):
            await reached.wait()
        assert traffic.unready == {"agent_gate"}
        gate.open()
        await warming
        await traffic.close()
    await gate.close()


async def test_a_secret_is_checked_though_the_others_of_its_context_have_not_come(tmp_path: Path) -> None:
    both = DownstreamTls((), certificate_secrets=(SERVER,), ca_secret=CLIENT_CA)
    stats = Writer.private()
    async with plane(tmp_path) as control:
        settings = Configuration((listener(Echo(), tls=both),), (behind(control),))
        traffic = DataPlane(settings, stats, drain_time=1, drain_immediately=False)
        warming = asyncio.ensure_future(traffic.warm())
        assert await control.give("1", "ca", {"validation_context": {"trusted_ca": inline(b"x")}}) == ""
        assert await control.give("1", "server", pair_of(issued(), issued().key_pem)) == ""
        await warming
        await traffic.close()
    assert stats.read().counters["sds.ca.update_rejected"] == stats.read().counters["sds.server.update_rejected"] == 1


# What is refused before anything is fetched


def refusal(tls: DownstreamTls | UpstreamTls, *clusters: Cluster) -> str:
    down = [listener(Echo(), tls=tls)] if isinstance(tls, DownstreamTls) else []
    up = [cluster(tls=tls)] if isinstance(tls, UpstreamTls) else []
    with pytest.raises(BadInput) as caught:
        DataPlane(Configuration(tuple(down), (*up, *clusters)), Writer.private(), drain_time=1, drain_immediately=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Cluster("other", "STATIC", (Pipe("/p"),)), "cannot find cluster plane: there is no cluster of this name"),
        (Cluster("plane", "STATIC", (SocketAddress("127.0.0.1", 1),)), "a source of secrets is one Unix socket; name"),
        (Cluster("plane", "STATIC", (Pipe("/p"), Pipe("/q"))), "a source of secrets is one Unix socket; name it as"),
        (
            Cluster("plane", "STATIC", (Pipe("/p"),), tls=UpstreamTls()),
            "as its only endpoint, without transport",
        ),
    ],
)
def test_secrets_come_from_one_unix_socket(settings: Cluster, said: str) -> None:
    for tls, where in ((BY_SECRET, "listener l: "), (UpstreamTls(ca_secret=CLIENT_CA), "cluster c: ")):
        why = refusal(tls, settings)
        assert why.startswith(f"{where}cannot ")
        assert said in why


def test_files_beside_secrets_are_checked_at_once(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    at = Cluster("plane", "STATIC", (Pipe("/p"),))
    assert f"cannot read the trusted CA {missing}" in refusal(BY_SECRET._replace(trusted_ca=missing), at)
    other = written(tmp_path, issued(), "other")
    wrong = written(tmp_path, issued(), "wrong")._replace(key=other.key)
    assert "it does not match" in refusal(DownstreamTls((wrong,), ca_secret=CLIENT_CA), at)
    assert "it does not match" in refusal(UpstreamTls((wrong,), ca_secret=CLIENT_CA), at)
    assert "server name .x" in refusal(UpstreamTls(sni=".x", ca_secret=CLIENT_CA), at)


def test_without_secrets_nothing_of_it_is_imported() -> None:
    program = "import agent.sidecar.program, sys; print([n for n in sys.modules if 'sds' in n or 'secret' in n])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [name for name in done.stdout.split("'") if name.startswith("agent.")] == []
