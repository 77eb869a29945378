"""The same rules as for the host, and a place in /dev/shm that each test gives back."""

import secrets
from collections.abc import Iterator

import pytest

from agent.handoff.segment import Segment
from agent.handoff.socket_paths import BASE_ID_LIMIT
from tests.host.conftest import no_descriptor_leaks, ordinary, pytest_pyfunc_call

__all__ = ["no_descriptor_leaks", "ordinary", "pytest_pyfunc_call"]


@pytest.fixture
def base_id() -> Iterator[int]:
    """A base id of the test's own: the machine has one /dev/shm. Its memory is gone afterwards, or the test failed."""
    number = secrets.randbelow(BASE_ID_LIMIT - 1) + 1
    yield number
    is_left = Segment(number).path.exists()
    Segment(number).release()
    assert not is_left, "shared memory is left behind"
