"""The proxy's binary is upgraded and downgraded under load."""

import shutil
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.conftest import MakeInstance
from tests.system.eventually import eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.room import runs
from tests.system.stand_ins import link

pytestmark = pytest.mark.envoy


@pytest.mark.long
def test_old_and_new_versions_replace_each_other(
    unstarted: AgentFixture, loads: Loads, envoy: Path, old_envoy: Path
) -> None:
    instance = unstarted
    instance.binary = instance.directory / "proxy"
    link(instance.binary, old_envoy)
    instance.more_flags += ["--on-binary", "restart"]
    instance.start()
    assert runs(instance.serving_pid(), old_envoy)
    loads.gentle(instance.tls, instance.plain)
    for binary in (envoy, old_envoy):
        replace_binary(instance, binary)
        instance.rotate()
        instance.served()
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_a_rotation_leaves_the_binary_alone(unstarted: AgentFixture, envoy: Path, old_envoy: Path) -> None:
    instance = unstarted
    instance.binary = instance.directory / "proxy"
    link(instance.binary, old_envoy)
    instance.start()
    link(instance.binary, envoy)
    instance.rotate()
    instance.served()
    assert runs(instance.serving_pid(), old_envoy)


def replace_binary(instance: AgentFixture, binary: Path) -> None:
    """Install another binary and wait until it serves."""
    link(instance.binary, binary)
    eventually(lambda: runs(instance.serving_pid(), binary), what=f"{binary} serves")


@pytest.mark.long
def test_an_older_version_runs_and_rotates_with_its_run_directory_in_shared_memory(
    old_envoy: Path, make_instance: MakeInstance, loads: Loads
) -> None:
    """Envoy 1.36 opens no configuration below /dev, except /dev/fd."""
    instance = make_instance(binary=old_envoy)
    name = instance.room.directory.name
    instance.run_dir = instance.room.shm / name  # the agent sees that directory as /dev/shm, if the sandbox is private
    instance.more_flags += ["--run-dir", f"/dev/shm/{name}"]
    try:
        instance.start()
        loads.gentle(instance.tls, instance.plain)
        for _ in range(2):
            instance.rotate()
            instance.served()
        nothing_failed(loads.finish(at_least=20))
        instance.stop()
    finally:
        shutil.rmtree(instance.run_dir, ignore_errors=True)
