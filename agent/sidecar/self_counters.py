"""The process's own statistics, as in Envoy: server., listener_manager., cluster_manager."""

from agent.epoch import admin_documents
from agent.epoch.arguments import Arguments
from agent.sidecar.model import Configuration
from agent.stats.writer import Writer

_STATES = (
    admin_documents.LIVE,
    admin_documents.DRAINING,
    admin_documents.PRE_INITIALIZING,
    admin_documents.INITIALIZING,
)  # server_info.proto's numbers


class SelfCounters:
    """Statistics of the process's state; `update` refreshes those that change by themselves."""

    def __init__(self, stats: Writer, arguments: Arguments, configuration: Configuration) -> None:
        self._live = stats.gauge("server.live")
        self._state = stats.gauge("server.state")
        self._uptime = stats.gauge("server.uptime")
        self._connections = stats.gauge("server.total_connections")
        self._started = stats.gauge("listener_manager.workers_started")
        self._stopped = stats.counter("listener_manager.listener_stopped")
        stats.gauge("listener_manager.total_listeners_draining")
        stats.gauge("server.concurrency").set(1)
        if not arguments.disable_hot_restart:
            stats.gauge("server.hot_restart_generation").set(arguments.restart_epoch + 1)
        stats.gauge("server.hot_restart_epoch").set(arguments.restart_epoch)
        stats.gauge("cluster_manager.active_clusters").set(len(configuration.clusters))
        stats.counter("cluster_manager.cluster_added").add(len(configuration.clusters))
        listeners = len(configuration.listeners)
        stats.counter("listener_manager.listener_added").add(listeners)
        stats.counter("listener_manager.listener_create_success").add(listeners)
        stats.gauge("listener_manager.total_listeners_active").set(listeners)

    def serving(self) -> None:
        """Record that the process accepts connections."""
        self._live.set(1)
        self._started.set(1)

    def live(self, alive: bool) -> None:
        """Record whether the process is healthy."""
        self._live.set(int(alive))

    def stopped(self, listeners: int) -> None:
        """Count listeners that have stopped accepting; they still count as active, as in Envoy."""
        self._stopped.add(listeners)

    def update(self, state: str, connections: int, uptime: float) -> None:
        """Refresh the gauges that change by themselves. `uptime` in seconds."""
        self._state.set(_STATES.index(state))
        self._connections.set(connections)
        self._uptime.set(int(uptime))
