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


def test_four_two_four_workers_under_load(bed_apart: AgentFixture, loads: Loads, envoy: Path) -> None:
    bed, number = bed_apart, bed_apart.directory / "workers"
    start_with(bed, number, envoy, 4)
    loads.gentle(bed.tls, bed.plain)
    loads.start("bursts", bed.tls, clients=20)
    loads.start("bursts", bed.plain, clients=200)
    for wanted in [2, 4] * (CHANGES // 2):
        number.write_text(str(wanted), encoding="ascii")
        bed.rotate()
        serve_with(bed, wanted)
        loads.more(50)
    nothing_failed(loads.finish(at_least=50))


def start_with(bed: AgentFixture, number: Path, envoy: Path, wanted: int) -> None:
    """Start the fixture with a proxy whose number of workers is in a file."""
    number.write_text(str(wanted), encoding="ascii")
    bed.binary, bed.proxy_args = bed.directory / "proxy", ["-l", "warning"]
    with_workers(bed.binary, envoy, number)
    bed.start()
    serve_with(bed, wanted)


def serve_with(bed: AgentFixture, wanted: int) -> None:
    """Wait until the newest certificate is served with this many workers."""
    bed.served()
    eventually(lambda: workers(bed.serving_pid()) == wanted, what=f"{wanted} workers")
