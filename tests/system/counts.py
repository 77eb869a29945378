"""Numbers of repetitions: few in the default run, many with `AGENT_LONG=1`, or the value of a variable."""

import os


def count(variable: str, *, short: int, long: int) -> int:
    """Return the number in `variable`; without it `short`, or `long` if `AGENT_LONG` is set."""
    named = os.environ.get(variable)
    return int(named) if named else long if os.environ.get("AGENT_LONG") else short
