"""The rules of tests/host, and a place in /dev/shm that each test removes."""

import ctypes
import os
import secrets
from collections.abc import Iterator

import pytest

from tests.handoff.conftest import base_id
from tests.host.conftest import no_descriptor_leaks, ordinary, pytest_pyfunc_call

__all__ = ["base_id", "no_descriptor_leaks", "ordinary", "pytest_pyfunc_call"]

_PR_SET_PDEATHSIG = 1


@pytest.fixture(params=["abstract", "path"])
def prefix(request: pytest.FixtureRequest, tmp_path: os.PathLike[str]) -> str:
    """The value of `--socket-path`, of either kind."""
    return f"@epoch-{secrets.token_hex(4)}" if request.param == "abstract" else f"{os.fspath(tmp_path)}/hr"


@pytest.fixture(autouse=True)
def outlives_its_parent() -> Iterator[None]:
    """Let the test process continue when its parent exits."""
    yield
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
