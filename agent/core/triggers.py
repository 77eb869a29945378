"""What an attempt at a new epoch is made for: a closed set, fit for a metric's label."""

from enum import StrEnum


class Trigger(StrEnum):
    """Why an epoch was started."""

    START = "start"  # nothing has served yet
    CERTIFICATE = "certificate"  # the files of a set changed, and nothing else
    CONFIGURATION = "configuration"  # anything else on the disk changed
    OPERATOR = "operator"
    CRASH = "crash"  # what served is dead
    MEMORY = "memory"  # what served was stopped to make room
    HUNG = "hung"  # what serves answers nobody
    ADOPTION = "adoption"  # an earlier agent started it
