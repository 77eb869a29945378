"""Notifies systemd of the service's state, and stores the listening sockets with it."""

from agent.core.reconciler import Reconciler
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host.service_manager import ServiceManager
from agent.supervisor.summary import Summary


class SystemdSocketStore(SocketStore):
    """A socket store whose sockets systemd holds too, so that they outlive agent and proxy.

    Both copies are closed together: a socket that nobody accepts on keeps clients waiting for nothing.
    """

    def __init__(self, manager: ServiceManager) -> None:
        super().__init__()
        self._manager = manager

    def put(self, place: ListenAddress, descriptor: int) -> None:
        """Take ownership of a duplicate, and store another one with systemd."""
        super().put(place, descriptor)
        self._manager.store(_name(place), descriptor)

    def close(self, place: ListenAddress) -> None:
        """Close the socket here and at systemd, if it is stored."""
        super().close(place)
        self._manager.remove(_name(place))

    def keep_again(self) -> None:
        """Store every socket again: one that did not listen before may listen now."""
        for place in self.places():
            held = self.get(place)
            if held is not None:
                self._manager.store(_name(place), held)


class SystemdNotifier:
    """Notifies systemd of each state change, with a sentence for `systemctl status`."""

    def __init__(self, core: Reconciler, manager: ServiceManager, store: SystemdSocketStore, summary: Summary) -> None:
        self._core = core
        self._manager = manager
        self._store = store
        self._summary = summary
        self._has_served: int | None = None

    def tell(self) -> None:
        """Notify systemd of the current state."""
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
        """Notify systemd that a signal began a reload."""
        if self._core.serving is not None and not self._core.stopping:
            self._manager.reloading()

    def stopping(self) -> None:
        """Notify systemd that the service is stopping."""
        self._manager.stopping()

    def executing(self) -> None:
        """Notify systemd that this process executes the agent's new program."""
        self._manager.executing()

    def close(self) -> None:
        """Close the socket to systemd."""
        self._manager.close()


def _name(place: ListenAddress) -> str:
    """Return the name under which systemd stores it; names sort a listener's workers in order."""
    return f"{place.worker:04d}.{place.address}{place.namespace and '@'}{place.namespace}"
