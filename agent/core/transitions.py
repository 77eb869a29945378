"""How an epoch is made to leave: what it takes in its table, until when, and what the runtime has to do."""

from agent.core import effects as do
from agent.core.effects import Effect
from agent.core.epochs import Epoch, Step


def drain(epoch: Epoch, deadline: float) -> Effect:
    """It finishes what it has, until `deadline` at latest."""
    epoch.apply(Step.DRAIN)
    epoch.deadline = deadline
    return do.DrainEpoch(epoch.number)


def end(epoch: Epoch, deadline: float) -> Effect:
    """It is asked to exit, and killed at `deadline`."""
    epoch.apply(Step.END)
    epoch.deadline = deadline
    return do.EndEpoch(epoch.number)


def drop(epoch: Epoch, reason: str) -> Effect:
    """A candidate is killed, not asked."""
    epoch.apply(Step.END)
    epoch.deadline = None
    return do.DropEpoch(epoch.number, reason)
