"""The rules of tests/host: coroutines run on a loop of their own, and no descriptor may leak."""

from tests.host.conftest import no_descriptor_leaks, ordinary, pytest_pyfunc_call
from tests.system.conftest import room

__all__ = ["no_descriptor_leaks", "ordinary", "pytest_pyfunc_call", "room"]
