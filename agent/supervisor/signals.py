"""Which signal asks the agent for what."""

import asyncio
import logging
import signal
from typing import Protocol

from agent.host.limits import WAITING_SIGNALS
from agent.host.log import log_event


class Obedient(Protocol):
    """Whoever is sent signals."""

    def stop(self, who: str) -> None:
        """Drain and end; the second time, hurry."""

    def restart(self, who: str) -> None:
        """Make a new epoch."""

    def leave(self, who: str) -> None:
        """Go, and let the epochs be."""

    def pass_on(self, number: signal.Signals) -> None:
        """Send it to every epoch."""

    def tell_state(self) -> None:
        """Write the state to the log."""


def install_signal_handlers(agent: Obedient) -> None:
    """Take signals from now on, those that came before among them."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop, number.name)
    loop.add_signal_handler(signal.SIGHUP, agent.restart, signal.SIGHUP.name)
    loop.add_signal_handler(signal.SIGUSR1, _reopen_logs, agent)
    loop.add_signal_handler(signal.SIGUSR2, agent.leave, signal.SIGUSR2.name)
    loop.add_signal_handler(signal.SIGQUIT, agent.tell_state)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING_SIGNALS)


def _reopen_logs(agent: Obedient) -> None:
    """The agent writes to standard error only; the proxies may have files."""
    log_event(logging.INFO, "logs.reopened", "SIGUSR1: passed on to every epoch")
    agent.pass_on(signal.SIGUSR1)
