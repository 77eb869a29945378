"""The same rules as for the host: coroutines on a loop of their own, and no descriptor left behind."""

from tests.host.conftest import no_descriptor_leaks, ordinary, pytest_pyfunc_call

__all__ = ["no_descriptor_leaks", "ordinary", "pytest_pyfunc_call"]
