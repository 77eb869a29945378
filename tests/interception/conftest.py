"""A network namespace for each test that asks for one, with a loopback interface and nothing else."""

import shutil
from collections.abc import Iterator

import pytest

from tests.system.namespaces import may_have_networks, own_network


@pytest.fixture
def network() -> Iterator[None]:
    """Run in a network namespace of its own; skip where that is not allowed, or a program is missing."""
    missing = [name for name in ("iptables-save", "ip6tables-save", "ip", "nft") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"without {', '.join(missing)}")
    if not may_have_networks():
        pytest.skip("without CAP_SYS_ADMIN there is no network namespace")
    with own_network():
        yield
