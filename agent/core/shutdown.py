"""The end: everything drains and leaves, and nothing starts any more.

First a delay in which whoever sends clients hears of it, then the last drain, which takes a least time and has a
deadline, then the exit codes of all. Asked for twice, the end hurries.
"""

from agent.core import effects as do
from agent.core import transitions
from agent.core.desired import NEVER
from agent.core.effects import Effect
from agent.core.epochs import CANDIDATE, Epoch, State
from agent.core.policy import Policy


class Shutdown:
    """Whether the end has begun, and how far it is. `epochs` is what the reconciler knows, by number."""

    def __init__(self, policy: Policy, epochs: dict[int, Epoch]) -> None:
        self._policy = policy
        self._epochs = epochs
        self.has_begun = False
        self.drain_at: float | None = None  # when the serving epoch drains
        self._close_by = NEVER  # when what is left then is cut
        self._drain_until = -NEVER  # before that, an epoch that drains stays though it is empty
        self._finish: do.Finish | None = None  # with what to leave, once everything has ended

    def stop(self, at: float) -> list[Effect]:
        """An operator wants the end: the first time, drain to it; the second time, hurry."""
        if self._finish is not None:
            self.drain_at = None
            return self._end_everything(at)
        self._finish = do.Finish(0, "stopped as asked")
        return self.begin(at)

    def begin(self, at: float) -> list[Effect]:
        """Begin the last drain, if that has not begun: of the serving epoch once whoever sends clients has heard."""
        if self.has_begun:
            return []
        self.has_begun = True
        self._close_by = at + self._policy.stop_timeout
        for epoch in self._in(State.DRAINING):
            epoch.deadline = min(self._close_by, epoch.deadline or self._close_by)
        done = [transitions.drop(epoch, "the agent stops") for epoch in self._in(*CANDIDATE)]
        if self._in(State.SERVING) and self._policy.drain_delay:
            self.drain_at = min(at + self._policy.drain_delay, self._close_by)
            return done
        return [*done, *self._drain(at)]

    def end(self, at: float, finish: do.Finish) -> list[Effect]:
        """There is no point in going on: end everything now, and leave with `finish`."""
        self.has_begun = True
        self._finish = finish
        return self._end_everything(at)

    def time_passed(self, at: float) -> list[Effect]:
        """The delay before the last drain may be over."""
        return self._drain(at) if self.drain_at is not None and self.drain_at <= at else []

    def keeps(self, epoch: Epoch, at: float) -> bool:
        """Whether a drained epoch that is empty stays, for clients that are on their way; if so, until when is set."""
        if not self.has_begun or at >= self._drain_until:
            return False
        epoch.is_empty = True
        epoch.deadline = self._drain_until
        return True

    def leave(self) -> list[Effect]:
        """Finish, if nothing lives any more and somebody wants the end."""
        return [] if self._epochs or self._finish is None else [self._finish]

    def _drain(self, at: float) -> list[Effect]:
        self.drain_at = None
        self._drain_until = min(at + self._policy.min_drain, self._close_by)
        return [transitions.drain(epoch, max(at, self._close_by)) for epoch in self._in(State.SERVING)]

    def _end_everything(self, at: float) -> list[Effect]:
        deadline = at + self._policy.end_timeout
        return [
            transitions.end(epoch, deadline) for epoch in self._epochs.values() if epoch.state is not State.TERMINATING
        ]

    def _in(self, *states: State) -> list[Epoch]:
        return [epoch for epoch in self._epochs.values() if epoch.state in states]
