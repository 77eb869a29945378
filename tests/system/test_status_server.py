"""Clients of the status server cannot delay rotations or other clients, and their memory is bounded."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.host.memory import resident
from tests.system.agent_fixture import AgentFixture
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.proxies import Console
from tests.system.status_pollers import Onlooker, ask, overview
from tests.system.wire import Target

ROTATIONS = count("AGENT_ROTATIONS", short=5, long=20)
IDLE = 1_000
NEVER_READING = 300  # more than the limit of connections
AHEAD = 200  # requests of each of them before it would read
SLOW = 60
GARBAGE = 100
KIB = 1 << 10
MIB = 1 << 20
PEAK = 64 * MIB  # permitted growth of the agent while they are connected
AFTER = 24 * MIB  # and of its allocator: no more growth after the third time (observed: 15)

Attack = Callable[[AgentFixture, ExitStack], Callable[[], None]]
"""Starts an attack; returns the function to call repeatedly while it lasts."""


def connected(target: Target, stack: ExitStack, receive_buffer: int = 0) -> socket.socket:
    """Connect to the status server until the end of `stack`."""
    sock = socket.socket(target.family, socket.SOCK_STREAM)
    stack.callback(sock.close)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(PATIENCE)
    sock.connect((target.host, target.port))
    sock.setblocking(False)
    return sock


def push(sock: socket.socket, data: bytes) -> None:
    """Send the bytes that fit into the buffer; the rest, and the state of the connection, do not matter."""
    with contextlib.suppress(OSError):
        sock.send(data)


def nothing() -> None:
    """Do nothing."""


def never_reading(instance: AgentFixture, stack: ExitStack) -> Callable[[], None]:
    """Send many requests, and read no response."""
    paths = ("/status", "/metrics", "/events", "/", "/stats")
    for number in range(NEVER_READING):
        sock = connected(instance.status, stack, receive_buffer=4 * KIB)
        asked = f"GET {paths[number % len(paths)]} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        push(sock, asked * AHEAD)
    return nothing


def idle(instance: AgentFixture, stack: ExitStack) -> Callable[[], None]:
    """Connect, and send no data."""
    for _ in range(IDLE):
        connected(instance.status, stack)
    return nothing


def garbage(instance: AgentFixture, stack: ExitStack) -> Callable[[], None]:
    """Send invalid data repeatedly."""
    texts = (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n", b"\0" * 512, b"GET\r\n\r\n", os.urandom(4 * KIB))

    def send() -> None:
        for text in texts * (GARBAGE // len(texts) // 10):
            with ExitStack() as own:
                push(connected(instance.status, own), text)

    return send


def endless_header(instance: AgentFixture, stack: ExitStack) -> Callable[[], None]:
    """Send a header of 1 MB repeatedly."""
    head = b"GET /status HTTP/1.1\r\nHost: a\r\nX: " + b"a" * MIB + b"\r\n\r\n"

    def send() -> None:
        with ExitStack() as own, contextlib.suppress(OSError):
            sock = connected(instance.status, own)
            sock.settimeout(PATIENCE)
            sock.sendall(head)
            answer = sock.recv(64)
            assert not answer.startswith(b"HTTP/1.1 200"), f"a header of 1 MB was taken: {answer!r}"

    return send


def slow(instance: AgentFixture, stack: ExitStack) -> Callable[[], None]:
    """Send a request byte by byte, and start again when the server closes the connection."""
    endless = b"GET /status HTTP/1.1\r\nHost: a\r\nX: "
    socks = [connected(instance.status, stack) for _ in range(SLOW)]
    for sock in socks:
        push(sock, endless)

    def drip() -> None:
        for sock in socks:
            push(sock, b"a")

    return drip


def large_bodies(instance: AgentFixture, stack: ExitStack) -> Callable[[], None]:
    """Send almost a whole megabyte of a body that is never complete."""
    head = b"POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n"
    socks = {connected(instance.status, stack): head + b"a" * (MIB - 1) for _ in range(IDLE // 4)}

    def send() -> None:
        for sock, rest in socks.items():
            with contextlib.suppress(OSError):
                socks[sock] = rest[sock.send(rest) :] if rest else b""

    return send


ATTACKS: dict[str, Attack] = {
    "never reading": never_reading,
    "idle": idle,
    "garbage": garbage,
    "endless header": endless_header,
    "slow": slow,
    "large bodies": large_bodies,
}


@contextmanager
def under(instance: AgentFixture, *attacks: Attack) -> Iterator[None]:
    """Run these attacks during the block."""
    with ExitStack() as stack:
        steps = [attack(instance, stack) for attack in attacks]
        with Onlooker(lambda: [step() for step in steps], every=0.1) as attackers:
            yield
            eventually(lambda: attackers.looks > 3, what="the attackers get their turn")
        assert attackers.wrong == []


class Watch:
    """Measures the agent's memory, and is the good client."""

    def __init__(self, instance: AgentFixture) -> None:
        self.instance = instance
        self.before = self.highest = self.memory()
        self.descriptors = descriptors(instance)

    def memory(self) -> int:
        """Return the agent's resident memory, in bytes."""
        now = resident(self.instance.agent_pid)
        assert now is not None
        return now

    def look(self) -> None:
        """Send the requests of a kubelet and of an operator."""
        self.highest = max(self.highest, self.memory())
        for path in ("/status", "/healthz/ready"):
            reply = ask(self.instance, path)
            assert reply.status == 200, f"{path}: {reply.status} {reply.text}"

    @property
    def peak(self) -> int:
        """Return the maximum growth, in bytes."""
        return self.highest - self.before


def descriptors(instance: AgentFixture) -> int:
    """Count the open descriptors of the agent."""
    return len(list(Path(f"/proc/{instance.agent_pid}/fd").iterdir()))


def rotate(instance: AgentFixture, times: int) -> None:
    """Rotate under attack."""
    for _ in range(times):
        instance.rotate()
        instance.served()


def as_before(instance: AgentFixture, watch: Watch) -> None:
    """Check that the agent has its former descriptors, and little more memory."""
    instance.settled()
    eventually(lambda: descriptors(instance) <= watch.descriptors, what="the descriptors are closed")
    assert watch.memory() - watch.before <= AFTER


@pytest.mark.long
@pytest.mark.timeout(600 + 5 * ROTATIONS)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_bad_client_costs_only_bounded_memory(attack: Attack, instance: AgentFixture, loads: Loads) -> None:
    rotate(instance, 2)
    instance.settled()
    watch = Watch(instance)
    loads.gentle(instance.tls, instance.plain)
    with under(instance, attack), Onlooker(watch.look, every=0.1) as good:
        rotate(instance, ROTATIONS)
        loads.more(20)
    nothing_failed(loads.finish(at_least=20))
    assert (good.wrong, good.unanswered) == ([], [])
    assert watch.peak <= PEAK, f"{watch.peak / MIB:.1f} MiB"
    as_before(instance, watch)


@pytest.mark.long
@pytest.mark.timeout(600 + 5 * ROTATIONS)
def test_all_of_them_together_do_neither(instance: AgentFixture, loads: Loads) -> None:
    rotate(instance, 2)
    instance.settled()
    watch = Watch(instance)
    loads.gentle(instance.tls, instance.plain)
    with under(instance, *ATTACKS.values()), Onlooker(watch.look, every=0.1) as good:
        rotate(instance, ROTATIONS)
        loads.more(20)
    nothing_failed(loads.finish(at_least=20))
    assert (good.wrong, good.unanswered) == ([], [])
    assert watch.peak <= PEAK, f"{watch.peak / MIB:.1f} MiB"
    as_before(instance, watch)


def test_what_there_is_can_be_read_and_nothing_else_can_be_done(instance: AgentFixture) -> None:
    assert overview(instance)["epoch"] == instance.serving().number
    there = ("/", "/status", "/status/schema.json", "/metrics", "/stats/prometheus", "/stats", "/healthz/live")
    assert {path: ask(instance, path).status for path in there} == dict.fromkeys(there, 200)
    assert ask(instance, "/nothing").status == 404
    for path in ("/drain", "/quitquitquit"):
        assert ask(instance, path).status == 405
        assert Console(instance.status.port).post(path).status == 403, "off unless --http-actions is given"
