"""What the service manager learns of this agent: a sentence worth reading, each turn of its life, and its sockets."""

from collections.abc import Iterable

from agent.certificates.x509 import Leaf
from agent.core.epochs import CANDIDATE, Epoch, State
from agent.core.reconciler import Reconciler
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host.service_manager import ServiceManager
from agent.inputs.loader import Loader
from agent.inputs.revisions import LoadedRevision
from agent.processes.stage import ProcessTable

_REFUSALS_SHOWN = 2


class SystemdSocketStore(SocketStore):
    """A vault whose listening sockets the service manager holds as well, so that they outlive the agent and the proxy.

    It lets go together with the vault: a socket that nobody accepts on keeps clients waiting for nothing.
    """

    def __init__(self, manager: ServiceManager) -> None:
        super().__init__()
        self._manager = manager

    def keep(self, place: ListenAddress, descriptor: int) -> None:
        """Take ownership of a duplicate; one more goes to the service manager."""
        super().keep(place, descriptor)
        self._manager.store(_name(place), descriptor)

    def let_go(self, place: ListenAddress) -> None:
        """Close what is here and there, if anything is."""
        super().let_go(place)
        self._manager.remove(_name(place))

    def keep_again(self) -> None:
        """Store everything once more: what did not listen then may listen now."""
        for place in self.places():
            held = self.lend(place)
            if held is not None:
                self._manager.store(_name(place), held)


class SystemdNotifier:
    """Tells the service manager what the core has decided, whenever something may have changed."""

    def __init__(self, core: Reconciler, stage: ProcessTable, intake: Loader) -> None:
        self._manager = ServiceManager()
        self._core = core
        self._stage = stage
        self._intake = intake
        self._vault = SystemdSocketStore(self._manager)
        self._stage.ports.vault = self._vault
        self._has_served: int | None = None

    def tell(self) -> None:
        """Tell what is new."""
        core = self._core
        self._manager.status(self.sentence())
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
            self._vault.keep_again()

    def restarting(self) -> None:
        """A reload was asked for by a signal: whoever waits for it hears that it began."""
        if self._core.serving is not None and not self._core.stopping:
            self._manager.reloading()

    def stopping(self) -> None:
        """The end has begun."""
        self._manager.stopping()

    def executing(self) -> None:
        """This process is about to become the agent's program as it is on disk."""
        self._manager.executing()

    def close(self) -> None:
        """Tell nothing any more."""
        self._manager.close()

    def sentence(self) -> str:
        """What goes on: what serves and until when, what else there is, and what is refused and why."""
        epochs = sorted(self._core.epochs.values(), key=lambda epoch: -epoch.number)
        serving = [self._describe(epoch) for epoch in epochs if epoch.state is State.SERVING] or ["no epoch serves"]
        others = [self._describe(epoch) for epoch in epochs if epoch.state not in {State.SERVING, State.GONE}]
        return "; ".join([*serving, *others, *self.complaints()])

    def _describe(self, epoch: Epoch) -> str:
        if epoch.state is State.SERVING:
            return f"epoch {epoch.number} serves{self._until(epoch.number)}"
        if epoch.state in CANDIDATE:
            return f"epoch {epoch.number} starts" + (f": {epoch.awaits}" if epoch.awaits else "")
        return f"epoch {epoch.number} {epoch.state.word}{self._left(epoch)}"

    def _left(self, epoch: Epoch) -> str:
        """How many connections a draining epoch still has, as far as that is known."""
        living = self._stage.living.get(epoch.number)
        clients = None if living is None or epoch.state is not State.DRAINING else living.clients
        return "" if clients is None else f", {clients} connection{'' if clients == 1 else 's'}"

    def _until(self, number: int) -> str:
        living = self._stage.living.get(number)
        ends = [] if living is None else [leaf.not_after for leaf in _leaves(living.material)]
        return f", certificate until {min(ends):%Y-%m-%d %H:%MZ}" if ends else ""

    def standing(self) -> list[str]:
        """What on the disk is refused now, and why."""
        said = [each.message for each in self._intake.reports.refusals]
        return said + [message for _, _, message in self._intake.complaints()]

    def complaints(self) -> Iterable[str]:
        """What is refused and why, of many the first ones; and while nothing serves, why the last attempt failed."""
        refused, failure = self._core.wish.refused, self._core.last_failure
        said = self.standing()
        yield from said[:_REFUSALS_SHOWN]
        if len(said) > _REFUSALS_SHOWN:
            yield f"{len(said) - _REFUSALS_SHOWN} more are refused"
        if refused is not None and refused.reason not in said:
            yield refused.reason
        elif failure is not None and self._core.serving is None:
            yield failure.reason


def _leaves(material: LoadedRevision) -> Iterable[Leaf]:
    return material.outcome.leaves.values()


def _name(place: ListenAddress) -> str:
    """By it the next agent brings the workers of a listener in their order."""
    return f"{place.worker:04d}.{place.address}{place.namespace and '@'}{place.namespace}"
