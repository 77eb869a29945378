"""The rules of tests/host, and a place in /dev/shm that each test removes."""

import secrets
from collections.abc import Iterator

import pytest

from agent.handoff.segment import Segment
from agent.handoff.socket_paths import BASE_ID_LIMIT
from tests.host.conftest import no_descriptor_leaks, ordinary, pytest_pyfunc_call

__all__ = ["no_descriptor_leaks", "ordinary", "pytest_pyfunc_call"]


@pytest.fixture
def base_id() -> Iterator[int]:
    """A base id of the test's own in the machine's /dev/shm. The test fails if its shared memory is not removed."""
    number = secrets.randbelow(BASE_ID_LIMIT - 1) + 1
    yield number
    is_left = Segment(number).path.exists()
    Segment(number).release()
    assert not is_left, "shared memory is left behind"
