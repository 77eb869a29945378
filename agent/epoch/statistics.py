"""Opens the epoch's statistics: in the agent's segment file if there is one, else private."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from agent.host import clock
from agent.stats.errors import Unwritable
from agent.stats.layout import ENVIRONMENT
from agent.stats.snapshot import Snapshot
from agent.stats.writer import Writer

NUMBER, NONCE = "PROXY_AGENT_EPOCH", "PROXY_AGENT_NONCE"  # set by the agent in the epoch's environment
_NONCE_SIZE = 16
_log = logging.getLogger(__name__)


def open_writer(environment: Mapping[str, str] = os.environ) -> Writer:
    """Open the epoch's statistics at the path that the environment names.

    Without one, or if the file cannot be used (which is logged), only the admin interface shows them.
    """
    path = environment.get(ENVIRONMENT)
    if path is None:
        return Writer.private()
    try:
        began = int(clock.calendar().timestamp() * 1e9)
        return Writer.create(
            Path(path), epoch=number(environment), pid=os.getpid(), started_at=began, nonce=_nonce(environment)
        )
    except Unwritable as error:
        _log.warning("%s; only the admin interface shows the counters", error)
        return Writer.private()


def number(environment: Mapping[str, str] = os.environ) -> int:
    """Return the epoch's number as given by the agent; 0 without an agent."""
    text = environment.get(NUMBER, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _nonce(environment: Mapping[str, str]) -> bytes:
    """Return the agent's nonce in bytes, padded with zeros."""
    try:
        nonce = bytes.fromhex(environment.get(NONCE, ""))
    except ValueError:
        nonce = b""
    return nonce[:_NONCE_SIZE].ljust(_NONCE_SIZE, b"\0")


class Deltas:
    """The statistics sent to a successor: counter increments since its last request, and gauges."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._told: dict[str, int] = {}

    def take(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the counters that have changed and every gauge that is not zero."""
        now: Snapshot = self._writer.read()
        grown = {name: value - self._told.get(name, 0) for name, value in now.counters.items()}
        self._told = now.counters
        return {name: by for name, by in grown.items() if by}, {name: at for name, at in now.gauges.items() if at}
