"""The agent fixtures of the system tests, with a proxy of another user."""

from pathlib import Path

import pytest

from tests.security.possessed import Possessed
from tests.system.agent_fixture import AgentFixture
from tests.system.conftest import (
    binary,
    make_instance,
    proxy,
    pytest_generate_tests,
    pytest_runtest_makereport,
    room,
    unstarted,
)
from tests.system.namespaces import may_have_networks

HERE = Path(__file__).parent

__all__ = [
    "binary",
    "make_instance",
    "proxy",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "room",
    "unstarted",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what wants root where there is none."""
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        if item.get_closest_marker("root") and not may_have_networks():
            item.add_marker(pytest.mark.skip(reason="wants root with CAP_SYS_ADMIN"))


@pytest.fixture
def distrusting(unstarted: AgentFixture) -> AgentFixture:
    """An agent fixture whose agent is root and whose proxy is nobody, with an admin address in its bootstrap."""
    instance = unstarted
    instance.directory.chmod(0o755)
    instance.bootstrap.admin_port = instance.room.port()
    instance.more_flags += ["--proxy-user", "nobody"]
    instance.start()
    return instance


@pytest.fixture
def possessed(unstarted: AgentFixture) -> Possessed:
    """The same with a sidecar that executes code of the test."""
    made = Possessed(unstarted)
    made.start()
    return made
