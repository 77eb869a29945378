import asyncio
import signal

import pytest

from agent.host.limits import WAITING_SIGNALS
from agent.supervisor.signals import SignalHandlers, install_signal_handlers
from tests.supervisor.stand_ins import settled


class Calls(list[tuple[str, ...]]):
    """Handlers that list their calls."""

    def handlers(self) -> SignalHandlers:
        return SignalHandlers(
            stop=lambda who: self.append(("stop", who)),
            restart=lambda who: self.append(("restart", who)),
            leave=lambda who: self.append(("leave", who)),
            reopen_logs=lambda: self.append(("reopen_logs",)),
            log_state=lambda: self.append(("log_state",)),
        )


MEANINGS = pytest.mark.parametrize(
    ("number", "call"),
    [
        (signal.SIGTERM, ("stop", "SIGTERM")),
        (signal.SIGINT, ("stop", "SIGINT")),
        (signal.SIGHUP, ("restart", "SIGHUP")),
        (signal.SIGUSR1, ("reopen_logs",)),
        (signal.SIGUSR2, ("leave", "SIGUSR2")),
        (signal.SIGQUIT, ("log_state",)),
    ],
)


@MEANINGS
async def test_each_signal_has_one_meaning(number: signal.Signals, call: tuple[str, ...]) -> None:
    calls = Calls()
    install_signal_handlers(calls.handlers())
    signal.raise_signal(number)
    await settled(lambda: calls)
    assert calls == [call]


@MEANINGS
async def test_a_signal_from_before_the_handlers_is_not_lost(number: signal.Signals, call: tuple[str, ...]) -> None:
    calls = Calls()
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITING_SIGNALS)
    signal.raise_signal(number)
    await asyncio.sleep(0)
    assert not calls
    install_signal_handlers(calls.handlers())
    await settled(lambda: calls)
    assert calls == [call]


async def test_every_stop_signal_counts() -> None:
    calls = Calls()
    install_signal_handlers(calls.handlers())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
    await settled(lambda: len(calls) == 2)
    assert sorted(calls) == [("stop", "SIGINT"), ("stop", "SIGTERM")]
