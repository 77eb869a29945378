"""Environments of the agent: without privileges, beside another agent, on a read-only root."""

import os
import sys
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.conftest import MakeInstance
from tests.system.eventually import eventually, throughout
from tests.system.listening import listening
from tests.system.loads import Loads, nothing_failed
from tests.system.room import Room
from tests.system.wire import Target

pytestmark = pytest.mark.pushed

HOLDER = """
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=True):
    time.sleep(1000)
"""


def is_within_reach(program: Path) -> bool:
    """Return whether every user can reach this program."""
    return all(each.stat().st_mode & 0o001 for each in program.resolve().parents)


@pytest.mark.root
def test_an_unprivileged_proxy_serves_on_a_low_port(unstarted: AgentFixture, loads: Loads) -> None:
    instance = unstarted
    if instance.binary.name == "sidecar" and not is_within_reach(Path(sys.executable)):
        pytest.skip("the interpreter of the sidecar is out of the reach of nobody")
    instance.tls, instance.plain = Target("127.0.0.1", 443, tls=True), Target("127.0.0.1", 80)
    instance.bootstrap.tls_port, instance.bootstrap.plain_port = 443, 80
    instance.more_flags += ["--proxy-user", "nobody"]
    instance.start()
    assert Path(f"/proc/{instance.serving_pid()}").stat().st_uid == 65534
    loads.gentle(instance.tls, instance.plain)
    for _ in range(3):
        instance.rotate()
        instance.served()
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_two_agents_side_by_side_do_not_notice_each_other(make_instance: MakeInstance, loads: Loads) -> None:
    one, other = make_instance("one"), make_instance("other")
    for instance in (one, other):
        instance.start()
        loads.gentle(instance.tls, instance.plain)
    untouched = other.serving()
    one.rotate()
    one.served()
    assert other.serving() == untouched
    one.stop()
    assert other.serving() == untouched
    other.rotate()
    other.served()
    reports = loads.finish(at_least=20)
    nothing_failed([report for report in reports if str(other.tls.port) in report.name])


def test_a_second_agent_on_the_same_run_directory_names_the_first(make_instance: MakeInstance, loads: Loads) -> None:
    one, other = make_instance("one"), make_instance("other")
    one.start()
    before = one.serving()
    loads.gentle(one.tls, one.plain)
    other.run_dir = one.run_dir
    other.prepare()
    other.launch()
    assert other.exited() != 0
    assert str(one.agent_pid) in other.journal.tail()
    loads.more(20)
    nothing_failed(loads.finish(at_least=20))
    assert one.serving() == before


def test_a_foreign_holder_of_a_port_is_named(unstarted: AgentFixture, room: Room) -> None:
    instance = unstarted
    holder = room.spawn_bare([sys.executable, "-c", HOLDER, str(instance.tls.port)], log=room.directory / "holder.log")
    eventually(lambda: listening(instance.tls.port), what="the holder listens")
    instance.prepare()
    instance.launch()
    eventually(lambda: instance.journal.complaints(str(holder.pid)), what="the holder is named by its pid")
    holder.kill()
    holder.wait()
    instance.ready()


def test_a_run_directory_too_long_for_sockets_is_refused_at_once(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.run_dir = instance.directory / ("x" * 90) / "run"
    instance.prepare()
    instance.launch()
    assert instance.exited() in {2, 78}
    assert "x" * 90 in instance.journal.tail()


@pytest.mark.root
def test_a_read_only_root_is_enough(unstarted: AgentFixture, loads: Loads) -> None:
    instance = unstarted
    instance.run_dir.mkdir(mode=0o700)
    instance.cell = ["--read-only-except", str(instance.run_dir)]
    instance.start()
    loads.gentle(instance.tls, instance.plain)
    instance.rotate()
    instance.served()
    eventually(lambda: instance.serving().number == 2, what="the second epoch is known to serve")
    os.kill(instance.serving_pid(), 9)
    instance.ready()
    loads.more(20)
    assert all(report.reasons()["refused"] == 0 for report in loads.finish())
    throughout(lambda: instance.serving().number == 3, span=0.3, what="the third epoch serves")
