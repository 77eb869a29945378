"""The operator's timeouts, limits and choices. All spans are seconds."""

from dataclasses import dataclass
from enum import StrEnum

from tenacity import RetryCallState, Retrying, wait_exponential

_RETRYING = Retrying()


class Restart(StrEnum):
    """Whether to restart when the serving epoch exits by itself."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class LowMemory(StrEnum):
    """The action when there is no memory for a new epoch beside the serving one."""

    WAIT = "wait"
    REPLACE = "replace"  # once the served certificate is about to expire: stop the old epoch, then start the new


@dataclass(frozen=True, slots=True)
class Policy:
    """The reconciler's settings."""

    start_timeout: float = 30.0  # from launch to serving
    overtaken_timeout: float = 10.0  # the same for a candidate when a newer revision waits
    drain_timeout: float = 600.0  # from the commit until open connections are cut
    stop_timeout: float = 30.0  # from the first SIGTERM until open connections are cut
    drain_delay: float = 0.0  # from the first SIGTERM until listeners close, so that load balancers react
    keeps_outbound: bool = False  # after a drain request the epoch stays, for its outbound listeners, until a stop
    min_drain: float = 0.0  # minimum duration of the final drain, for clients that are on their way
    end_timeout: float = 5.0  # from SIGTERM to an epoch until SIGKILL
    hold_timeout: float = 5.0  # how long clients are held while nothing serves
    drains: int = 3  # how many epochs may drain at once
    drain_patience: float = 45.0  # how long a change waits for a drain to end; then one more may drain
    quiet_timeout: float = 0.2  # changes closer than this are a burst; after it the disk counts as still
    quiet_limit: float = 2.0  # but no change waits longer than this for a still disk
    burst: int = 3  # so many changes in a burst start an epoch each, the rest one once the disk is still
    healthy_timeout: float = 30.0  # serving this long resets the failure count
    crashes_forgiven: int = 5  # so many crashes of a serving epoch restart without delay
    retry_limit: float = 60.0  # the longest back-off
    restart: Restart = Restart.ALWAYS
    low_memory: LowMemory = LowMemory.WAIT
    give_up: int | None = None  # so many failures in `give_up_window` while nothing serves stop the agent; None: never
    give_up_window: float = 300.0
    wait: bool = True  # at the very first start, wait for usable input instead of exiting with 78


def back_off(failures: int, limit: float) -> float:
    """Return the delay after so many failures in a row: 0, 0.2, 0.4, 0.8 … `limit` seconds."""
    if failures <= 1:
        return 0.0
    attempt = RetryCallState(_RETRYING, None, (), {})
    attempt.attempt_number = failures - 1
    return wait_exponential(multiplier=0.2, max=limit)(attempt)
