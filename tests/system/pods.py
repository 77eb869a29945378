"""A pod and a peer: two network namespaces with a link between them, for tests of interception."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.eventually import eventually
from tests.system.namespaces import may_have_networks
from tests.system.room import Process, Room

HERE = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "tests.system.intercepted"]
POD = {4: "10.77.0.1", 6: "fd77::1"}
PEER = {4: "10.77.0.2", 6: "fd77::2"}
ANY = {4: "0.0.0.0", 6: "::"}
LOCAL = {4: "127.0.0.1", 6: "::1"}
PASSTHROUGH = {4: "127.0.0.6", 6: "::6"}
APP, PROXY = 1000, 1337


@dataclass
class Pod:
    """The test runs in the pod's namespace; `peer` is a process in the other one."""

    room: Room
    peer: Process
    servers: list[Process] = field(default_factory=list)

    def serve(self, *addresses: str, transparent: bool = False, uid: int = 0) -> Process:
        """Start servers in the pod, as a user, that tell where a client arrives."""
        self.servers.append(served(self.room, [], addresses, transparent=transparent, uid=uid))
        return self.servers[-1]

    def ask(self, host: str, *ports: int, uid: int = APP, gid: int | None = None, source: str = "") -> list[str]:
        """Connect from the pod as a user; return the answers."""
        owner = ("--uid", str(uid), "--gid", str(uid if gid is None else gid))
        return self._asked([], host, ports, *owner, *(("--source", source) if source else ()))

    def query(self, host: str, uid: int = APP) -> str:
        """Send a datagram to port 53 from the pod; return the answer."""
        return self._asked([], host, [53], "--uid", str(uid), "--gid", str(uid), "--udp")[0]

    def ask_from_peer(self, host: str, *ports: int) -> list[str]:
        """Connect from the peer; return the answers."""
        return self._asked(self.in_peer, host, ports)

    @property
    def in_peer(self) -> list[str]:
        """The beginning of a command line that runs in the peer's namespace."""
        return ["nsenter", f"--net=/proc/{self.peer.pid}/ns/net", "--"]

    @staticmethod
    def _asked(prefix: list[str], host: str, ports: list[int] | tuple[int, ...], *more: str) -> list[str]:
        command = [*prefix, *PROGRAM, "ask", *more, host, *map(str, ports)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
        return done.stdout.split("\n")[:-1]

    @contextmanager
    def hammering(
        self, host: str, port: int, *, uid: int = APP, from_peer: bool = False, clients: int = 1
    ) -> Iterator[Callable[[], dict[str, int]]]:
        """Connect from the pod or the peer in a tight loop; the yielded function ends it and returns the counts."""
        prefix = self.in_peer if from_peer else []
        who = ["--uid", str(uid), "--gid", str(uid), "--clients", str(clients)]
        command = [*prefix, *PROGRAM, "hammer", host, str(port), *who]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE)

        def finish() -> dict[str, int]:
            out, _ = process.communicate()
            counts: dict[str, int] = json.loads(out)
            return counts

        with process:
            try:
                yield finish
            finally:
                process.kill()


def served(
    room: Room, prefix: list[str], addresses: tuple[str, ...], *, transparent: bool = False, uid: int = 0
) -> Process:
    """Start a server, and wait until it listens."""
    log = room.directory / f"served-{len(room.started)}.log"
    more = [f"--uid={uid}", f"--gid={uid}", *(["--transparent"] if transparent else [])]
    command = [*prefix, *PROGRAM, "serve", *addresses, *more]
    process = room.spawn_bare(["env", f"--chdir={HERE}", *command], log=log)
    eventually(lambda: "ready" in log.read_text(encoding="utf-8"), what="the server listens")
    return process


@contextmanager
def open_pod(room: Room, *peer_ports: int) -> Iterator[Pod]:
    """Make the namespaces and the link; the peer serves these ports, in both families."""
    missing = [name for name in ("ip", "iptables-save", "nft", "nsenter", "unshare") if shutil.which(name) is None]
    if missing or not may_have_networks():
        pytest.skip(f"without {', '.join(missing) or 'CAP_SYS_ADMIN'}")
    addresses = tuple(f"{ANY[version]}:{port}" for version in (4, 6) for port in peer_ports)
    peer = served(room, ["unshare", "--net"], addresses)
    pod = Pod(room, peer)
    run("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "peer0", "netns", str(peer.pid))
    _set_up([], "pod0", POD)
    _set_up(pod.in_peer, "peer0", PEER)
    run(*pod.in_peer, "ip", "link", "set", "lo", "up")
    try:
        yield pod
    finally:
        for process in (*pod.servers, peer):
            process.kill()
            process.wait()


def _set_up(prefix: list[str], interface: str, addresses: dict[int, str]) -> None:
    run(*prefix, "ip", "address", "add", f"{addresses[4]}/24", "dev", interface)
    run(*prefix, "ip", "address", "add", f"{addresses[6]}/64", "dev", interface, "nodad")
    run(*prefix, "ip", "link", "set", interface, "up")


def run(*command: str) -> str:
    """Run a program that must succeed; return its output."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
