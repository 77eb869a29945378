"""Rules for the tests of a server's kind: coroutines run on a loop of their own, and no descriptor may leak."""

from tests.host.conftest import no_descriptor_leaks, pytest_pyfunc_call

__all__ = ["no_descriptor_leaks", "pytest_pyfunc_call"]
