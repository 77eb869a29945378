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
from tests.system.systemd_fixture import UNITS, SystemdInstance, booted, installed, missing, program
from tests.system.wire import connect, exchange, tls_context

on_systemd = pytest.mark.skipif(bool(missing()), reason=f"wants {missing()}")


@pytest.fixture
def booted_instance(room: Room, proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[SystemdInstance]:
    """A booted systemd with our unit, which is not started yet."""
    with booted(room, proxy.binary, [*QUIETLY, *WORKERS[proxy.name]]) as instance:
        yield instance
        request.node.add_report_section("call", "log of the unit", instance.log())


@pytest.fixture
def unit(booted_instance: SystemdInstance) -> SystemdInstance:
    """The same with the unit started."""
    booted_instance.start()
    return booted_instance


def a_new_agent(instance: SystemdInstance, old: int) -> None:
    """Wait until systemd has started another agent and that one is ready."""
    eventually(lambda: instance.agent_pid not in {0, old}, every=0.1, what="there is another agent")
    eventually(lambda: instance.show("ActiveState") == "active", every=0.1, what="the unit is up")


@pytest.mark.root
@on_systemd
def test_the_results_of_a_reload_and_of_the_status_are_correct(unit: SystemdInstance, loads: Loads) -> None:
    instance = unit
    loads.gentle(instance.tls, instance.plain)
    before = instance.serving()
    assert instance.systemctl("reload").returncode == 0
    assert instance.serving().number == before.number + 1
    assert f"epoch {instance.serving().number} serves, certificate until 20" in instance.sentence
    serving = instance.serving()
    (instance.certs / "tls.crt").write_bytes(b"garbage")
    assert instance.systemctl("reload").returncode != 0
    assert (instance.serving(), instance.show("ActiveState")) == (serving, "active")
    assert "cannot use /etc/proxy-agent/certs/tls.crt: there is no PEM in it" in instance.sentence
    loads.more(10)
    instance.rotate()
    instance.served()
    assert "cannot use" not in instance.sentence
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@on_systemd
def test_a_killed_agent_is_started_again_and_finds_its_proxy(unit: SystemdInstance, loads: Loads) -> None:
    instance = unit
    loads.gentle(instance.tls, instance.plain)
    serving, agent = instance.serving(), instance.agent_pid
    kill(agent)
    a_new_agent(instance, agent)
    assert instance.serving() == serving, "the same process, the same number, the same revision"
    instance.rotate()
    instance.served()
    eventually(lambda: instance.serving().number == serving.number + 1, what="the next epoch has taken over")
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_an_agent_that_hangs_is_replaced_by_the_watchdog(unit: SystemdInstance, loads: Loads) -> None:
    instance = unit
    loads.gentle(instance.tls, instance.plain)
    serving, agent = instance.serving(), instance.agent_pid
    with stopped(agent):
        a_new_agent(instance, agent)
    assert instance.serving() == serving
    instance.rotate()
    instance.served()
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_a_restart_leaves_the_proxy_to_the_next_agent(unit: SystemdInstance, loads: Loads) -> None:
    instance = unit
    loads.gentle(instance.tls, instance.plain)
    serving, agent = instance.serving(), instance.agent_pid
    done = instance.systemctl("restart")
    assert done.returncode == 0, done.stderr
    assert instance.agent_pid not in {0, agent}
    assert instance.serving() == serving
    instance.rotate()
    instance.served()
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_an_upgrade_is_no_restart_for_systemd(unit: SystemdInstance, loads: Loads) -> None:
    instance = unit
    loads.gentle(instance.tls, instance.plain)
    serving, agent = instance.serving(), instance.agent_pid
    done = instance.run(str(program()), "upgrade")
    assert done.returncode == 0, done.stderr
    assert (instance.agent_pid, instance.serving(), instance.show("NRestarts")) == (agent, serving, "0")
    assert instance.systemctl("reload").returncode == 0
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_clients_that_wait_are_served_though_agent_and_proxy_were_killed(unit: SystemdInstance) -> None:
    instance = unit
    agent, proxy = instance.agent_pid, instance.outside(instance.serving().pid)
    with stopped(proxy):
        flights = launched(instance.plain, 50)
        kill(proxy)
        kill(agent)
    land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_a_stop_during_two_drains_leaves_nothing(unit: SystemdInstance) -> None:
    instance = unit
    with closing(connect(instance.tls, tls_context())) as first:
        exchange(first, last=False)
        instance.rotate()
        instance.served()
        with closing(connect(instance.tls, tls_context())) as second:
            exchange(second, last=False)
            instance.rotate()
            instance.served()
            eventually(lambda: len(instance.state().among(DRAINING)) == 2, what="two epochs drain")
            assert instance.systemctl("stop").returncode == 0
    assert instance.left() == []
    assert (instance.show("Result"), instance.show("NFileDescriptorStore")) == ("success", "0")


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_an_agent_that_is_killed_while_it_stops_leaves_nothing_either(unit: SystemdInstance) -> None:
    instance = unit
    with closing(connect(instance.tls, tls_context())) as held:
        exchange(held, last=False)
        instance.run("systemctl", "stop", "--no-block", "agent.service")
        eventually(lambda: instance.show("ActiveState") == "deactivating", what="the unit stops")
        os.kill(instance.agent_pid, signal.SIGKILL)
        eventually(lambda: instance.show("ActiveState") == "failed", what="the unit has stopped")
    assert instance.left() == []


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_systemd_waits_for_the_first_certificate(booted_instance: SystemdInstance) -> None:
    instance = booted_instance
    shutil.rmtree(instance.certs)
    instance.run("systemctl", "start", "--no-block", "agent.service")
    eventually(lambda: "tls.crt" in instance.sentence, what="the status tells what is missing")
    assert instance.show("ActiveState") == "activating"
    instance.first()
    eventually(lambda: instance.show("ActiveState") == "active", what="the unit is up")


@pytest.mark.root
@pytest.mark.long
@on_systemd
def test_the_proxy_keeps_the_sockets_of_a_unit(booted_instance: SystemdInstance, loads: Loads) -> None:
    instance = booted_instance
    instance.install("agent.socket", "0.0.0.0:15443", f"127.0.0.1:{instance.tls.port}")
    assert instance.run("systemctl", "start", "agent.socket").returncode == 0
    loads.start("closed", instance.tls, clients=2, pace=0.005)  # the first client starts the service
    sockets = eventually(lambda: instance.listening() == instance.held_by_systemd() and instance.listening())
    first, agent = instance.serving().number, instance.agent_pid
    kill(agent)
    a_new_agent(instance, agent)
    for verb in ("reload", "restart"):
        assert instance.systemctl(verb).returncode == 0
    assert instance.serving().number == first + 1
    assert instance.listening() == instance.held_by_systemd() == sockets, "none is new, and none is without its proxy"
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
