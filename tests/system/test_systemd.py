"""The agent as a unit of a real systemd: its proxies and its clients outlive it, and its exit codes are correct."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.concurrent_requests import land, launched
from tests.system.conftest import QUIETLY, WORKERS
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.proxies import Proxy
from tests.system.room import Room, kill, stopped
from tests.system.state import DRAINING
from tests.system.systemd_fixture import UNITS, SystemdBed, booted, installed, missing, program
from tests.system.wire import connect, exchange, tls_context

on_systemd = pytest.mark.skipif(bool(missing()), reason=f"wants {missing()}")


@pytest.fixture
def booted_bed(room: Room, proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[SystemdBed]:
    """A booted systemd with our unit, which is not started yet."""
    with booted(room, proxy.binary, [*QUIETLY, *WORKERS[proxy.name]]) as bed:
        yield bed
        request.node.add_report_section("call", "log of the unit", bed.log())


@pytest.fixture
def unit(booted_bed: SystemdBed) -> SystemdBed:
    """The same with the unit started."""
    booted_bed.start()
    return booted_bed


def a_new_agent(bed: SystemdBed, old: int) -> None:
    """Wait until systemd has started another agent and that one is ready."""
    eventually(lambda: bed.agent_pid not in {0, old}, every=0.1, what="there is another agent")
    eventually(lambda: bed.show("ActiveState") == "active", every=0.1, what="the unit is up")


@pytest.mark.root
@on_systemd
def test_the_results_of_a_reload_and_of_the_status_are_correct(unit: SystemdBed, loads: Loads) -> None:
    bed = unit
    loads.gentle(bed.tls, bed.plain)
    before = bed.serving()
    assert bed.systemctl("reload").returncode == 0
    assert bed.serving().number == before.number + 1
    assert f"epoch {bed.serving().number} serves, certificate until 20" in bed.sentence
    serving = bed.serving()
    (bed.certs / "tls.crt").write_bytes(b"garbage")
    assert bed.systemctl("reload").returncode != 0
    assert (bed.serving(), bed.show("ActiveState")) == (serving, "active")
    assert "cannot use /etc/proxy-agent/certs/tls.crt: there is no PEM in it" in bed.sentence
    loads.more(10)
    bed.rotate()
    bed.served()
    assert "cannot use" not in bed.sentence
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@on_systemd
def test_a_killed_agent_is_started_again_and_finds_its_proxy(unit: SystemdBed, loads: Loads) -> None:
    bed = unit
    loads.gentle(bed.tls, bed.plain)
    serving, agent = bed.serving(), bed.agent_pid
    kill(agent)
    a_new_agent(bed, agent)
    assert bed.serving() == serving, "the same process, the same number, the same revision"
    bed.rotate()
    bed.served()
    eventually(lambda: bed.serving().number == serving.number + 1, what="the next epoch has taken over")
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_an_agent_that_hangs_is_replaced_by_the_watchdog(unit: SystemdBed, loads: Loads) -> None:
    bed = unit
    loads.gentle(bed.tls, bed.plain)
    serving, agent = bed.serving(), bed.agent_pid
    with stopped(agent):
        a_new_agent(bed, agent)
    assert bed.serving() == serving
    bed.rotate()
    bed.served()
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_a_restart_leaves_the_proxy_to_the_next_agent(unit: SystemdBed, loads: Loads) -> None:
    bed = unit
    loads.gentle(bed.tls, bed.plain)
    serving, agent = bed.serving(), bed.agent_pid
    done = bed.systemctl("restart")
    assert done.returncode == 0, done.stderr
    assert bed.agent_pid not in {0, agent}
    assert bed.serving() == serving
    bed.rotate()
    bed.served()
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_an_upgrade_is_no_restart_for_systemd(unit: SystemdBed, loads: Loads) -> None:
    bed = unit
    loads.gentle(bed.tls, bed.plain)
    serving, agent = bed.serving(), bed.agent_pid
    done = bed.run(str(program()), "upgrade")
    assert done.returncode == 0, done.stderr
    assert (bed.agent_pid, bed.serving(), bed.show("NRestarts")) == (agent, serving, "0")
    assert bed.systemctl("reload").returncode == 0
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_clients_that_wait_are_served_though_agent_and_proxy_were_killed(unit: SystemdBed) -> None:
    bed = unit
    agent, proxy = bed.agent_pid, bed.outside(bed.serving().pid)
    with stopped(proxy):
        flights = launched(bed.plain, 50)
        kill(proxy)
        kill(agent)
    land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_a_stop_during_two_drains_leaves_nothing(unit: SystemdBed) -> None:
    bed = unit
    with closing(connect(bed.tls, tls_context())) as first:
        exchange(first, last=False)
        bed.rotate()
        bed.served()
        with closing(connect(bed.tls, tls_context())) as second:
            exchange(second, last=False)
            bed.rotate()
            bed.served()
            eventually(lambda: len(bed.state().among(DRAINING)) == 2, what="two epochs drain")
            assert bed.systemctl("stop").returncode == 0
    assert bed.left() == []
    assert (bed.show("Result"), bed.show("NFileDescriptorStore")) == ("success", "0")


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_an_agent_that_is_killed_while_it_stops_leaves_nothing_either(unit: SystemdBed) -> None:
    bed = unit
    with closing(connect(bed.tls, tls_context())) as held:
        exchange(held, last=False)
        bed.run("systemctl", "stop", "--no-block", "agent.service")
        eventually(lambda: bed.show("ActiveState") == "deactivating", what="the unit stops")
        os.kill(bed.agent_pid, signal.SIGKILL)
        eventually(lambda: bed.show("ActiveState") == "failed", what="the unit has stopped")
    assert bed.left() == []


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_systemd_waits_for_the_first_certificate(booted_bed: SystemdBed) -> None:
    bed = booted_bed
    shutil.rmtree(bed.certs)
    bed.run("systemctl", "start", "--no-block", "agent.service")
    eventually(lambda: "tls.crt" in bed.sentence, what="the status tells what is missing")
    assert bed.show("ActiveState") == "activating"
    bed.first()
    eventually(lambda: bed.show("ActiveState") == "active", what="the unit is up")


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_the_proxy_keeps_the_sockets_of_a_unit(booted_bed: SystemdBed, loads: Loads) -> None:
    bed = booted_bed
    bed.install("agent.socket", "0.0.0.0:15443", f"127.0.0.1:{bed.tls.port}")
    assert bed.run("systemctl", "start", "agent.socket").returncode == 0
    loads.start("closed", bed.tls, clients=2, pace=0.005)  # the first client starts the service
    sockets = eventually(lambda: bed.listening() == bed.held_by_systemd() and bed.listening())
    first, agent = bed.serving().number, bed.agent_pid
    kill(agent)
    a_new_agent(bed, agent)
    for verb in ("reload", "restart"):
        assert bed.systemctl(verb).returncode == 0
    assert bed.serving().number == first + 1
    assert bed.listening() == bed.held_by_systemd() == sockets, "none is new, and none is without its proxy"
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="wants systemd-analyze")
@pytest.mark.parametrize("name", ["agent.service", "agent@.service", "agent.socket"])
def test_the_units_are_valid(tmp_path: Path, name: str) -> None:
    for each in ("agent.service", "agent@.service", "agent.socket"):
        (tmp_path / each).write_text(installed(each), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if str(tmp_path) in line]) == (0, [])


def test_the_template_differs_in_what_is_each_agents_own() -> None:
    plain, template = ((UNITS / name).read_text(encoding="utf-8").splitlines() for name in _PAIR)
    own = {line.partition("=")[0] for line in set(plain) ^ set(template) if not line.startswith("#")}
    assert own == {"Description", "Environment", "EnvironmentFile", "RuntimeDirectory"}


_PAIR = ("agent.service", "agent@.service")
