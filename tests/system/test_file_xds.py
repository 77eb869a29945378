"""Listeners and clusters from files (LDS, CDS by `path_config_source`) that name certificate files in `--certs`."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.agents import agent
from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import body_of
from tests.system.bootstrap import Json, Secured, address, http, listener, replace, tls_chain, write_lds
from tests.system.certificates import Mint, authority, serial
from tests.system.eventually import eventually, throughout
from tests.system.journal import Entry
from tests.system.layouts import CHAIN, KEY, ROOT
from tests.system.loads import Loads, nothing_failed
from tests.system.origins import listening_at
from tests.system.plane.behaviour import CLUSTERS, KINDS
from tests.system.plane.sources import FromPlane, client_context, plain_listener
from tests.system.wire import serial_in

pytestmark = pytest.mark.envoy

GARBAGE = b"-----BEGIN PRIVATE KEY-----\nnot base64 at all\n-----END PRIVATE KEY-----\n"
UPSTREAM = "upstream"


def from_file(path: Path) -> Json:
    """Return a ConfigSource of a file."""
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def events(instance: AgentFixture, name: str) -> list[Entry]:
    """List the agent's events of this name since the mark."""
    return [entry for entry in instance.journal.entries() if entry.name == name]


def in_use(instance: AgentFixture) -> None:
    """Check that `agent certs` shows the newest pair on disk as served, without findings."""
    ran = agent("certs", "--json", "--run-dir", instance.run_dir)
    inventory: dict[str, Any] = json.loads(ran.out)
    (pair,) = (
        each for each in inventory["sets"] if each["chain"] and each["chain"]["path"] == str(instance.certs / CHAIN)
    )
    assert int(pair["disk"]["serial"].replace(":", ""), 16) == serial(instance.mint.newest)
    assert pair["served"], "the certificate is in use"
    assert pair["served"]["serial"] == pair["disk"]["serial"]
    assert (ran.code, inventory["findings"]) == (0, [])
    assert events(instance, "certificate.stray") == []


def refuses_garbage(instance: AgentFixture) -> None:
    """Overwrite the key: it is refused, and the old epoch still serves."""
    before = instance.serving()
    instance.journal.mark()
    (instance.certs / KEY).write_bytes(GARBAGE)
    eventually(lambda: events(instance, "certificate.refused"), what="the key is refused")
    assert str(instance.certs) in events(instance, "certificate.refused")[0].text
    throughout(lambda: instance.serving() == before, span=0.5, what="the old epoch serves")


def test_the_certificate_of_a_listener_in_a_file_rotates_by_itself(unstarted: AgentFixture, loads: Loads) -> None:
    """With LDS from a file."""
    instance = unstarted
    path = instance.directory / "lds.yaml"
    tls = listener(
        "tls", HOST, instance.tls.port, [tls_chain(Secured(instance.certs / CHAIN, instance.certs / KEY), "ok\n")]
    )
    write_lds(path, [tls, plain_listener("plain", instance.plain.port)], "1")
    instance.bootstrap = FromPlane(instance.tls.port, instance.plain.port, [], dynamic={"lds_config": from_file(path)})
    instance.start()
    loads.light(instance.tls, instance.plain)
    in_use(instance)
    for _ in range(2):
        instance.rotate()
        instance.served()
    instance.committed()
    in_use(instance)
    served = serial(instance.mint.newest)
    refuses_garbage(instance)
    assert instance.serial_served() == served
    instance.rotate()
    instance.served()
    nothing_failed(loads.finish(at_least=20))


class MutualOrigin:
    """An origin that requires a client certificate, and records the serial number of each."""

    def __init__(self, directory: Path) -> None:
        leaf = Mint().leaf("upstream.test")
        pair = directory / "origin.pem"
        pair.write_bytes(leaf.chain_pem + leaf.key_pem)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair)
        self.context.load_verify_locations(cadata=authority().pem.decode("ascii"))
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.serials: list[int] = []

    def met(self, serial: int) -> bool:
        """Return whether the last client had this certificate."""
        return self.serials[-1:] == [serial]

    def serve(self, server: socket.socket, over: threading.Event) -> None:
        """Answer one request per connection, one connection at a time, until `over`."""
        server.settimeout(0.1)
        while not over.is_set():
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                with peer:
                    self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(2)
        with self.context.wrap_socket(peer, server_side=True) as sock:
            sock.recv(4096)
            self.serials.append(serial_in(sock.getpeercert(binary_form=True) or b""))
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n")


@contextmanager
def mutual_origin(directory: Path, port: int) -> Iterator[MutualOrigin]:
    """Run such an origin in a thread."""
    origin, over = MutualOrigin(directory), threading.Event()
    with listening_at(port) as server:
        thread = threading.Thread(target=origin.serve, args=(server, over))
        thread.start()
        try:
            yield origin
        finally:
            over.set()
            thread.join()


def forward(cluster: str) -> Json:
    """Return an HTTP connection manager that forwards all requests to a cluster."""
    manager = http("")
    (route,) = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    del route["direct_response"]
    route["route"] = {"cluster": cluster}
    manager["typed_config"]["route_config"]["validate_clusters"] = False
    return manager


def write_cds(path: Path, instance: AgentFixture, port: int) -> None:
    """Publish the cluster of the origin, with the client pair in `--certs`."""
    context = client_context(instance.certs / CHAIN, instance.certs / KEY, instance.certs / ROOT)
    del context["common_tls_context"]["alpn_protocols"]
    cluster = {
        "@type": KINDS[CLUSTERS],
        "name": UPSTREAM,
        "type": "STATIC",
        "connect_timeout": "1s",
        "transport_socket": {"name": "tls", "typed_config": context},
        "load_assignment": {
            "cluster_name": UPSTREAM,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(HOST, port)}}]}],
        },
    }
    replace(path, yaml.safe_dump({"version_info": "1", "resources": [cluster]}, sort_keys=False))


@pytest.mark.long
def test_the_client_pair_of_a_cluster_in_a_file_rotates_by_itself(unstarted: AgentFixture, loads: Loads) -> None:
    """With CDS from a file."""
    instance, path, port = unstarted, unstarted.directory / "cds.yaml", unstarted.room.port()
    write_cds(path, instance, port)
    plain = listener("plain", HOST, instance.plain.port, [{"filters": [forward(UPSTREAM)]}])
    instance.bootstrap = FromPlane(
        instance.tls.port, instance.plain.port, [], more=[plain], dynamic={"cds_config": from_file(path)}
    )
    with mutual_origin(instance.directory, port) as origin:
        instance.prepare()
        (instance.certs / ROOT).write_bytes(authority().pem)
        instance.launch()
        eventually(lambda: body_of(instance.plain) == b"ok\n", what="the origin answers")
        eventually(lambda: instance.state().ready)
        load = loads.start("closed", instance.plain, clients=1, pace=0.01)
        for _ in range(2):
            instance.rotate()
            eventually(partial(origin.met, serial(instance.mint.newest)), what="the new pair is used")
        instance.committed()
        assert events(instance, "certificate.stray") == []
        refuses_garbage(instance)
        load.more(20)
        nothing_failed(loads.finish(at_least=20))
        assert origin.met(serial(instance.mint.newest))
        instance.stop()
