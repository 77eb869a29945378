"""Ways to end an epoch: each applies the step, sets the deadline and returns the effect."""

from agent.core import effects as do
from agent.core.effects import Effect
from agent.core.epochs import Epoch, Step


def drain(epoch: Epoch, deadline: float) -> Effect:
    """Drain an epoch until `deadline` at the latest."""
    epoch.apply(Step.DRAIN)
    epoch.deadline = deadline
    return do.DrainEpoch(epoch.number)


def end(epoch: Epoch, deadline: float) -> Effect:
    """Terminate an epoch; it is killed at `deadline`."""
    epoch.apply(Step.END)
    epoch.deadline = deadline
    return do.EndEpoch(epoch.number)


def drop(epoch: Epoch, reason: str) -> Effect:
    """Kill a candidate without SIGTERM."""
    epoch.apply(Step.END)
    epoch.deadline = None
    return do.DropEpoch(epoch.number, reason)
