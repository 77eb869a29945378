"""Why an epoch is started: a closed set, usable as a metric label."""

from enum import StrEnum


class Trigger(StrEnum):
    """Why an epoch was started."""

    START = "start"  # nothing has served before
    CERTIFICATE = "certificate"  # only files of a certificate group changed
    CONFIGURATION = "configuration"  # another file changed
    OPERATOR = "operator"
    CRASH = "crash"  # the serving epoch exited
    MEMORY = "memory"  # the serving epoch was stopped to make room
    HUNG = "hung"  # the serving epoch does not answer
    ADOPTION = "adoption"  # an earlier agent started it
