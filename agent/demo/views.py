"""Which view fits: the screen where there is a terminal that can show it, plain lines anywhere else."""

import os
import sys

from agent.demo.lines import Lines
from agent.demo.view import View


def view() -> View:
    """The view for standard output."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and encoding == "utf8":
        from agent.demo.screen import Screen  # noqa: PLC0415  # with it comes rich

        return Screen()
    return Lines()
