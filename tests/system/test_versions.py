"""The proxy's binary is upgraded and downgraded under load."""

import shutil
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.conftest import MakeBed
from tests.system.eventually import eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.room import runs
from tests.system.stand_ins import link

pytestmark = pytest.mark.envoy


@pytest.mark.long
def test_old_and_new_versions_replace_each_other(
    bed_apart: AgentFixture, loads: Loads, envoy: Path, old_envoy: Path
) -> None:
    bed = bed_apart
    bed.binary = bed.directory / "proxy"
    link(bed.binary, old_envoy)
    bed.more_flags += ["--on-binary", "restart"]
    bed.start()
    assert runs(bed.serving_pid(), old_envoy)
    loads.gentle(bed.tls, bed.plain)
    for binary in (envoy, old_envoy):
        replace_binary(bed, binary)
        bed.rotate()
        bed.served()
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_a_rotation_leaves_the_binary_alone(bed_apart: AgentFixture, envoy: Path, old_envoy: Path) -> None:
    bed = bed_apart
    bed.binary = bed.directory / "proxy"
    link(bed.binary, old_envoy)
    bed.start()
    link(bed.binary, envoy)
    bed.rotate()
    bed.served()
    assert runs(bed.serving_pid(), old_envoy)


def replace_binary(bed: AgentFixture, binary: Path) -> None:
    """Install another binary and wait until it serves."""
    link(bed.binary, binary)
    eventually(lambda: runs(bed.serving_pid(), binary), what=f"{binary} serves")


@pytest.mark.long
def test_an_older_version_runs_and_rotates_with_its_run_directory_in_shared_memory(
    old_envoy: Path, make_bed: MakeBed, loads: Loads
) -> None:
    """Envoy 1.36 opens no configuration below /dev, except /dev/fd."""
    bed = make_bed(binary=old_envoy)
    name = bed.room.directory.name
    bed.run_dir = bed.room.shm / name  # the agent sees that directory as /dev/shm, if the sandbox is private
    bed.more_flags += ["--run-dir", f"/dev/shm/{name}"]
    try:
        bed.start()
        loads.gentle(bed.tls, bed.plain)
        for _ in range(2):
            bed.rotate()
            bed.served()
        nothing_failed(loads.finish(at_least=20))
        bed.stop()
    finally:
        shutil.rmtree(bed.run_dir, ignore_errors=True)
