"""Tells systemd the state of the service, and stores its listening sockets there."""

from agent.core.reconciler import Reconciler
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host.service_manager import ServiceManager
from agent.supervisor.summary import Summary


class SystemdSocketStore(SocketStore):
    """A store whose listening sockets the service manager holds as well, so that they outlive the agent and the proxy.

    Both close a socket together: one that nobody accepts on keeps clients waiting for nothing.
    """

    def __init__(self, manager: ServiceManager) -> None:
        super().__init__()
        self._manager = manager

    def put(self, place: ListenAddress, descriptor: int) -> None:
        """Take ownership of a duplicate; one more goes to the service manager."""
        super().put(place, descriptor)
        self._manager.store(_name(place), descriptor)

    def close(self, place: ListenAddress) -> None:
        """Close what is here and there, if anything is."""
        super().close(place)
        self._manager.remove(_name(place))

    def keep_again(self) -> None:
        """Store everything once more: what did not listen then may listen now."""
        for place in self.places():
            held = self.get(place)
            if held is not None:
                self._manager.store(_name(place), held)


class SystemdNotifier:
    """Notifies systemd of each change of state: ready, reloading, stopping, and a sentence for `systemctl status`."""

    def __init__(self, core: Reconciler, manager: ServiceManager, store: SystemdSocketStore, summary: Summary) -> None:
        self._core = core
        self._manager = manager
        self._store = store
        self._summary = summary
        self._has_served: int | None = None

    def tell(self) -> None:
        """Notify systemd of the present state."""
        core = self._core
        self._manager.status(self._summary.sentence())
        if core.stopping:
            return
        if core.serving is None:
            self._manager.starting()
        elif core.candidate is not None:
            self._manager.reloading()
        else:
            self._manager.ready()
            self._keep_sockets(core.serving.number)

    def _keep_sockets(self, serving: int) -> None:
        if serving != self._has_served:
            self._has_served = serving
            self._store.keep_again()

    def restarting(self) -> None:
        """Notify systemd that a reload began, which a signal asked for."""
        if self._core.serving is not None and not self._core.stopping:
            self._manager.reloading()

    def stopping(self) -> None:
        """Notify systemd that the service stops."""
        self._manager.stopping()

    def executing(self) -> None:
        """Notify systemd that this process executes the agent's program anew."""
        self._manager.executing()

    def close(self) -> None:
        """Close the socket to systemd."""
        self._manager.close()


def _name(place: ListenAddress) -> str:
    """By it the next agent brings the workers of a listener in their order."""
    return f"{place.worker:04d}.{place.address}{place.namespace and '@'}{place.namespace}"
