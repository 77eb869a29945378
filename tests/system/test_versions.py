"""The proxy's binary is replaced, upward and downward, under load."""

from pathlib import Path

import pytest

from tests.system.bed import Bed
from tests.system.eventually import eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.room import runs
from tests.system.stand_ins import link

pytestmark = [pytest.mark.envoy, pytest.mark.long]


def test_old_and_new_versions_replace_each_other(bed_apart: Bed, loads: Loads, envoy: Path, old_envoy: Path) -> None:
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
    nothing_failed(loads.finish(), at_least=20)


def test_a_rotation_leaves_the_binary_alone(bed_apart: Bed, envoy: Path, old_envoy: Path) -> None:
    bed = bed_apart
    bed.binary = bed.directory / "proxy"
    link(bed.binary, old_envoy)
    bed.start()
    link(bed.binary, envoy)
    bed.rotate()
    bed.served()
    assert runs(bed.serving_pid(), old_envoy)


def replace_binary(bed: Bed, binary: Path) -> None:
    """Put another binary in place and wait until it serves."""
    link(bed.binary, binary)
    eventually(lambda: runs(bed.serving_pid(), binary), within=10, what=f"{binary} serves")
