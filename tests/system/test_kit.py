"""Tests of the test tools, on a bare Envoy: a load that cannot fail would prove nothing about the agent."""

import http.client
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.bare import bare_proxy, first_answer, serial_served
from tests.system.bootstrap import Bootstrap, Secured
from tests.system.certificates import Mint, serial
from tests.system.concurrent_requests import land, launched
from tests.system.eventually import eventually, pass_time
from tests.system.layouts import ALTERNATING, CHAIN, IN_PLACE, KEY, KEY_LATE, Layout
from tests.system.listening import listening
from tests.system.loads import Loads, nothing_failed
from tests.system.room import Process, Room, open_room, stopped
from tests.system.wire import Target, serial_in

CLIENTS = 4
KINDS = ("closed", "keepalive", "open", "bursts")


class Lone:
    """The configuration, targets and certificate of a bare Envoy."""

    def __init__(self, room: Room) -> None:
        self.room, self.mint = room, Mint()
        certs = room.directory / "certs"
        IN_PLACE.first(certs, self.mint.leaf())
        self.tls = Target("127.0.0.1", room.port(), tls=True)
        self.plain = Target("127.0.0.1", room.port())
        self.admin_port = room.port()
        self.config = self._written("envoy.yaml", certs, self.admin_port)
        self.twin_config = self._written("twin.yaml", certs, None)

    def _written(self, name: str, certs: Path, admin_port: int | None) -> Path:
        path = self.room.directory / name
        secured = [Secured(certs / CHAIN, certs / KEY)]
        Bootstrap(self.tls.port, self.plain.port, secured, admin_port).write(path)
        return path


@pytest.fixture
def lone(room: Room) -> Lone:
    return Lone(room)


@pytest.fixture
def proxy(lone: Lone, envoy: Path) -> Iterator[Process]:
    with bare_proxy(lone.room, envoy, lone.config) as process:
        first_answer(lone.tls)
        yield process


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_load_is_served_by_an_untroubled_proxy(
    kind: str, lone: Lone, proxy: Process, loads: Loads
) -> None:
    for target in (lone.tls, lone.plain):
        loads.start(kind, target, clients=10, rate=200)
    loads.more(100)
    reports = loads.finish()
    nothing_failed(reports)
    assert all(set(report.serials) <= {serial(lone.mint.newest)} for report in reports)


def test_a_killed_proxy_is_seen_as_refused(lone: Lone, proxy: Process, loads: Loads) -> None:
    load = loads.start("closed", lone.plain)
    load.more(100)
    proxy.kill()
    eventually(lambda: load.counts()[1] > 10, what="requests fail")
    (report,) = loads.finish()
    assert report.failed > 10
    assert report.reasons()["refused"] > 0


def test_a_lost_accept_queue_is_seen_as_resets(lone: Lone, proxy: Process, envoy: Path) -> None:
    """Two Envoys share the port by SO_REUSEPORT: the accept queue of the first one is lost with it."""
    with bare_proxy(lone.room, envoy, lone.twin_config) as twin:
        eventually(lambda: len(listening(lone.plain.port)) == 4, what="both Envoys listen with two workers")
        with stopped(proxy.pid):
            flights = launched(lone.plain, 200)
            proxy.kill()
        land(flights)
        assert twin.poll() is None
    lost = [flight.failure.reason for flight in flights if flight.failure]
    assert 40 < len(lost) < 160
    assert set(lost) == {"reset"}


def test_clients_queued_at_a_stopped_proxy_are_answered_when_it_goes_on(lone: Lone, proxy: Process) -> None:
    with stopped(proxy.pid):
        flights = launched(lone.tls, 300)
        land(flights[:3], within=0.2)
    assert [flight.failure and flight.failure.reason for flight in flights[:3]] == ["timeout"] * 3
    land(flights[3:])
    assert [flight.failure for flight in flights[3:] if flight.failure] == []
    assert {flight.serial for flight in flights[3:]} == {serial(lone.mint.newest)}


def test_an_open_loop_reports_the_wait_of_a_pause(lone: Lone, proxy: Process, loads: Loads) -> None:
    started, rate = time.monotonic(), 100
    load = loads.start("open", lone.plain, clients=1, rate=rate)
    load.more(20)
    with stopped(proxy.pid):
        began = time.monotonic()
        pass_time(0.5)  # the expected longest wait
        pause = time.monotonic() - began
    load.more(20)
    (report,) = loads.finish()
    assert report.failed == 0
    assert pause - 1 / rate <= report.longest_wait < time.monotonic() - started


def test_keep_alive_clients_obey_an_announced_close(lone: Lone, proxy: Process, loads: Loads) -> None:
    load = loads.start("keepalive", lone.tls, clients=CLIENTS)
    load.more(100)
    admin = http.client.HTTPConnection("127.0.0.1", lone.admin_port)
    admin.request("POST", "/healthcheck/fail")
    assert admin.getresponse().status == 200
    admin.close()
    load.more(100)
    (report,) = loads.finish()
    nothing_failed([report])
    assert report.announced >= 100 - CLIENTS, "all answers but those that were on their way announce a close"


@contextmanager
def answering(port: int, answer: bytes, *, read_first: bool = True) -> Iterator[None]:
    """Run a server that answers each connection with these bytes and closes it."""
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(0.2)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    peer, _ = server.accept()
                except TimeoutError:
                    continue
                with peer:
                    if read_first:
                        peer.recv(4096)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "eof"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "eof"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "eof"),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "status"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "malformed"),
    ],
)
def test_a_broken_answer_is_a_failure_with_its_reason(answer: bytes, reason: str, room: Room, loads: Loads) -> None:
    port = room.port()
    with answering(port, answer):
        load = loads.start("keepalive", Target("127.0.0.1", port), clients=1)
        eventually(lambda: load.counts()[1] >= 5, what="requests fail")
        (report,) = loads.finish()
    assert set(report.reasons()) == {reason}
    assert report.ok == 0


def test_a_close_between_two_requests_is_no_failure(room: Room, loads: Loads) -> None:
    port = room.port()
    with answering(port, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"):
        load = loads.start("keepalive", Target("127.0.0.1", port), clients=1, pace=0.01)
        load.more(20)
        (report,) = loads.finish()
    assert report.failed == 0
    assert report.idle_closed >= 19


@pytest.mark.parametrize("layout", [one for one in ALTERNATING if one is not KEY_LATE], ids=lambda one: one.name)
def test_a_layout_replaces_what_any_other_left(layout: Layout, tmp_path: Path) -> None:
    mint = Mint()
    for before in ALTERNATING:
        directory = tmp_path / before.name
        before.first(directory, mint.leaf())
        layout.again(directory, mint.leaf())
        assert (directory / CHAIN).read_bytes() == mint.newest.chain_pem
        assert (directory / KEY).read_bytes() == mint.newest.key_pem


def test_the_serial_on_the_wire_is_the_serial_of_the_certificate(lone: Lone, proxy: Process) -> None:
    assert serial_served(lone.tls) == serial(lone.mint.newest)
    for _ in range(50):
        leaf = lone.mint.leaf()
        assert serial_in(der_of(leaf.chain_pem)) == serial(leaf)


def der_of(pem: bytes) -> bytes:
    """Return the first certificate of a PEM text as DER."""
    return ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))


def test_a_sandbox_reports_remaining_processes(envoy: Path) -> None:
    with pytest.raises(AssertionError, match=r"sleep 1000"), open_room(patience=0.2) as room:
        left = room.spawn_bare(["sleep", "1000"], log=room.directory / "log")
    assert left.returncode == -signal.SIGKILL


@pytest.mark.root
def test_a_sandbox_reports_remaining_shared_memory(envoy: Path) -> None:
    with pytest.raises(AssertionError, match=r"envoy_shared_memory_7"), open_room(patience=0.2) as room:
        room.spawn(["touch", "/dev/shm/envoy_shared_memory_7"], log=room.directory / "log").wait()
    assert not room.shm.exists()


@pytest.mark.root
def test_a_cell_with_a_read_only_root_can_write_where_it_may(room: Room) -> None:
    inside = room.directory / "inside"
    inside.mkdir()
    words = f"touch {inside}/ok; touch {room.directory}/no; touch /dev/shm/ok; true"
    cell = ["--read-only-except", str(inside)]
    assert room.spawn(["sh", "-c", words], log=inside / "log", cell=cell).wait() == 0
    assert (inside / "ok").exists()
    assert (room.shm / "ok").exists()
    assert not (room.directory / "no").exists()
