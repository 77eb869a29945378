"""A process that an earlier agent started is known by its pid and its start together."""

import subprocess
from collections.abc import Iterator

import pytest

from agent.core.errors import MachineError
from agent.host.processes import Process, created_at


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


async def test_another_process_of_that_number_is_not_adopted(child: int) -> None:
    created = created_at(child)
    assert created is not None
    with pytest.raises(
        MachineError, match=f"^cannot adopt the process {child}: the pid belongs to another process now"
    ):
        Process.adopt(child, created - 1, lambda _: None)
