"""How often: few times in the default run, as often as the issue asks with `AGENT_LONG=1`, or as a variable says."""

import os


def count(variable: str, *, short: int, long: int) -> int:
    """Return the number in `variable`; without it `short`, or `long` when `AGENT_LONG` is set."""
    named = os.environ.get(variable)
    return int(named) if named else long if os.environ.get("AGENT_LONG") else short
