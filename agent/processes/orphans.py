"""Processes that a proxy left behind when its main process exited: they serve until the next epoch does."""

import asyncio
import logging
import signal

from agent.host.log import log_event
from agent.host.sessions import members, signal_members


class Orphans:
    """The sessions of exited proxies that still have members. `deadline`: seconds that their drain may take."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._serving: dict[int, signal.Signals] = {}  # session to the signal that drains it
        self._timers: dict[int, asyncio.TimerHandle] = {}

    @property
    def serve(self) -> bool:
        """Whether some serve clients."""
        return any(map(members, self._serving))

    def left(self, session: int, how: signal.Signals, *, may_serve: bool) -> None:
        """Note the members of an exited process's session: those that may serve go on, others are killed."""
        count = len(members(session))
        if not count:
            return
        if not may_serve or how is signal.SIGKILL:
            signal_members(session, signal.SIGKILL)
            return
        self._serving[session] = how
        text = f"{count} processes of pid {session} serve on without it, until the next epoch serves"
        log_event(logging.WARNING, "epoch.orphans", text)

    def drain(self) -> None:
        """Drain all that serve: an epoch has taken over."""
        for session, how in self._serving.items():
            signal_members(session, how)
            loop = asyncio.get_running_loop()
            self._timers[session] = loop.call_later(self._deadline, signal_members, session, signal.SIGKILL)
        self._serving.clear()

    def close(self) -> None:
        """Kill what is left."""
        for timer in self._timers.values():
            timer.cancel()
        for session in {*self._serving, *self._timers}:
            signal_members(session, signal.SIGKILL)
