"""A machine with a few files, for tests."""

from collections.abc import Mapping, Sequence

from agent.istio.given import Machine

HOSTS = {"statsd": "10.9.9.9"}


def machine(files: Mapping[str, str] | None = None, addresses: Sequence[str] = ()) -> Machine:
    """Return a machine with these files and addresses, and one known host."""
    there = files or {}
    return Machine(there.get, there.__contains__, lambda _: addresses, HOSTS.get)
