"""The agent fixtures of the system tests, with a proxy of another user."""

from pathlib import Path

import pytest

from tests.security.possessed import Possessed
from tests.system.agent_fixture import AgentFixture
from tests.system.conftest import (
    bed_apart,
    binary,
    make_bed,
    proxy,
    pytest_generate_tests,
    pytest_runtest_makereport,
    room,
)
from tests.system.namespaces import may_have_networks

HERE = Path(__file__).parent

__all__ = [
    "bed_apart",
    "binary",
    "make_bed",
    "proxy",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "room",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what wants root where there is none."""
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        if item.get_closest_marker("root") and not may_have_networks():
            item.add_marker(pytest.mark.skip(reason="wants root with CAP_SYS_ADMIN"))


@pytest.fixture
def distrusting(bed_apart: AgentFixture) -> AgentFixture:
    """An agent fixture whose agent is root and whose proxy is nobody, with an admin address in its bootstrap."""
    bed = bed_apart
    bed.directory.chmod(0o755)
    bed.bootstrap.admin_port = bed.room.port()
    bed.more_flags += ["--proxy-user", "nobody"]
    bed.start()
    return bed


@pytest.fixture
def possessed(bed_apart: AgentFixture) -> Possessed:
    """The same with a sidecar that executes code of the test."""
    made = Possessed(bed_apart)
    made.start()
    return made
