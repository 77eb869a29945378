"""Network namespaces by path."""

import os
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.interception import namespace
from tests.system.namespaces import own_network


def test_the_namespace_at_a_path_is_entered(network: None) -> None:
    inner = Path("/proc/thread-self/ns/net").stat().st_ino
    path = f"/proc/{os.getpid()}/fd/{os.open('/proc/thread-self/ns/net', os.O_RDONLY)}"
    with own_network():
        assert Path("/proc/thread-self/ns/net").stat().st_ino != inner
        namespace.enter(path)
        assert Path("/proc/thread-self/ns/net").stat().st_ino == inner
    os.close(int(path.rpartition("/")[2]))


def test_another_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"cannot enter the network namespace /nowhere: No such file"):
        namespace.enter("/nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"cannot enter the network namespace .*: Invalid argument"):
        namespace.enter(str(tmp_path / "file"))
