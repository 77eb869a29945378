"""The same rules as for the host, and a place in /dev/shm that each test gives back."""

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
    """What `--socket-path` says, of either kind."""
    return f"@epoch-{secrets.token_hex(4)}" if request.param == "abstract" else f"{os.fspath(tmp_path)}/hr"


@pytest.fixture(autouse=True)
def outlives_its_parent() -> Iterator[None]:
    """Let the test process itself live on when whoever started it ends."""
    yield
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
