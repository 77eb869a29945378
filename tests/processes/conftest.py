"""The rules of tests/host, and a run directory of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.host.run_directory import RunDirectory
from tests.handoff.conftest import base_id
from tests.host.conftest import no_descriptor_leaks, ordinary, pytest_pyfunc_call

__all__ = ["base_id", "no_descriptor_leaks", "ordinary", "pytest_pyfunc_call"]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    """A run directory of the test's own."""
    made = RunDirectory(tmp_path / "run")
    yield made
    made.close()
