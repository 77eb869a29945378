"""Fixtures of the trials on a cluster."""

from collections.abc import Generator, Iterator
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
    trials = [
        item for item in items if item.path.is_relative_to(HERE) and "cluster" in getattr(item, "fixturenames", ())
    ]
    found = find() if trials else ""
    for item in trials:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(TIMEOUT, method="signal"))
        if isinstance(found, str):
            item.add_marker(pytest.mark.skip(reason=found))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the pods, the events and the nodes' logs beside a failure."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and report.when == "call" and isinstance(cluster, Cluster):
        report.sections += cluster.diagnosis()
    return report


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes that have the images of this checkout."""
    binaries = find()
    assert isinstance(binaries, Binaries), binaries
    directory = tmp_path_factory.mktemp("images")
    with open_cluster(binaries, images.pause_image(PAUSE, directory), *images.agent_images(directory)) as started:
        yield started


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """The cluster; the namespaces that a trial made are deleted after it."""
    yield running
    running.delete_namespaces()
