"""The numbers a life is held to. All spans are seconds."""

from dataclasses import dataclass
from enum import StrEnum

from tenacity import RetryCallState, Retrying, wait_exponential

_RETRYING = Retrying()


class Restart(StrEnum):
    """What to do when the serving epoch exits by itself."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class LowMemory(StrEnum):
    """What to do when there is no memory for a new epoch beside the one that serves."""

    WAIT = "wait"
    REPLACE = "replace"  # once the served certificate is about to end: stop it, then start the new one


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided beforehand."""

    start_timeout: float = 30.0  # from launch to serving
    overtaken_timeout: float = 10.0  # the same for a candidate when there is something newer already
    drain_timeout: float = 600.0  # from the commit until what is left is cut
    stop_timeout: float = 30.0  # from the first SIGTERM until what is left is cut
    drain_delay: float = 0.0  # from the first SIGTERM until listeners close, for whoever sends clients to hear of it
    min_drain: float = 0.0  # how long a drain at the end takes at least, for clients that are on their way
    end_timeout: float = 5.0  # from SIGTERM to an epoch until SIGKILL
    hold_timeout: float = 5.0  # how long clients are kept waiting while nothing serves
    drains: int = 3  # how many epochs drain side by side
    drain_patience: float = 45.0  # how long a change waits for one of them to end; then one more drains
    quiet_timeout: float = 0.2  # changes closer than this are a burst; after it the disk counts as still
    quiet_limit: float = 2.0  # but no change waits longer than this for a still disk
    burst: int = 3  # so many changes in a burst are answered one by one, the rest once the disk is still
    healthy_timeout: float = 30.0  # serving this long forgives earlier failures
    crashes_forgiven: int = 5  # so many crashes of an epoch that had served are answered without delay
    retry_limit: float = 60.0  # the longest back-off
    restart: Restart = Restart.ALWAYS
    low_memory: LowMemory = LowMemory.WAIT
    give_up: int | None = None  # so many failures in `give_up_window` while nothing serves end the agent; None: never
    give_up_window: float = 300.0
    wait: bool = True  # at the very first start, wait for usable input instead of exiting with 78


def back_off(failures: int, limit: float) -> float:
    """The delay before the next attempt after so many failures in a row: 0, 0.2, 0.4, 0.8 … `limit` seconds."""
    if failures <= 1:
        return 0.0
    attempt = RetryCallState(_RETRYING, None, (), {})
    attempt.attempt_number = failures - 1
    return wait_exponential(multiplier=0.2, max=limit)(attempt)
