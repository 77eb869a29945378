"""Hostile clients of a proxy that also serves a good one.

Their cost is compared with that of honest clients of a second, identical proxy at the same time: the load of the
machine may change a moment later.
"""

import contextlib
import math
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from tests.system.bootstrap import TYPES, Json, Secured, address, http, listener, tls_chain
from tests.system.certificates import Mint
from tests.system.eventually import eventually
from tests.system.proxies import Proxy, Running, running
from tests.system.room import Room
from tests.system.wire import TIMEOUT, Target, connect, exchange, tls_context

KIB = 1024
BUFFER = 64 * KIB
EVERY = 10  # clients between two requests of the good one
GOOD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Arena:
    """A proxy with a plain, a TLS and a raw listener.

    `/origin` of the plain one, and all connections of the raw one, are forwarded to a cluster.
    """

    room: Room
    proxy: Proxy
    manager: Json = field(default_factory=dict)  # more settings of the HTTP connection manager
    name: str = ""

    def __post_init__(self) -> None:
        """Reserve ports and create the certificate."""
        self.plain, self.raw = (Target("127.0.0.1", self.room.port()) for _ in range(2))
        self.tls = Target("127.0.0.1", self.room.port(), tls=True)
        self.origin_port = self.room.port()
        leaf = Mint().leaf()
        self.secured = Secured(
            self.room.directory / f"{self.name}chain.pem", self.room.directory / f"{self.name}key.pem"
        )
        self.secured.chain.write_bytes(leaf.chain_pem)
        self.secured.key.write_bytes(leaf.key_pem)
        self.context = tls_context()

    def tree(self) -> Json:
        """Return the bootstrap."""
        to_origin = {
            "@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "raw",
            "cluster": "origin",
        }
        endpoint = {"endpoint": {"address": address("127.0.0.1", self.origin_port)}}
        origin = {
            "name": "origin",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        listeners = [
            listener("plain", "127.0.0.1", self.plain.port, [{"filters": [self._http()]}]),
            listener("tls", "127.0.0.1", self.tls.port, [tls_chain(self.secured, "ok\n")]),
            listener("raw", "127.0.0.1", self.raw.port, [{"filters": [{"name": "tcp", "typed_config": to_origin}]}]),
        ]
        for one in listeners:
            one["per_connection_buffer_limit_bytes"] = BUFFER
        return {"static_resources": {"listeners": listeners, "clusters": [origin]}}

    def _http(self) -> Json:
        made = http("ok\n")
        made["typed_config"].update(self.manager)
        (host,) = made["typed_config"]["route_config"]["virtual_hosts"]
        host["routes"].insert(0, {"match": {"prefix": "/origin"}, "route": {"cluster": "origin", "timeout": "0s"}})
        return made

    @contextmanager
    def open(self) -> Iterator["Fight"]:
        """Run both proxies; at the end the good client is still served and no descriptor is left."""
        allow_descriptors()
        twin = replace(self, name="twin-")
        with twin._run() as peaceful, self._run(peaceful) as fight:
            fight.good()
            fight.good(tls=True)
            before = fight.descriptors()
            try:
                yield fight
            finally:
                fight.leave()
            fight.good()
            fight.good(tls=True)
            eventually(lambda: fight.descriptors() <= before, what=f"at most {before} descriptors")

    @contextmanager
    def _run(self, twin: "Fight | None" = None) -> Iterator["Fight"]:
        with running(self.room, self.proxy, self.tree()) as alone, connect(self.plain, self.context) as kept:
            yield Fight(self, alone, kept, twin)
            exchange(kept, last=False)


class Waits(NamedTuple):
    """The waits of the good client, in seconds, and at the same moments those of the second proxy's good client."""

    ours: list[float]
    honest: list[float]


class Fight:
    """The proxy under attack."""

    def __init__(self, arena: Arena, alone: Running, kept: socket.socket, twin: "Fight | None") -> None:
        self.arena, self.alone, self._kept, self._twin = arena, alone, kept, twin
        self.hostile: list[socket.socket] = []

    @property
    def twin(self) -> "Fight":
        """The same proxy with honest clients."""
        assert self._twin is not None
        return self._twin

    def good(self, *, tls: bool = False) -> float:
        """Make a good request on a new connection and one on a kept one; return both durations, in seconds."""
        began = time.monotonic()
        with connect(self.arena.tls if tls else self.arena.plain, self.arena.context) as sock:
            exchange(sock, last=True)
        exchange(self._kept, last=False)
        return time.monotonic() - began

    def beside(self, waits: Waits, *, tls: bool = False) -> None:
        """Measure both good clients once more, one right after the other."""
        waits.ours.append(self.good(tls=tls))
        waits.honest.append(self.twin.good(tls=tls))

    def waits(self, count: int, *, tls: bool = False) -> Waits:
        """Measure both good clients this many times."""
        measured = Waits([], [])
        for _ in range(count):
            self.beside(measured, tls=tls)
        return measured

    def crowd(self, come: Callable[[], socket.socket], count: int) -> Waits:
        """Let this many clients connect as fast as they can, and stay; as many honest ones use the second proxy.

        Return the waits of the good clients in that time, measured after every few of them.
        """
        measured = Waits([], [])
        honest = self.twin.asks(self.twin.arena.plain, GOOD)
        for start in range(0, count, EVERY):
            few = min(EVERY, count - start)
            self.hostile += [come() for _ in range(few)]
            measured.ours.append(self.good())
            self.twin.hostile += [honest() for _ in range(few)]
            measured.honest.append(self.twin.good())
        self.twin.leave()
        return measured

    def warm(self, count: int) -> int:
        """Let this many honest clients connect, send and disconnect; return the proxy's memory then, in bytes."""
        come = self.asks(self.arena.plain, GOOD)
        self.hostile += [come() for _ in range(count)]
        self.good()
        self.leave()
        return self.memory()

    def asks(self, target: Target, sent: bytes, receive_buffer: int = 0) -> Callable[[], socket.socket]:
        """Return a client that connects without TLS, sends these bytes and reads nothing."""

        def come() -> socket.socket:
            sock = socket.socket()
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(TIMEOUT)
            sock.connect((target.host, target.port))
            sock.sendall(sent)
            return sock

        return come

    def leave(self) -> None:
        """Disconnect all hostile clients."""
        for sock in self.hostile:
            sock.close()
        self.hostile.clear()

    def descriptors(self) -> int:
        """Count the open descriptors of the proxy."""
        return len(list(Path(f"/proc/{self.alone.pid}/fd").iterdir()))

    def memory(self) -> int:
        """Return the memory that the proxy has written to, in bytes: shared memory does not depend on clients."""
        return anonymous(self.alone.pid)


def anonymous(pid: int) -> int:
    """Return the anonymous memory of a process, in bytes (proc_pid_smaps_rollup)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:")) * KIB


def allow_descriptors() -> None:
    """Raise the limit of descriptors of this process and of its proxies to the maximum."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reset(sock: socket.socket) -> None:
    """Close a connection by RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def portion(waits: Sequence[float], share: float) -> float:
    """Return the wait that this share of them does not exceed."""
    return sorted(waits)[min(len(waits) - 1, math.floor(share * len(waits)))]


def bounded(waits: Waits, patience: float = 1) -> None:
    """Check that the good client waits at most a few times as long as beside honest ones.

    The longest wait has a loose bound: one pause of a shared machine causes it.
    """
    for share, times in ((0.5, 4), (0.9, 10), (1.0, 100)):
        ours, theirs = portion(waits.ours, share), portion(waits.honest, share)
        assert ours <= patience * times * theirs, (
            f"{share:.0%} wait up to {ours * 1e3:.1f} ms, beside honest {theirs * 1e3:.1f} ms"
        )
