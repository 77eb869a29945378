import sys
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.epoch.arguments import hot_restart_version
from agent.epoch.shared_memory import SharedMemory
from agent.handoff.segment import HotRestartVersion, Segment

VERSION = HotRestartVersion.parse(hot_restart_version())


def flags(base_id: int) -> int:
    return int.from_bytes(Segment(base_id).path.read_bytes()[-8:], sys.byteorder)


def test_two_cannot_start_at_once_and_one_after_the_other_can(base_id: int) -> None:
    first = SharedMemory.attach(base_id, VERSION, first=True)
    with pytest.raises(MachineError, match="still starting"):
        SharedMemory.attach(base_id, VERSION, first=False)
    assert flags(base_id) == 1
    first.started()
    second = SharedMemory.attach(base_id, VERSION, first=False)
    assert flags(base_id) == 1
    first.started()
    assert flags(base_id) == 1, "the flag is the second's now"
    second.close()
    assert flags(base_id) == 0
    first.remove()
    first.close()
    first.close()


def test_another_flag_is_left_alone(base_id: int) -> None:
    Segment(base_id).claim(VERSION)
    Segment(base_id).path.write_bytes(VERSION.image()[:-8] + (6).to_bytes(8, sys.byteorder))
    memory = SharedMemory.attach(base_id, VERSION, first=False)
    assert flags(base_id) == 7
    memory.started()
    assert flags(base_id) == 6
    memory.remove()
    memory.close()


def test_the_file_of_a_later_chain_is_not_removed(base_id: int) -> None:
    memory = SharedMemory.attach(base_id, VERSION, first=True)
    later = SharedMemory.attach(base_id, VERSION, first=True)
    memory.remove()
    memory.close()
    assert flags(base_id) == 1
    later.remove()
    later.close()


@pytest.mark.parametrize("content", [b"", b"short", VERSION.image()[:-8]])
def test_a_file_that_is_none_is_refused_and_left(content: bytes, base_id: int) -> None:
    Segment(base_id).path.write_bytes(content)
    with pytest.raises(MachineError, match="cannot join the chain"):
        SharedMemory.attach(base_id, VERSION, first=False)
    assert Segment(base_id).path.read_bytes() == content
    Segment(base_id).release()


def test_a_link_is_not_followed(base_id: int, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(VERSION.image())
    Segment(base_id).path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="cannot join a chain"):
        SharedMemory.attach(base_id, VERSION, first=False)
    assert (tmp_path / "elsewhere").read_bytes() == VERSION.image()
    Segment(base_id).release()
