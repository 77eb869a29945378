"""NGINX under the agent: certificates and configurations change, and processes die, without an effect on clients."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.system.agent_fixture import HOST
from tests.system.bare import serial_served
from tests.system.bootstrap import Secured
from tests.system.candidates import next_candidate
from tests.system.certificates import Files, authority, serial
from tests.system.concurrent_requests import land, launched
from tests.system.conftest import INSTANCES
from tests.system.counts import count
from tests.system.eventually import eventually, throughout
from tests.system.layouts import CHAIN, IN_PLACE, KEY
from tests.system.loads import Loads, nothing_failed
from tests.system.nginxes import NginxFixture, all_stopped, children, nginx_binary
from tests.system.room import Room, alive, kill, stopped
from tests.system.test_crash import only_in_flight
from tests.system.test_upgrade import order
from tests.system.wire import Target, connect, exchange, tls_context

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

    request.node.stash[INSTANCES] = instances  # type: ignore[misc]
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
    for path, pair in zip(pairs, before, strict=True):
        IN_PLACE.first(path, pair)
    nginx.start()
    loads.retried(nginx.tls, nginx.plain)
    nginx.journal.mark()
    after = [nginx.mint.spare() for _ in pairs]
    after[7] = weak_leaf(names[7])
    with stopped(nginx.agent_pid):
        for path, pair in zip(pairs, after, strict=True):
            IN_PLACE.again(path, pair)
        nginx.rotate()
    nginx.served()
    nginx.committed()
    served = [serial_served(Target(HOST, nginx.tls.port, True, name)) for name in names]
    assert served[7] == serial(before[7])
    assert served == [serial(before[7] if number == 7 else pair) for number, pair in enumerate(after)]
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


@pytest.mark.parametrize("spoil", [unknown_directive, no_brace, no_include, no_master])
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
@pytest.mark.parametrize("disk", ["good", "garbage"])
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
    deaths = [kill(pid) for pid in (reversed(family) if whole else family[:1])]
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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda one: one.name)
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
