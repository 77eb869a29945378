"""HAProxy under the agent: what differs from Envoy, and the faults of the design's table, under load."""

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.pki import Authority
from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import serial_served
from tests.system.candidates import frozen_candidate
from tests.system.certificates import NAME, Files, authority, serial
from tests.system.concurrent_requests import land, launched
from tests.system.eventually import eventually
from tests.system.haproxies import HAProxyFixture
from tests.system.layouts import ALTERNATING, IN_PLACE, KEY, ROOT
from tests.system.listening import listening
from tests.system.loads import Loads, nothing_failed
from tests.system.refused import short_rsa
from tests.system.room import alive, kill, stopped
from tests.system.state import DRAINING
from tests.system.test_crash import only_in_flight
from tests.system.test_push import pushed, same_epoch
from tests.system.test_upgrade import order
from tests.system.wire import Target, closed_by_peer, connect, exchange, tls_context

pytestmark = pytest.mark.only_haproxy
QUEUED = 200


@pytest.fixture
def haproxy(unstarted: AgentFixture) -> HAProxyFixture:
    """The fixture, before its agent starts."""
    assert isinstance(unstarted, HAProxyFixture)
    return unstarted


@pytest.fixture
def running(haproxy: HAProxyFixture) -> HAProxyFixture:
    """The same, started."""
    haproxy.start()
    return haproxy


@pytest.fixture
def pushing(haproxy: HAProxyFixture) -> HAProxyFixture:
    """An agent that pushes and whose proxy outlives it, before its start."""
    haproxy.more_flags += ["--on-certificate", "push", "--survive"]
    return haproxy


def reconfigured(instance: HAProxyFixture, change: Callable[[], object] | None = None) -> None:
    """Change the configuration; wait until the next epoch serves and no other runs."""
    before = instance.serving().number
    if change is not None:
        change()
    instance.bootstrap.body = f"{before}\n"
    instance.bootstrap.write(instance.config)
    eventually(lambda: instance.serving().number > before, what="the next one serves")
    instance.settled()


def use(instance: HAProxyFixture, **fields: object) -> None:
    """Set properties of the configuration."""
    for name, value in fields.items():
        setattr(instance.haproxy, name, value)


# Rotations and faults


def test_rotations_in_every_layout_fail_nothing(running: HAProxyFixture, loads: Loads) -> None:
    loads.usual(running.tls, running.plain)
    loads.more(20)
    for layout in ALTERNATING[:4]:
        running.rotate(layout)
        running.served()
    nothing_failed(loads.finish(at_least=100))


def test_garbage_on_disk_and_a_crash_refuse_no_client(running: HAProxyFixture, loads: Loads) -> None:
    loads.gentle(running.tls, running.plain)
    before = running.serving()
    IN_PLACE.again(running.certs, Files(b"garbage", b"garbage"))
    eventually(lambda: running.journal.complaints(str(running.certs)), what="a complaint about garbage")
    death = kill(before.pid)
    eventually(lambda: running.serving().number > before.number, what="the next one serves")
    assert running.serial_served() == serial(running.mint.newest)
    loads.more(20)
    only_in_flight(loads.finish(), [death])


def test_clients_queued_at_a_stopped_one_are_answered_by_the_next(running: HAProxyFixture) -> None:
    with stopped(running.serving_pid()):
        flights = launched(running.tls, QUEUED // 2) + launched(running.plain, QUEUED // 2)
        running.rotate()
        land(flights)
    assert [str(each.failure) for each in flights if each.failure] == []
    running.settled()


@pytest.mark.long
def test_a_candidate_killed_at_the_gate_costs_nothing(running: HAProxyFixture, loads: Loads) -> None:
    loads.gentle(running.tls, running.plain)
    before = running.serving()
    with frozen_candidate(running) as candidate:
        os.kill(candidate.pid, signal.SIGKILL)
        assert running.serving().number >= before.number
    running.served()
    running.settled()
    nothing_failed(loads.finish(at_least=20))


def test_a_configuration_that_does_not_parse_is_named_by_line(running: HAProxyFixture, loads: Loads) -> None:
    loads.gentle(running.tls, running.plain)
    before = running.serving()
    running.config.write_text(f"{running.haproxy.text()}    no-such-word\n", encoding="ascii")
    (entry,) = eventually(lambda: running.journal.complaints("no-such-word"), what="a complaint")
    assert f"{running.config}:" in entry.body
    assert "/dev/fd" not in entry.body
    assert running.serving() == before
    running.rotate()
    running.served()
    nothing_failed(loads.finish(at_least=20))


def test_the_agent_is_killed_and_the_next_one_adopts(haproxy: HAProxyFixture, loads: Loads) -> None:
    haproxy.more_flags += ["--survive"]
    haproxy.start()
    before = haproxy.serving()
    loads.gentle(haproxy.tls, haproxy.plain)
    haproxy.kill_agent()
    haproxy.launch()
    haproxy.ready()
    assert haproxy.serving() == before
    haproxy.rotate()
    haproxy.served()
    eventually(lambda: not alive(before.pid), what="the adopted one has drained")
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.parametrize("command", ["restart", pytest.param("upgrade", marks=pytest.mark.long)])
def test_commands_cost_nothing(command: str, running: HAProxyFixture, loads: Loads) -> None:
    loads.gentle(running.tls, running.plain)
    done = order(running, command)
    assert done.returncode == 0, done.stderr
    running.rotate()
    running.served()
    running.settled()
    nothing_failed(loads.finish(at_least=20))


def test_at_a_stop_an_open_connection_ends_by_itself(running: HAProxyFixture) -> None:
    origin = socket.create_server((HOST, 0))
    target = Target(HOST, running.room.port())
    reconfigured(running, lambda: running.forward(target.port, origin.getsockname()[1]))
    with origin, connect(target, tls_context()) as client:
        client.sendall(b"hello")
        server, _ = origin.accept()
        with server:
            assert server.recv(5) == b"hello"
            running.more_flags.clear()
            os.kill(running.agent_pid, signal.SIGTERM)
            eventually(lambda: not listening(target.port), what="it does not listen")
            server.sendall(b"last words")
            assert client.recv(10) == b"last words"


# Pushes


def test_a_pair_is_pushed_and_a_bad_one_is_not(pushing: HAProxyFixture, loads: Loads) -> None:
    pushing.start()
    loads.usual(pushing.tls, pushing.plain)
    with same_epoch(pushing), connect(pushing.tls, tls_context()) as idle:
        exchange(idle, last=False)
        for _ in range(3):
            pushed(pushing)
            pushing.served()
        (pushing.certs / KEY).write_bytes(pushing.mint.spare().key_pem)
        eventually(lambda: pushing.journal.named("certificate.refused"), what="it is refused")
        assert pushing.serial_served() == serial(pushing.mint.newest)
        assert not closed_by_peer(idle)
    nothing_failed(loads.finish(at_least=50))


def test_authorities_and_revocation_lists_are_pushed(pushing: HAProxyFixture, tmp_path: Path) -> None:
    ours, revoked = authority(), authority().issue(["client.test"])
    pushing.certs.mkdir()
    root, crl = pushing.certs / ROOT, pushing.certs / "ca.crl"
    root.write_bytes(authority("somebody else").pem)
    crl.write_bytes(revocations(authority("somebody else")))
    use(pushing, binding=f"ca-file {root} crl-file {crl} verify required")
    pushing.prepare()
    pushing.launch()
    eventually(lambda: pushing.state().ready, what="it is ready")
    client = tls_context()
    client.load_cert_chain(write(tmp_path / "client.pem", revoked.chain_pem + revoked.key_pem))
    assert not accepted(pushing.tls, client)
    with same_epoch(pushing):
        both = ours.pem + authority("somebody else").pem
        lists = revocations(ours) + revocations(authority("somebody else"))
        pushed(pushing, times=1, action=lambda: (crl.write_bytes(lists), root.write_bytes(both)))
        eventually(lambda: accepted(pushing.tls, client), what="the client is trusted")
        revoking = revocations(ours, revoked.chain_pem) + revocations(authority("somebody else"))
        pushed(pushing, action=lambda: crl.write_bytes(revoking))
        eventually(lambda: not accepted(pushing.tls, client), what="its certificate is revoked")


def accepted(target: Target, context: object) -> bool:
    """Return whether a client with this context gets an answer."""
    try:
        with connect(target, context) as sock:  # type: ignore[arg-type]
            return exchange(sock, last=True).body != b""
    except Exception:  # noqa: BLE001  # whatever ends it
        return False


def write(path: Path, data: bytes) -> Path:
    """Write a file; return its path."""
    path.write_bytes(data)
    return path


def revocations(issuer: Authority, *chains: bytes) -> bytes:
    """Return a revocation list of an authority."""
    leaf = x509.load_pem_x509_certificate(issuer.issue(["x"]).chain_pem)
    builder = x509.CertificateRevocationListBuilder(
        issuer.certificate.subject, leaf.not_valid_before_utc, leaf.not_valid_after_utc
    )
    for chain in chains:
        number = x509.load_pem_x509_certificate(chain).serial_number
        entry = x509.RevokedCertificateBuilder(number, leaf.not_valid_before_utc).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_crash_and_an_agents_death_after_a_push_keep_what_was_pushed(pushing: HAProxyFixture) -> None:
    pushing.start()
    pushed(pushing)
    pushing.served()
    for path in pushing.certs.iterdir():
        path.write_bytes(b"garbage")
    before = pushing.serving()
    kill(before.pid)
    eventually(lambda: pushing.serving().number > before.number, what="the next one serves")
    assert pushing.serial_served() == serial(pushing.mint.newest)
    pushed(pushing)
    pid = pushing.serving_pid()
    pushing.kill_agent()
    pushing.launch()
    pushing.ready()
    assert pushing.serving_pid() == pid
    pushed(pushing)
    pushing.served()
    assert pushing.serving_pid() == pid


@pytest.mark.long
def test_what_only_haproxy_refuses_is_named_and_the_rest_is_pushed(pushing: HAProxyFixture, loads: Loads) -> None:
    pushing.certs.mkdir()
    second, spare = pushing.certs / "second.pem", pushing.mint.spare()
    second.write_bytes(spare.chain_pem + spare.key_pem)
    use(pushing, binding=f"crt {second}")
    pushing.start()
    loads.gentle(pushing.tls, pushing.plain)
    bad = short_rsa(authority(), "b.test")
    with same_epoch(pushing):
        with stopped(pushing.agent_pid):
            second.write_bytes(bad.chain_pem + bad.key_pem)
            pushing.rotate()
        pushing.served()
        named = eventually(lambda: pushing.journal.complaints("second.pem"), what="it is named")
        assert "/dev/fd" not in named[0].body
    nothing_failed(loads.finish(at_least=20))


# What is HAProxy's own


@pytest.mark.long
def test_daemon_master_worker_and_consoles_of_the_operator_are_in_the_agents_hands(haproxy: HAProxyFixture) -> None:
    console = haproxy.directory / "operators.sock"
    lines = ("daemon", "master-worker", f"pidfile {haproxy.directory}/pid", f"stats socket {console} level admin")
    use(haproxy, globals=lines)
    haproxy.start()
    for _ in range(2):
        assert asked(console, "show info").split("Pid: ")[1].split()[0] == str(haproxy.serving_pid())
        haproxy.rotate()
        haproxy.served()
        haproxy.settled()
    assert not (haproxy.directory / "pid").exists()
    console.unlink()


def asked(console: Path, command: str) -> str:
    """Send a command to a console and return the answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(console))
        sock.sendall(f"{command}\n".encode())
        parts = iter(lambda: sock.recv(1 << 16), b"")
        return b"".join(parts).decode()


def test_fewer_threads_than_sockets_hang_no_client(haproxy: HAProxyFixture, loads: Loads) -> None:
    target = Target(HOST, haproxy.room.port())
    use(haproxy, threads=4, sections=f"frontend many\n    bind {HOST}:{target.port} shards by-thread\n    {ANSWER}\n")
    haproxy.start()
    loads.start("bursts", target, clients=50, pace=0.01)
    for threads in (1, 3):
        reconfigured(haproxy, lambda threads=threads: use(haproxy, threads=threads))  # type: ignore[misc]
        assert len(listening(target.port)) == threads
        flights = launched(target, 40)
        land(flights)
        assert [str(each.failure) for each in flights if each.failure] == []
    nothing_failed(loads.finish(at_least=50))


ANSWER = "http-request return status 200 content-type text/plain string 'ok\\n'"


def test_a_unix_socket_is_handed_over_and_an_address_that_is_gone_is_closed(haproxy: HAProxyFixture) -> None:
    path, port = haproxy.directory / "web.sock", haproxy.room.port()
    gone = f"    bind {HOST}:{port}\n"
    here = f"frontend unix\n    bind {path}\n    bind abns@{path.parent.parent.name}\n{{}}    {ANSWER}\n"
    use(haproxy, sections=here.format(gone))
    haproxy.start()
    inode = path.stat().st_ino
    with stopped(haproxy.serving_pid()), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        haproxy.rotate()
        assert b" 200 " in client.recv(1 << 12)
    haproxy.settled()
    assert path.stat().st_ino == inode
    reconfigured(haproxy, lambda: use(haproxy, sections=here.format("")))
    eventually(lambda: not listening(port), what="nobody listens where nothing is bound any more")
    haproxy.stop()
    path.unlink(missing_ok=True)


def test_what_the_agent_shows_is_of_haproxy(running: HAProxyFixture) -> None:
    target = Target(HOST, running.room.port())
    origin = socket.create_server((HOST, 0))
    reconfigured(running, lambda: running.forward(target.port, origin.getsockname()[1]))
    with origin, connect(target, tls_context()) as client:
        client.sendall(b"hello")
        server, _ = origin.accept()
        with server:
            running.rotate()
            running.served()
            eventually(lambda: running.state().among(DRAINING), what="the old one drains")
            assert 'haproxy_frontend_http_requests_total{proxy="tls"}' in page(running)
    refused = order(running, "request", "GET", "/stats")
    assert "HAProxy has no admin interface over HTTP" in refused.stdout
    shown = order(running, "status").stdout + order(running, "certs").stdout + order(running, "history").stdout
    assert f"tcp://{HOST}:{running.tls.port}" in shown
    log = running.journal.path.read_text(encoding="utf-8")
    assert "nvoy" not in shown + log
    assert not running.journal.complaints()


def page(instance: AgentFixture) -> str:
    """Return the page of metrics."""
    with urlopen(f"http://{HOST}:{instance.status.port}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def test_a_directory_of_many_pairs_of_any_name_needs_no_configuration(haproxy: HAProxyFixture) -> None:
    """The generated configuration serves them all; one that only HAProxy refuses is left out."""
    haproxy.is_small = True
    haproxy.tls = replace(haproxy.tls, server_name=NAME)
    haproxy.more_flags += ["--on-certificate", "push"]
    more = {f"s{number}.test": haproxy.mint.issuer.issue([f"s{number}.test"]) for number in range(40)}
    haproxy.certs.mkdir()
    for name, leaf in more.items():
        (haproxy.certs / f"fullchain {name}.pem").write_bytes(leaf.chain_pem)
        (haproxy.certs / f"privkey {name}.pem").write_bytes(leaf.key_pem)
    haproxy.start()
    for name, leaf in [*more.items()][::13]:
        assert serial_served(Target(HOST, haproxy.tls.port, tls=True, server_name=name)) == serial(leaf)
    pushed(haproxy)
    haproxy.served()
