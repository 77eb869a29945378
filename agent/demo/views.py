"""Chooses the view: the live screen on a capable terminal, else plain lines."""

import os
import sys

from agent.demo.lines import Lines
from agent.demo.view import View


def view() -> View:
    """Return the view for standard output."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and encoding == "utf8":
        from agent.demo.screen import Screen  # noqa: PLC0415  # imports rich

        return Screen()
    return Lines()
