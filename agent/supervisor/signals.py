"""The signals that the agent handles."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass

from agent.host.limits import WAITING_SIGNALS


@dataclass(frozen=True, slots=True)
class SignalHandlers:
    """The functions to call; those with an argument receive the signal's name.

    `stop` drains, and the second time ends the drain at once; `restart` starts a new epoch; `leave` exits and keeps the
    epochs running; `reopen_logs` passes the signal on to every epoch; `log_state` logs the state.
    """

    stop: Callable[[str], None]
    restart: Callable[[str], None]
    leave: Callable[[str], None]
    reopen_logs: Callable[[], None]
    log_state: Callable[[], None]


def install_signal_handlers(handlers: SignalHandlers) -> None:
    """Handle signals from now on, including those blocked until now."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handlers.stop, number.name)
    loop.add_signal_handler(signal.SIGHUP, handlers.restart, signal.SIGHUP.name)
    loop.add_signal_handler(signal.SIGUSR1, handlers.reopen_logs)
    loop.add_signal_handler(signal.SIGUSR2, handlers.leave, signal.SIGUSR2.name)
    loop.add_signal_handler(signal.SIGQUIT, handlers.log_state)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING_SIGNALS)
