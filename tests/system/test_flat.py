"""After many rotations the agent uses as much as after the first few: memory, descriptors, files, processes."""

from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.layouts import ALTERNATING, KEY_LATE

ROTATIONS = count("AGENT_ROTATIONS", short=15, long=200)
MEMORY_SLACK = 2_000_000
LAYOUTS = [layout for layout in ALTERNATING if layout is not KEY_LATE]


@dataclass(frozen=True)
class Footprint:
    """The resources of one agent and its serving epoch; `anonymous` is memory in bytes."""

    anonymous: int
    descriptors: int
    files: int
    shared_memory: int
    processes: int
    threads: int


def footprint(instance: AgentFixture) -> Footprint:
    """Measure a settled fixture."""
    proc = Path(f"/proc/{instance.agent_pid}")
    rollup = (proc / "smaps_rollup").read_text(encoding="ascii").splitlines()
    return Footprint(
        anonymous=next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:")) * 1024,
        descriptors=sum(1 for _ in (proc / "fd").iterdir()),
        files=sum(1 for _ in instance.run_dir.rglob("*")),
        shared_memory=len(instance.room.shared_memory()),
        processes=len(instance.room.processes()),
        threads=sum(1 for _ in (proc / "task").iterdir()),
    )


def rotate(instance: AgentFixture, times: int) -> Footprint:
    """Rotate this many times, each time until no epoch drains, and measure."""
    for layout in islice(cycle(LAYOUTS), times):
        instance.rotate(layout)
        instance.served()
        instance.settled()
    return footprint(instance)


@pytest.mark.long
@pytest.mark.timeout(600 + 3 * ROTATIONS)
def test_nothing_grows_with_rotations(instance: AgentFixture) -> None:
    before = rotate(instance, 5)
    after = rotate(instance, ROTATIONS)
    assert after.anonymous - before.anonymous <= MEMORY_SLACK, f"{before} → {after}"
    eventually(lambda: counted(footprint(instance)) == counted(before), what=f"as it was: {before}")


def counted(one: Footprint) -> Footprint:
    """Return all figures except the memory, which varies a little."""
    return replace(one, anonymous=0)
