"""The rules of tests/host, and a run directory."""

from tests.host.conftest import no_descriptor_leaks, ordinary, pytest_pyfunc_call
from tests.processes.conftest import directory

__all__ = ["directory", "no_descriptor_leaks", "ordinary", "pytest_pyfunc_call"]
