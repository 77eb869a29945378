"""Fixtures of the trials on a cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import images
from tests.cluster.binaries import Binaries, find
from tests.cluster.cluster import Cluster, open_cluster
from tests.cluster.programs import PAUSE

HERE = Path(__file__).parent
TIMEOUT = 1500


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every trial `cluster`; skip it, with the reason, where the programs of a cluster are not given."""
    mine = [item for item in items if item.path.is_relative_to(HERE) and "cluster" in getattr(item, "fixturenames", ())]
    reason = find() if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(TIMEOUT, method="signal"))
        if isinstance(reason, str):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes that have the image of this checkout."""
    binaries = find()
    assert isinstance(binaries, Binaries), binaries
    directory = tmp_path_factory.mktemp("images")
    pause, agent = images.pause_image(PAUSE, directory), images.agent_image(directory)
    with open_cluster(binaries, pause, agent) as running:
        yield running
