"""NGINX under the agent: certificates and configurations change, and processes die, without an effect on clients."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.system.agent_fixture import HOST
from tests.system.bare import body_of, serial_served
from tests.system.bootstrap import Secured, replace
from tests.system.candidates import next_candidate
from tests.system.certificates import Files, Pair, authority, serial
from tests.system.concurrent_requests import land, launched
from tests.system.conftest import INSTANCES
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually, throughout
from tests.system.layouts import CHAIN, IN_PLACE, KEY
from tests.system.listening import listening
from tests.system.loads import Loads, nothing_failed
from tests.system.nginxes import MODULES, NginxFixture, all_stopped, children, nginx_binary
from tests.system.room import Room, alive, kill, stopped
from tests.system.stand_ins import breakable
from tests.system.test_crash import only_in_flight, refused
from tests.system.test_upgrade import order
from tests.system.wire import Failed, Target, connect, exchange, tls_context

pytestmark = [pytest.mark.skipif(nginx_binary() is None, reason="no nginx"), pytest.mark.quiet]
ROTATIONS = count("AGENT_ROTATIONS", short=4, long=100)
STRIKES = count("AGENT_STRIKES", short=2, long=50)
MakeNginx = Callable[..., NginxFixture]


@pytest.fixture
def make_nginx(room: Room, request: pytest.FixtureRequest) -> Iterator[MakeNginx]:
    """Create agent fixtures with NGINX; their agents are stopped, and must exit with 0, at the end."""
    instances: list[NginxFixture] = []
    binary = nginx_binary()
    assert binary is not None

    def make(name: str = "n", **fields: object) -> NginxFixture:
        instances.append(NginxFixture(room, name, binary, **{"proxy_args": [], **fields}))  # type: ignore[arg-type]
        return instances[-1]

    request.node.stash[INSTANCES] = instances
    yield make
    with ExitStack() as stack:
        for instance in instances:
            stack.callback(instance.stop)


@pytest.fixture
def unstarted(make_nginx: MakeNginx) -> NginxFixture:
    """An agent fixture that the test changes before its agent starts."""
    return make_nginx()


@pytest.fixture
def nginx(unstarted: NginxFixture) -> NginxFixture:
    """An agent fixture whose agent is ready and serves."""
    unstarted.start()
    return unstarted


def test_rotations_under_load_fail_nothing(nginx: NginxFixture, loads: Loads) -> None:
    loads.retried(nginx.tls, nginx.plain)
    loads.more(20)
    for _ in range(ROTATIONS):
        nginx.rotate()
        nginx.served()
    loads.more(20)
    nothing_failed(loads.finish(at_least=100))
    nginx.settled()


@pytest.mark.long
def test_fifty_pairs_one_that_only_nginx_refuses(unstarted: NginxFixture, loads: Loads) -> None:
    """The key of one pair is too small for its security level: its last good pair serves, all others are new."""
    nginx, more = unstarted, 49
    pairs = [nginx.directory / f"pairs/{number}" for number in range(more)]
    names = [f"n{number}.test" for number in range(more)]
    nginx.nginx.secured = [
        *nginx.nginx.secured,
        *(Secured(path / CHAIN, path / KEY, name) for path, name in zip(pairs, names, strict=True)),
    ]
    nginx.more_flags += ["--certs", str(nginx.directory / "pairs")]
    before = [nginx.mint.spare() for _ in pairs]
    for path, leaf in zip(pairs, before, strict=True):
        IN_PLACE.first(path, leaf)
    nginx.start()
    loads.retried(nginx.tls, nginx.plain)
    nginx.journal.mark()
    after: list[Pair] = [nginx.mint.spare() for _ in pairs]
    after[7] = weak_leaf(names[7])
    with stopped(nginx.agent_pid):
        for path, pair in zip(pairs, after, strict=True):
            IN_PLACE.again(path, pair)
        nginx.rotate()
    nginx.served()
    nginx.committed()
    served = [serial_served(Target(HOST, nginx.tls.port, True, name)) for name in names]
    assert served[7] == serial(before[7])
    assert served == [serial(each) for each in (*after[:7], before[7], *after[8:])]
    assert nginx.journal.complaints(str(pairs[7]))
    assert not nginx.journal.complaints(str(pairs[8]))
    nothing_failed(loads.finish(at_least=50))


def weak_leaf(name: str) -> Files:
    """Return a pair with an RSA key of 1024 bits, which OpenSSL refuses at its default security level."""
    leaf = authority().issue([name], rsa.generate_private_key(65537, 1024))
    return Files(leaf.chain_pem, leaf.key_pem)


def unknown_directive(nginx: NginxFixture) -> str:
    nginx.nginx.more = "    no_such_directive on;"
    return f"{nginx.config}:{1 + nginx.nginx.text()[: nginx.nginx.text().index('no_such')].count(chr(10))}"


def no_brace(nginx: NginxFixture) -> str:
    nginx.nginx.more = "    server {"
    return str(nginx.config)


def no_include(nginx: NginxFixture) -> str:
    nginx.nginx.more = f"    include {nginx.directory}/gone.conf;"
    return f"{nginx.directory}/gone.conf"


def no_master(nginx: NginxFixture) -> str:
    nginx.nginx.top = "master_process off;"
    return "master_process"


@pytest.mark.parametrize(
    "spoil",
    [unknown_directive, *(pytest.param(one, marks=pytest.mark.long) for one in (no_brace, no_include, no_master))],
)
def test_a_configuration_that_cannot_be_used_is_named_and_the_old_one_serves_on(
    spoil: Callable[[NginxFixture], str], nginx: NginxFixture, loads: Loads
) -> None:
    loads.retried(nginx.tls, nginx.plain)
    before = nginx.serving()
    nginx.journal.mark()
    word = spoil(nginx)
    nginx.configure()
    eventually(lambda: nginx.journal.complaints(word), what=f"a complaint about {word}")
    throughout(lambda: nginx.serving() == before, span=0.4, what="the old epoch serves")
    assert len(nginx.journal.complaints(word)) == 1, nginx.journal.tail()
    nginx.nginx.more = nginx.nginx.top = ""
    nginx.configure()
    nginx.rotate()
    nginx.served()
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.parametrize("whole", [pytest.param(False, id="master"), pytest.param(True, id="all")])
@pytest.mark.parametrize("disk", [pytest.param("good", marks=pytest.mark.long), "garbage"])
def test_a_killed_nginx_is_replaced_and_no_client_is_refused(
    disk: str, whole: bool, nginx: NginxFixture, loads: Loads
) -> None:
    """Its workers serve on without their master, and drain after the next one serves: then nothing is lost."""
    loads.retried(nginx.tls, nginx.plain)
    if disk == "garbage":
        IN_PLACE.again(nginx.certs, Files(b"garbage", b"garbage"))
        nginx.configure()
        eventually(lambda: nginx.journal.complaints(str(nginx.certs)), what="a complaint about garbage")
    loads.more(20)
    before, family = nginx.serving().number, nginx.family()
    deaths = [kill(pid) for pid in (family if whole else family[:1])]
    eventually(lambda: nginx.serving().number > before, what="the next one serves")
    assert nginx.serial_served() == serial(nginx.mint.newest)
    loads.more(20)
    eventually(lambda: not any(map(alive, family)), what="all of the killed one have exited")
    reports = loads.finish(at_least=50)
    if whole:
        only_in_flight(reports, deaths)
    else:
        nothing_failed(reports)


def test_two_hundred_clients_queued_at_a_stopped_nginx_are_answered(nginx: NginxFixture) -> None:
    with all_stopped(nginx.family()):
        flights = launched(nginx.tls, 200)
        nginx.rotate()
        land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []
    assert {flight.serial for flight in flights} == {serial(nginx.mint.newest)}
    nginx.settled()


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)], ids=lambda one: one.name
)
def test_a_candidate_killed_at_its_gate_costs_no_request(
    how: signal.Signals, nginx: NginxFixture, loads: Loads
) -> None:
    loads.retried(nginx.tls, nginx.plain)
    hits = 0
    while hits < STRIKES:
        before = nginx.serving().number
        nginx.rotate()
        if (candidate := next_candidate(nginx, before)) is not None:
            hits += struck(candidate.pid, how)
        nginx.served()
        nginx.committed()
    nothing_failed(loads.finish(at_least=50))


def struck(pid: int, how: signal.Signals) -> bool:
    """Send a signal to a candidate that has no workers yet; return whether it was sent."""
    try:
        with stopped(pid):
            if children(pid):
                return False
            os.kill(pid, how)
    except (ProcessLookupError, FileNotFoundError, AssertionError):
        return False
    return True


def test_a_killed_agent_finds_nginx_and_rotates_on(unstarted: NginxFixture, loads: Loads) -> None:
    nginx = unstarted
    nginx.more_flags += ["--survive"]
    nginx.start()
    before, family = nginx.serving(), nginx.family()
    loads.retried(nginx.tls, nginx.plain)
    nginx.kill_agent()
    loads.more(20)
    nginx.launch()
    nginx.ready()
    assert nginx.serving() == before
    nginx.rotate()
    nginx.served()
    eventually(lambda: not any(map(alive, family)), what="the adopted one has drained")
    loads.more(20)
    nothing_failed(loads.finish(at_least=50))


def test_an_upgrade_and_a_restart_fail_nothing(nginx: NginxFixture, loads: Loads) -> None:
    loads.retried(nginx.tls, nginx.plain)
    before = nginx.serving()
    done = order(nginx, "upgrade")
    assert done.returncode == 0, done.stderr
    assert nginx.serving() == before
    done = order(nginx, "restart")
    assert done.returncode == 0, done.stderr
    assert f"epoch {before.number + 1} serves" in done.stdout
    nginx.rotate()
    nginx.served()
    nothing_failed(loads.finish(at_least=50))


def test_a_stop_waits_for_open_requests_and_cuts_the_rest(nginx: NginxFixture) -> None:
    with connect(nginx.plain, tls_context()) as idle, connect(nginx.plain, tls_context()) as busy:
        exchange(idle, last=False)
        busy.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n")
        family = nginx.family()
        os.kill(nginx.agent_pid, signal.SIGTERM)
        assert idle.recv(1) == b""
        busy.sendall(b"Connection: close\r\n\r\n")
        assert b" 200 " in busy.recv(4096)
    nginx.stop()
    assert not any(map(alive, family))


@pytest.mark.parametrize("broken", ["hold", pytest.param("repair", marks=pytest.mark.long)])
def test_while_nothing_can_start_clients_are_held_and_after_a_repair_served(
    broken: str, unstarted: NginxFixture
) -> None:
    """After the hold they are refused: listening is stopped on sockets that the next one then listens on."""
    nginx, fault = unstarted, unstarted.directory / "broken"
    program, nginx.binary = nginx.binary, nginx.directory / "nginx"
    nginx.more_flags += ["--hold", "1s" if broken == "hold" else "5m"]
    breakable(nginx.binary, program, fault)
    nginx.start()
    fault.touch()
    kill_all(nginx)
    waiting = launched(nginx.plain, 20)
    if broken == "hold":
        eventually(lambda: refused(nginx), what="clients are refused after the hold")
    fault.unlink()
    land(waiting)
    assert {flight.failure and flight.failure.reason for flight in waiting} == {"reset" if broken == "hold" else None}
    nginx.ready()
    assert body_of(nginx.plain) == b"ok\n"
    nginx.rotate()
    nginx.served()


def kill_all(nginx: NginxFixture) -> None:
    """Kill the serving master, which would replace its workers, and then those."""
    for pid in nginx.family():
        kill(pid)


def test_included_files_are_part_of_the_configuration(unstarted: NginxFixture, loads: Loads) -> None:
    """One is added, changed, removed, and replaced by one that does not parse."""
    nginx = unstarted
    parts, third = nginx.directory / "conf.d", Target(HOST, nginx.room.port())
    parts.mkdir()
    nginx.nginx.more = "    include conf.d/*.conf;"
    nginx.start()
    loads.retried(nginx.tls, nginx.plain)
    part = parts / "a.conf"
    replace(part, server(third.port, "one"))
    eventually(lambda: body_of(third) == b"one", what="the added one")
    replace(part, server(third.port, "two"))
    eventually(lambda: body_of(third) == b"two", what="the changed one")
    nginx.journal.mark()
    replace(parts / "b.conf", "\n\nserver { listen nowhere.invalid:1; }\n")
    eventually(lambda: nginx.journal.complaints(f"{parts}/b.conf:3"), what="a complaint about the third line")
    assert body_of(third) == b"two"
    (parts / "b.conf").unlink()
    part.unlink()
    eventually(lambda: not listening(third.port), what="the removed one refuses its clients")
    nothing_failed(loads.finish(at_least=50))


def server(port: int, body: str, options: str = "") -> str:
    """Return a server that answers with a text."""
    return f'server {{ listen 127.0.0.1:{port} {options}; location / {{ return 200 "{body}"; }} }}\n'


@pytest.mark.root
def test_workers_of_another_user_open_certificates_by_names_with_variables(
    unstarted: NginxFixture, loads: Loads
) -> None:
    nginx, names = unstarted, ["a.test", "b.test"]
    port = nginx.room.port()
    many = nginx.certs / "many"
    nginx.nginx.top = "user www-data;"
    nginx.nginx.more = f"""
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {many}/$ssl_server_name.crt;
        ssl_certificate_key {many}/$ssl_server_name.key;
        location / {{ return 200 "ok\\n"; }}
    }}"""
    nginx.prepare()
    many.mkdir()
    many.chmod(0o700)
    first = [write_named(many, name) for name in names]
    nginx.launch()
    nginx.ready()
    targets = [Target(HOST, port, True, name) for name in names]
    assert [serial_served(target) for target in targets] == first
    loads.start("closed", targets[0])
    new = write_named(many, names[1])
    eventually(lambda: serial_served(targets[1]) == new, what="the new one")
    added = write_named(many, "c.test")
    eventually(lambda: serial_served(Target(HOST, port, True, "c.test")) == added, what="the added one")
    assert serial_served(targets[0]) == first[0]
    nothing_failed(loads.finish(at_least=20))


def write_named(directory: Path, name: str) -> int:
    """Write a new pair under a name; return its serial number."""
    leaf = authority().issue([name])
    (directory / f"{name}.key").write_bytes(leaf.key_pem)
    (directory / f"{name}.crt").write_bytes(leaf.chain_pem)
    (directory / f"{name}.key").chmod(0o600)
    return serial(leaf)


@pytest.mark.long
def test_three_one_three_workers_with_reuseport(unstarted: NginxFixture, loads: Loads) -> None:
    """Each worker has its own queue: with fewer workers, nobody waits in one without a reader."""
    nginx = unstarted
    nginx.nginx.listening, nginx.nginx.workers = "reuseport", 3
    nginx.start()
    loads.start("closed", nginx.tls, clients=2, pace=0.005)
    loads.start("bursts", nginx.tls, clients=10, pace=0.02)
    loads.start("bursts", nginx.plain, clients=100, pace=0.02)
    for workers in (1, 3, 2, 3, 1):
        before = nginx.serving().number
        nginx.nginx.workers = workers
        nginx.configure()
        eventually(lambda: nginx.serving().number > before, what="the next one")  # noqa: B023
        assert len(nginx.family()) == 1 + workers
        eventually(lambda: len(listening(nginx.tls.port)) == workers, what="no queue without a reader")  # noqa: B023
        loads.more(50)
    nothing_failed(loads.finish(at_least=50))


@pytest.mark.long
def test_reuseport_comes_and_goes(nginx: NginxFixture, loads: Loads) -> None:
    loads.retried(nginx.tls, nginx.plain)
    for options in ("reuseport", "", "reuseport"):
        before = nginx.serving().number
        nginx.nginx.listening = options
        nginx.configure()
        eventually(lambda: nginx.serving().number > before, what="the next one")  # noqa: B023
        loads.more(50)
    nothing_failed(loads.finish(at_least=50))


def test_a_unix_socket_stays_over_rotations_crashes_and_adoptions(unstarted: NginxFixture) -> None:
    nginx, path = unstarted, unstarted.directory / "web.sock"
    nginx.nginx.more = f'    server {{ listen unix:{path}; location / {{ return 200 "ok\\n"; }} }}'
    nginx.more_flags += ["--survive"]
    nginx.start()
    with visitors(path) as failures:
        for deed in (nginx.rotate, lambda: kill(nginx.serving_pid()), nginx.rotate, nginx.rotate):
            before = nginx.serving().number
            deed()
            eventually(lambda: nginx.serving().number > before, what="the next one")  # noqa: B023
            nginx.settled()
        for _ in range(2):
            nginx.kill_agent()
            nginx.launch()
            nginx.ready()
            nginx.rotate()
            nginx.served()
            nginx.settled()
    assert failures == []


@contextmanager
def visitors(path: Path) -> Iterator[list[str]]:
    """Make requests at a Unix socket during the block, one after the other; yield the failures."""
    failures: list[str] = []
    over = threading.Event()

    def visit() -> None:
        while not over.is_set():
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                    sock.settimeout(PATIENCE)
                    sock.connect(str(path))
                    exchange(sock, last=True)
            except (OSError, Failed) as error:
                failures.append(repr(error))

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        yield failures
    finally:
        over.set()
        thread.join()


def stream_module() -> str:
    """Return what loads the module; the test is skipped without it."""
    module = MODULES / "ngx_stream_module.so"
    if not module.exists():
        pytest.skip("no stream module")
    return f"load_module {module};"


@pytest.mark.long
def test_a_stream_terminates_tls_and_counts_as_any_listener(unstarted: NginxFixture, loads: Loads) -> None:
    nginx, port = unstarted, unstarted.room.port()
    nginx.nginx.top = f"""{stream_module()}
    stream {{
        server {{
            listen 127.0.0.1:{port} ssl;
            ssl_certificate {nginx.certs}/tls.crt;
            ssl_certificate_key {nginx.certs}/tls.key;
            proxy_pass 127.0.0.1:{nginx.plain.port};
        }}
    }}"""
    nginx.start()
    target = Target(HOST, port, tls=True)
    loads.start("closed", target)
    loads.start("closed", nginx.plain)
    for _ in range(3):
        nginx.rotate()
        eventually(lambda: serial_served(target) == serial(nginx.mint.newest), what="the new one at the stream")
    loads.more(20)
    nothing_failed(loads.finish(at_least=50))


@pytest.mark.long
def test_a_stream_of_datagrams_goes_on(unstarted: NginxFixture) -> None:
    nginx, port = unstarted, unstarted.room.port()
    nginx.nginx.top = f"{stream_module()}\nstream {{ server {{ listen 127.0.0.1:{port} udp; return ok; }} }}"
    nginx.start()
    for _ in range(3):
        assert datagram(port) == b"ok"
        before = nginx.serving().number
        nginx.rotate()
        eventually(lambda: nginx.serving().number > before, what="the next one")  # noqa: B023
        nginx.settled()
    assert datagram(port) == b"ok"


def datagram(port: int) -> bytes:
    """Send a datagram and return the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(b"?", (HOST, port))
        return sock.recv(100)


@pytest.mark.long
@pytest.mark.root
def test_what_the_agent_decides_may_stand_in_the_file(unstarted: NginxFixture, loads: Loads) -> None:
    """`daemon` and `pid` are the agent's; `user` is the operator's. Dual stack, IPv6 and a wildcard beside it."""
    nginx = unstarted
    nginx.run_dir = nginx.directory / "run [1]"
    nginx.nginx.top = "daemon on;\nuser www-data;\nlock_file x.lock;"
    dual, six = nginx.room.port(), nginx.room.port()
    nginx.nginx.more = "\n".join(
        f'    server {{ {listens} location / {{ return 200 "ok\\n"; }} }}'
        for listens in (f"listen [::]:{dual} ipv6only=off;", f"listen {six}; listen [::]:{six};")
    )
    nginx.start()
    targets = [Target(host, port) for host in ("127.0.0.1", "::1") for port in (dual, six)]
    for target in targets:
        loads.start("closed", target, clients=1)
    for _ in range(3):
        nginx.rotate()
        nginx.served()
    loads.more(20)
    nothing_failed(loads.finish(at_least=20))
    assert not (nginx.directory / "nginx.pid").exists()


@pytest.mark.long
def test_without_a_configuration_every_pair_is_served_by_its_names(unstarted: NginxFixture) -> None:
    nginx = unstarted
    nginx.is_small = True
    nginx.prepare()
    added = {name: write_named(nginx.certs, name) for name in ("x.test", "y.test")}
    nginx.launch()
    nginx.ready()
    targets = {name: Target(HOST, nginx.tls.port, True, name) for name in ("x.test", "y.test", "z.test")}
    assert {name: serial_served(targets[name]) for name in added} == added
    added["z.test"] = write_named(nginx.certs, "z.test")
    eventually(lambda: serial_served(targets["z.test"]) == added["z.test"], what="the added one")
