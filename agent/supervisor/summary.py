"""The service's state as one sentence, and the reason why it is not ready."""

from collections.abc import Iterable, Iterator

from agent.certificates.x509 import Leaf
from agent.core.epochs import CANDIDATE, Epoch, State
from agent.inputs.revisions import LoadedRevision
from agent.supervisor.service import Service

_REFUSALS_SHOWN = 2


class Summary:
    """Describes the state for systemd, readiness probes, Kubernetes events and `agent status`."""

    def __init__(self, service: Service) -> None:
        self._core = service.core
        self._processes = service.processes
        self._inputs = service.inputs

    def sentence(self) -> str:
        """Return which epoch serves until when, the other epochs' states, and the refusals."""
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
        """Return how many connections a draining epoch still has, if that is known."""
        process = self._processes.epochs.get(epoch.number)
        clients = None if process is None or epoch.state is not State.DRAINING else process.clients
        return "" if clients is None else f", {clients} connection{'' if clients == 1 else 's'}"

    def _until(self, number: int) -> str:
        process = self._processes.epochs.get(number)
        ends = [] if process is None else [leaf.not_after for leaf in _leaves(process.loaded)]
        return f", certificate until {min(ends):%Y-%m-%d %H:%MZ}" if ends else ""

    def rejections(self) -> list[str]:
        """Return why each refused file, configuration or program is refused."""
        messages = [each.message for each in self._inputs.loader.reports.refusals]
        return messages + [message for _, _, message in self._inputs.loader.complaints()]

    def complaints(self) -> Iterable[str]:
        """Yield the first reasons for refusals; while nothing serves, also the last failure."""
        refused, failure = self._core.desired.refused, self._core.last_failure
        rejections = self.rejections()
        yield from rejections[:_REFUSALS_SHOWN]
        if len(rejections) > _REFUSALS_SHOWN:
            yield f"{len(rejections) - _REFUSALS_SHOWN} more are refused"
        if refused is not None and refused.reason not in rejections:
            yield refused.reason
        elif failure is not None and self._core.serving is None:
            yield failure.reason

    def why_not_ready(self) -> str:
        """Return why the service is not ready; empty if it is ready."""
        if self._core.stopping:
            return "the agent is stopping"
        if self._core.serving is not None:
            return self._processes.unserved
        return f"no epoch serves: {'; '.join(self._why_none_serves())}"

    def _why_none_serves(self) -> Iterator[str]:
        candidate = self._core.candidate
        if candidate is not None:
            yield f"epoch {candidate.number} starts" + (f": {candidate.awaits}" if candidate.awaits else "")
        elif self._core.last_failure is None:
            yield self._inputs.missing
        yield from self.complaints()


def _leaves(loaded: LoadedRevision) -> Iterable[Leaf]:
    return loaded.selection.leaves.values()
