"""Decides which revisions are pushed into the serving epoch, and what follows a push that failed.

A push changes certificates in a running proxy: same epoch, new revision. A failed one is undone by pushing what served
before. If the proxy refused the revision, it continues with that; if it did not answer, or the push could not be
undone, a new epoch replaces it.
"""

from agent.core import effects as do
from agent.core.desired import DesiredState, RejectedRevision
from agent.core.effects import Effect, LogTopic
from agent.core.epochs import Epoch, State
from agent.core.events import EpochPushed, Failure, FailureKind
from agent.core.revision import Revision


class Pushing:
    """The pushes into the serving epoch, one at a time."""

    def __init__(self, desired: DesiredState) -> None:
        self._desired = desired

    @staticmethod
    def is_under_way(serving: Epoch | None) -> bool:
        """Whether the next revision waits for a push to end; an epoch that takes no more pushes is not waited for."""
        return serving is not None and serving.pushing is not None and serving.takes_pushes

    def brings(self, serving: Epoch | None, revision: Revision | None) -> bool:
        """Whether a push brings this revision. An operator who asks for a restart gets one."""
        if serving is None or revision is None or not serving.takes_pushes or self._desired.restart_asked:
            return False
        return revision != serving.revision and revision.can_be_pushed_over(serving.revision)

    @staticmethod
    def begin(serving: Epoch, revision: Revision) -> Effect:
        """Push a revision."""
        serving.pushing = revision
        return do.PushRevision(serving.number, revision)

    @staticmethod
    def restore(serving: Epoch) -> Effect:
        """Push what the epoch last served, to undo a push."""
        serving.pushing = serving.revision
        return do.PushRevision(serving.number, serving.revision, restores=True)

    def ended(self, epoch: Epoch, event: EpochPushed) -> list[Effect]:
        """Record the end of a push; the next one may begin."""
        was_restored = event.revision == epoch.revision
        epoch.pushing = None
        if epoch.state is not State.SERVING:
            return []
        if event.failure is not None:
            return self._not_restored(epoch, event.failure) if was_restored else self._failed(epoch, event)
        if was_restored:
            epoch.is_torn = False
            text = f"epoch {epoch.number} serves what it served before the push"
            return [do.LogMessage(LogTopic.PUSH_UNDONE, text, epoch.number)]
        epoch.revision = event.revision
        epoch.pushes += 1
        self._desired.served(event.revision)
        return [do.CommitPush(epoch.number, event.revision)]

    def _failed(self, epoch: Epoch, event: EpochPushed) -> list[Effect]:
        failure = event.failure
        assert failure is not None
        undone = [] if event.is_intact else [self.restore(epoch)]
        if failure.sort is FailureKind.PERMANENT:
            self._desired.refused = RejectedRevision(event.revision, failure.reason, failure.pinned)
            text = f"revision {event.revision.name} is refused: {failure.reason}"
            return [do.LogMessage(LogTopic.REFUSED, text), *undone]
        epoch.takes_pushes = False
        text = f"{failure.reason}; a new epoch takes the certificates instead"
        return [do.LogMessage(LogTopic.PUSH_FAILED, text, epoch.number), *undone]

    @staticmethod
    def _not_restored(epoch: Epoch, failure: Failure) -> list[Effect]:
        epoch.takes_pushes = False
        epoch.is_torn = True
        text = f"{failure.reason}: the push could not be undone; a new epoch replaces epoch {epoch.number}"
        return [do.LogMessage(LogTopic.PUSH_FAILED, text, epoch.number)]
