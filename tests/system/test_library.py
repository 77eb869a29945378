"""A server that is not a proxy, made an epoch by the library: rotated and killed under load."""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest
import yaml

from tests.system.agent_fixture import AgentFixture
from tests.system.certificates import serial
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.layouts import IN_PLACE, RENAMED
from tests.system.loads import Loads
from tests.system.room import Room, kill
from tests.system.test_crash import only_in_flight

HERE = Path(__file__).parent
TINY = HERE.parent / "epoch" / "minimal_epoch.py"
EXAMPLE = HERE.parents[1] / "examples" / "library"
ROTATIONS = count("AGENT_ROTATIONS", short=3, long=50)


class Tiny:
    """The configuration of `tests/epoch/minimal_epoch.py`, written like a fixture's bootstrap."""

    def __init__(self, instance: AgentFixture) -> None:
        chain, key = instance.bootstrap.secured[0].chain, instance.bootstrap.secured[0].key
        tls = {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}}
        self.tree = {"listen": [{"port": instance.tls.port, "tls": tls}, {"port": instance.plain.port}]}

    def write(self, path: Path) -> None:
        """Put the configuration at `path`."""
        path.write_text(yaml.safe_dump(self.tree))


@pytest.fixture
def tiny(room: Room) -> Iterator[AgentFixture]:
    """An agent fixture whose agent runs the tiny server, ready."""
    program = room.directory / "tiny"
    program.write_text(f"#!{sys.executable}\n{TINY.read_text().partition(chr(10))[2]}")
    program.chmod(0o755)
    instance = AgentFixture(room=room, name="b", binary=program, proxy_args=[])
    instance.bootstrap.write = Tiny(instance).write  # type: ignore[method-assign]
    try:
        instance.start()
        yield instance
    finally:
        instance.stop()


@pytest.mark.long
@pytest.mark.timeout(600 + 5 * ROTATIONS)
def test_rotations_and_a_crash_of_a_server_of_ones_own_fail_nothing(tiny: AgentFixture, loads: Loads) -> None:
    loads.gentle(tiny.tls, tiny.plain)
    for layout in islice(cycle([IN_PLACE, RENAMED]), ROTATIONS):
        tiny.rotate(layout)
        tiny.served()
        tiny.committed()
    loads.more(20)
    before = tiny.serving().number
    killed = kill(tiny.serving_pid())
    eventually(lambda: tiny.serving().number > before, what="the next one serves")
    loads.more(20)
    only_in_flight(loads.finish(), [killed])
    assert tiny.serial_served() == serial(tiny.mint.newest)


def test_a_draining_server_that_has_clients_is_waited_for(tiny: AgentFixture) -> None:
    with socket.create_connection((tiny.plain.host, tiny.plain.port)) as quiet:
        before = tiny.serving().number
        tiny.rotate()
        tiny.served()
        tiny.committed()
        states = {one.number: one.state for one in tiny.epochs()}
        assert states[before] == "draining", states
        quiet.close()
        tiny.settled()


def test_a_server_that_cannot_use_its_configuration_is_refused_and_the_old_one_serves_on(tiny: AgentFixture) -> None:
    before = tiny.serving()
    tiny.journal.mark()
    tiny.config.write_text("listen: [{port: 1, tls: {certificate_chain: {filename: /nowhere}}}]\n")
    eventually(lambda: tiny.journal.complaints(""), what="a complaint")
    assert tiny.serving().number == before.number


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="the example wants aiohttp")
def test_the_example_fails_nothing(room: Room) -> None:
    environment = {**os.environ, "AGENT_VENV": sys.prefix}
    command = [str(EXAMPLE / "run"), "--for", "5"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "failed: 0" in ran.stdout
