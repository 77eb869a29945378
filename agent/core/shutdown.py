"""Shutdown: all epochs drain and exit, and none starts.

First comes `policy.drain_delay`, in which load balancers stop sending clients; then the final drain, with a minimum
duration and a deadline; then all epochs exit. A second stop request ends the drain at once.

With `policy.keeps_outbound`, a drain request without a stop closes inbound listeners for good, and the serving epoch
stays for the application's own connections. At the stop it ends once no connection is left.
"""

from agent.core import effects as do
from agent.core import transitions
from agent.core.desired import NEVER
from agent.core.effects import Effect
from agent.core.epochs import CANDIDATE, Epoch, State
from agent.core.policy import Policy


class Shutdown:
    """Shuts all epochs down and tracks the progress. `epochs` are the reconciler's, by number."""

    def __init__(self, policy: Policy, epochs: dict[int, Epoch]) -> None:
        self._policy = policy
        self._epochs = epochs
        self.has_begun = False
        self.drain_at: float | None = None  # when the serving epoch drains
        self._close_by = NEVER  # when open connections are cut
        self._drain_until = -NEVER  # until then a draining epoch stays even if it is empty
        self._finish: do.Finish | None = None  # the exit code, once all epochs have exited
        self._kept: int | None = None  # the epoch that stays after a drain request

    def stop(self, at: float, *, now: bool = False) -> list[Effect]:
        """Handle an operator's stop request: the first begins the drain, a second one, or one with `now`, ends it."""
        if self._finish is not None or now:
            self.drain_at = None
            return self.end(at, self._finish or do.Finish(0, "stopped as asked"))
        self._finish = do.Finish(0, "stopped as asked")
        return [*self.begin(at), *self._release(at)]

    def _release(self, at: float) -> list[Effect]:
        """Let the epoch end that stayed after a drain request, once it has no connection."""
        epoch = None if self._kept is None else self._epochs.get(self._kept)
        if epoch is None or epoch.state is not State.DRAINING:
            return []
        epoch.is_empty = False
        epoch.deadline = at + self._policy.stop_timeout
        return [do.AwaitEmpty(epoch.number)]

    @property
    def is_drained(self) -> bool:
        """Whether no epoch is left but one that stays after a drain request, whose inbound listeners have drained."""
        return self.has_begun and all(self._stays(each) and each.is_empty for each in self._epochs.values())

    def _stays(self, epoch: Epoch) -> bool:
        return self._finish is None and epoch.number == self._kept

    def begin(self, at: float) -> list[Effect]:
        """Begin shutdown once; the serving epoch drains after `policy.drain_delay`."""
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
        """End all epochs now and exit with `finish`."""
        self.has_begun = True
        self._finish = finish
        return self._end_everything(at)

    def time_passed(self, at: float) -> list[Effect]:
        """Begin the final drain if the delay before it is over."""
        return self._drain(at) if self.drain_at is not None and self.drain_at <= at else []

    def keeps(self, epoch: Epoch, at: float, *, all_listeners: bool = False) -> bool:
        """Whether an empty draining epoch stays: after a drain request, or until `policy.min_drain` is over.

        Sets its deadline. Clients may still be on their way to it. `all_listeners`: it has no outbound connection.
        """
        if self._stays(epoch):
            epoch.is_empty, epoch.deadline = True, None
            return True
        if epoch.number == self._kept and not all_listeners:
            return True  # the observation of its inbound listeners, before the stop
        if not self.has_begun or at >= self._drain_until:
            return False
        epoch.is_empty = True
        epoch.deadline = self._drain_until
        return True

    def is_overdue(self, epoch: Epoch, at: float) -> bool:
        """Whether a draining epoch is to end at its deadline; one that stays keeps its inbound connections."""
        return not (self._stays(epoch) and self.keeps(epoch, at))

    def leave(self) -> list[Effect]:
        """Return `Finish` if all epochs have exited and a stop was requested."""
        return [] if self._epochs or self._finish is None else [self._finish]

    def _drain(self, at: float) -> list[Effect]:
        self.drain_at = None
        self._drain_until = min(at + self._policy.min_drain, self._close_by)
        serving = self._in(State.SERVING)
        done = [transitions.drain(epoch, max(at, self._close_by)) for epoch in serving]
        if self._policy.keeps_outbound and self._finish is None:
            self._kept = next((epoch.number for epoch in serving), None)
        return done

    def _end_everything(self, at: float) -> list[Effect]:
        deadline = at + self._policy.end_timeout
        return [
            transitions.end(epoch, deadline) for epoch in self._epochs.values() if epoch.state is not State.TERMINATING
        ]

    def _in(self, *states: State) -> list[Epoch]:
        return [epoch for epoch in self._epochs.values() if epoch.state in states]
