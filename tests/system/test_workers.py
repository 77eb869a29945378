"""The number of workers changes from one epoch to the next, and no client stays in a queue without a reader."""

from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture, workers
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.stand_ins import with_workers

pytestmark = [pytest.mark.envoy, pytest.mark.long]

CHANGES = count("AGENT_WORKERS", short=2, long=20)


def test_four_two_four_workers_under_load(unstarted: AgentFixture, loads: Loads, envoy: Path) -> None:
    instance, number = unstarted, unstarted.directory / "workers"
    start_with(instance, number, envoy, 4)
    loads.gentle(instance.tls, instance.plain)
    loads.start("bursts", instance.tls, clients=20)
    loads.start("bursts", instance.plain, clients=200)
    for wanted in [2, 4] * (CHANGES // 2):
        number.write_text(str(wanted), encoding="ascii")
        instance.rotate()
        serve_with(instance, wanted)
        loads.more(50)
    nothing_failed(loads.finish(at_least=50))


def start_with(instance: AgentFixture, number: Path, envoy: Path, wanted: int) -> None:
    """Start the fixture with a proxy whose number of workers is in a file."""
    number.write_text(str(wanted), encoding="ascii")
    instance.binary, instance.proxy_args = instance.directory / "proxy", ["-l", "warning"]
    with_workers(instance.binary, envoy, number)
    instance.start()
    serve_with(instance, wanted)


def serve_with(instance: AgentFixture, wanted: int) -> None:
    """Wait until the newest certificate is served with this many workers."""
    instance.served()
    eventually(lambda: workers(instance.serving_pid()) == wanted, what=f"{wanted} workers")
