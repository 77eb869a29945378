import pytest

from agent.epoch.arguments import Arguments
from agent.sidecar.model import Cluster, Configuration, Listener, SocketAddress
from agent.sidecar.self_counters import SelfCounters
from agent.stats.writer import Writer
from tests.sidecar.wires import counted, stat

LISTENERS = tuple(Listener(name, (SocketAddress("::1", 1),), ()) for name in "abc")
CONFIGURATION = Configuration(LISTENERS, (Cluster("c", "STATIC"), Cluster("d", "STATIC")))
AT_FIRST = {
    "server.concurrency": 1,
    "cluster_manager.active_clusters": 2,
    "cluster_manager.cluster_added": 2,
    "listener_manager.listener_added": 3,
    "listener_manager.listener_create_success": 3,
    "listener_manager.total_listeners_active": 3,
}


def made(**arguments: object) -> tuple[SelfCounters, Writer]:
    stats = Writer.private()
    return SelfCounters(stats, Arguments(**arguments), CONFIGURATION), stats  # type: ignore[arg-type]


def test_a_process_begins_with_its_configuration() -> None:
    _, stats = made(restart_epoch=4)
    assert counted(stats) == AT_FIRST | {"server.hot_restart_generation": 5, "server.hot_restart_epoch": 4}
    snapshot = stats.read()
    zeros = {"server.live", "server.state", "server.uptime", "server.total_connections"}
    assert (
        zeros | {"listener_manager.total_listeners_draining", "listener_manager.workers_started"}
        <= snapshot.gauges.keys()
    )
    assert "listener_manager.listener_stopped" in snapshot.counters


def test_without_hot_restart_there_is_no_generation() -> None:
    _, stats = made(disable_hot_restart=True)
    assert counted(stats) == AT_FIRST
    assert "server.hot_restart_generation" not in stats.read().gauges


def test_serving_is_being_live_with_workers() -> None:
    it, stats = made()
    it.serving()
    assert (stat(stats, "server.live"), stat(stats, "listener_manager.workers_started")) == (1, 1)
    it.live(alive=False)
    assert (stat(stats, "server.live"), stat(stats, "listener_manager.workers_started")) == (0, 1)
    it.live(alive=True)
    assert stat(stats, "server.live") == 1


def test_stopped_listeners_still_count_as_active() -> None:
    it, stats = made()
    it.stopped(2)
    it.stopped(1)
    assert stat(stats, "listener_manager.listener_stopped") == 3
    assert stat(stats, "listener_manager.total_listeners_active") == 3


@pytest.mark.parametrize(
    ("state", "number"), [("LIVE", 0), ("DRAINING", 1), ("PRE_INITIALIZING", 2), ("INITIALIZING", 3)]
)
def test_a_state_has_the_number_of_the_api(state: str, number: int) -> None:
    it, stats = made()
    it.update(state, 17, 90.99)
    assert stat(stats, "server.state") == number
    assert (stat(stats, "server.total_connections"), stat(stats, "server.uptime")) == (17, 90)
