"""Servers that take descriptors, unmodified, under the agent: replaced under load without a lost request."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.certificates import Files
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, Report, nothing_failed
from tests.system.room import alive, kill, stopped
from tests.system.servers import DEFAULT, FAULTY, SERVERS, MakeServer, ServerFixture
from tests.system.state import CANDIDATE
from tests.system.wire import Failed, connect, exchange, request_bytes, tls_context

SWAPS = count("AGENT_SWAPS", short=1, long=10)
OTHERS = [name for name in SERVERS if name != FAULTY]
NAMES = [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.long) for name in OTHERS]
ALL_LONG = [pytest.param(name, marks=pytest.mark.long) for name in OTHERS]
QUEUED = 100
MIGRATE = Path("/proc/sys/net/ipv4/tcp_migrate_req")


@pytest.fixture
def faulty(make_server: MakeServer) -> ServerFixture:
    """An agent with a server that fails as the test wants; it serves."""
    instance = make_server(FAULTY)
    instance.start()
    return instance


def order(instance: ServerFixture, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as an operator would."""
    command = [sys.executable, "-m", "agent", *words, "--run-dir", str(instance.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def begin(instance: ServerFixture, loads: Loads) -> None:
    """Start new connections one after the other, and many at once."""
    loads.start("closed", instance.tls, clients=3, pace=0.005)
    loads.start("bursts", instance.tls, clients=20, pace=0.05)


def swap(instance: ServerFixture) -> None:
    """Write a new certificate and wait until it is the only one that serves."""
    before = instance.serving().number
    instance.rotate()
    instance.served()
    eventually(lambda: instance.serving().number > before, what="the next one serves")
    instance.settled()


def only_cut(reports: Sequence[Report]) -> None:
    """Fail if a request failed otherwise than by the end of the process that had accepted it."""
    reasons = {reason for report in reports for reason in report.reasons()}
    assert reasons <= {"reset", "eof"}, reports
    assert sum(report.failed for report in reports) <= 2 * (3 + 20), "those in flight at one kill, and no more"
    assert all(report.ok for report in reports)


# Replaced


@pytest.mark.parametrize("name", NAMES)
def test_swaps_under_load_fail_nothing(make_server: MakeServer, loads: Loads, name: str) -> None:
    instance = make_server(name)
    instance.start()
    begin(instance, loads)
    keeping = loads.start("keepalive", instance.tls, clients=2, pace=0.002)
    for _ in range(SWAPS):
        loads.more(5)
        swap(instance)
    reports = loads.finish(at_least=30)
    nothing_failed([report for report in reports if report.name != keeping.name])
    (kept,) = (report for report in reports if report.name == keeping.name)
    # A server that closes an idle connection may do so just when the next request is on its way (RFC 9112 §9.5).
    assert {loss.reason for loss in kept.losses} <= {"eof", "reset"}, kept.losses
    assert not [loss for loss in kept.losses if re.search("after [1-9]", loss.detail)], "an answer was cut off"
    assert kept.failed <= kept.idle_closed + 2 * SWAPS


@pytest.mark.parametrize("name", ALL_LONG)
def test_everybody_sees_the_new_certificate_after_the_swap(make_server: MakeServer, loads: Loads, name: str) -> None:
    instance = make_server(name)
    instance.start()
    load = loads.start("closed", instance.tls, clients=3)
    swap(instance)
    load.more(5)
    report = load.finish(at_least=20)
    nothing_failed([report])
    spans = sorted(report.serials.values())
    assert len(spans) == 2
    assert report.longest_wait < PATIENCE


# Faults


def test_a_bad_pair_starts_no_candidate(faulty: ServerFixture, loads: Loads) -> None:
    before = faulty.serving()
    begin(faulty, loads)
    good, other = faulty.mint.newest, faulty.mint.spare()
    faulty.rotate(pair=Files(other.chain_pem, good.key_pem))
    eventually(lambda: "tls.key" in faulty.journal.path.read_text(encoding="utf-8"), what="the reason")
    loads.more(20)
    assert faulty.serving() == before
    nothing_failed(loads.finish(at_least=30))


@pytest.mark.parametrize("name", [FAULTY, *ALL_LONG])
def test_a_crash_with_garbage_on_disk_gets_the_same_socket_and_the_last_good_files(
    make_server: MakeServer, loads: Loads, name: str
) -> None:
    instance = make_server(name)
    instance.start()
    before, served = instance.serving(), instance.mint.newest
    begin(instance, loads)
    loads.more(5)
    instance.rotate(pair=Files(b"garbage", b"garbage"))
    kill(before.pid)
    eventually(lambda: instance.serving().number > before.number, what="it serves again")
    instance.served(served)
    loads.more(10)
    only_cut(loads.finish(at_least=30))


def behave(instance: ServerFixture, how: str) -> None:
    """Set how the next epoch behaves."""
    (instance.directory / "behaviour").write_text(how, encoding="ascii")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        pytest.param("silent", "does not answer within 5 s", marks=pytest.mark.long),
        ("500", "answers GET / with 500"),
    ],
)
def test_a_candidate_without_the_right_answer_gets_no_client(
    faulty: ServerFixture, loads: Loads, how: str, told: str
) -> None:
    before = faulty.serving()
    begin(faulty, loads)
    behave(faulty, how)
    faulty.rotate()
    eventually(lambda: told in faulty.journal.path.read_text(encoding="utf-8"), what="the reason")
    loads.more(20)
    assert faulty.serving() == before
    (candidate,) = faulty.state().among(CANDIDATE)
    behave(faulty, "well")
    kill(candidate.pid)
    faulty.served()
    nothing_failed(loads.finish(at_least=30))


def test_a_candidate_with_another_certificate_gets_no_client(faulty: ServerFixture, loads: Loads) -> None:
    before, other = faulty.serving(), faulty.mint.spare()
    begin(faulty, loads)
    (faulty.directory / "other.pem").write_bytes(other.chain_pem + other.key_pem)
    behave(faulty, "wrong")
    faulty.rotate()
    told = "it serves another certificate"
    eventually(lambda: told in faulty.journal.path.read_text(encoding="utf-8"), what="the reason")
    loads.more(20)
    assert faulty.serving() == before
    reports = loads.finish(at_least=30)
    nothing_failed(reports)
    assert all(len(report.serials) == 1 for report in reports)


def test_a_candidate_that_exits_or_is_killed_costs_nothing(faulty: ServerFixture, loads: Loads) -> None:
    before = faulty.serving()
    begin(faulty, loads)
    behave(faulty, "dies")
    faulty.rotate()
    eventually(lambda: "exited with 3" in faulty.journal.path.read_text(encoding="utf-8"), what="the reason")
    behave(faulty, "silent")
    (candidate,) = eventually(lambda: faulty.state().among(CANDIDATE), what="a candidate")
    behave(faulty, "well")
    with contextlib.suppress(ProcessLookupError):  # one that still exits as it was told before
        kill(candidate.pid)
    faulty.served()
    eventually(lambda: faulty.serving().number > before.number, what="the next one serves")
    nothing_failed(loads.finish(at_least=30))


def test_children_of_a_killed_server_do_not_stay(faulty: ServerFixture) -> None:
    behave(faulty, "forks")
    swap(faulty)
    children = Path(f"/proc/{faulty.serving_pid()}/task/{faulty.serving_pid()}/children")
    (child,) = map(int, children.read_text(encoding="ascii").split())
    kill(faulty.serving_pid())
    eventually(lambda: not alive(child), what="the child has exited")
    faulty.served()


@pytest.mark.long
def test_workers_of_a_killed_master_do_not_stay(make_server: MakeServer, loads: Loads) -> None:
    instance = make_server("gunicorn")
    instance.start()
    begin(instance, loads)
    pid = instance.serving_pid()
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    assert len(workers) == 2
    kill(pid)
    eventually(lambda: not any(alive(int(each)) for each in workers), what="the workers have exited")
    instance.served()
    only_cut(loads.finish(at_least=30))


@pytest.mark.root
@pytest.mark.parametrize("migrates", [True, pytest.param(False, marks=pytest.mark.long)])
def test_clients_queued_at_a_hung_server(make_server: MakeServer, *, migrates: bool) -> None:
    """The kernel moves a closed queue to another member of the group only with net.ipv4.tcp_migrate_req."""
    MIGRATE.write_text(str(int(migrates)), encoding="ascii")
    instance = make_server(FAULTY)
    instance.listeners.append(f"plain=plain:127.0.0.1:{instance.plain.port}")
    instance.plain_names = ("plain",)
    instance.start()
    with ExitStack() as stack, stopped(instance.serving_pid()):
        clients = [stack.enter_context(connect(instance.plain, tls_context())) for _ in range(QUEUED)]
        for each in clients:
            each.sendall(request_bytes(last=True))
        instance.rotate()
        instance.served()
        answered = [outcome(each) for each in clients]
    assert answered == [""] * QUEUED if migrates else ["reset"] * QUEUED


def outcome(client: socket.socket) -> str:
    """Return why a client that has sent its request gets no answer; empty if it does."""
    try:
        exchange(client, last=True)
    except Failed as error:
        return error.reason
    return ""


# The agent itself


@pytest.mark.parametrize("name", [FAULTY, *ALL_LONG])
def test_a_killed_agent_finds_its_server_and_swaps_on(make_server: MakeServer, loads: Loads, name: str) -> None:
    instance = make_server(name, more_flags=["--survive"])
    instance.start()
    swap(instance)
    before = instance.serving()
    begin(instance, loads)
    instance.kill_agent()
    loads.more(5)
    instance.launch()
    instance.ready()
    assert instance.serving() == before
    swap(instance)
    swap(instance)
    nothing_failed(loads.finish(at_least=50))


@pytest.mark.parametrize("name", [FAULTY, *ALL_LONG])
def test_upgrade_and_restart_fail_nothing(make_server: MakeServer, loads: Loads, name: str) -> None:
    instance = make_server(name)
    instance.start()
    begin(instance, loads)
    before = instance.serving()
    done = order(instance, "upgrade")
    assert done.returncode == 0, done.stderr
    assert instance.serving() == before
    swap(instance)
    done = order(instance, "restart")
    assert done.returncode == 0, done.stderr
    assert instance.serving().number == before.number + 2
    nothing_failed(loads.finish(at_least=50))


def test_a_stop_answers_whoever_is_connected(faulty: ServerFixture) -> None:
    with connect(faulty.tls, tls_context()) as slow:
        slow.sendall(b"GET /slow HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert faulty.agent is not None
        faulty.agent.send_signal(signal.SIGTERM)
        assert b"200 OK" in slow.recv(1 << 12)
    faulty.stop()
