"""Detects a hung serving proxy by the clients that wait in its accept queues.

The socket store shares the proxy's accept queues, so the kernel wakes the agent when a client connects. Without clients
the agent sleeps; with clients it examines the queues every few seconds, less often while the proxy is well. A proxy
hangs when clients wait, none is accepted and its admin interface does not respond, all for the times in `Intervals`. A
busy proxy, whose queues are never empty, and one with a slow admin interface still accept clients, so neither hangs. A
single stuck worker among several is not detected: the admin interface and the other workers continue.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host import clock, throttling
from agent.host.log import log_event
from agent.host.tasks import Tasks
from agent.host.throttling import Throttled
from agent.processes.queue_progress import QueueProgress, is_anybody_waiting, look_at, opened
from agent.proxies.interface import Admin

_SHOWN = 3


class Serving(Protocol):
    """The serving epoch, as far as the hang detector uses it."""

    @property
    def number(self) -> int:
        """The epoch number."""
        ...

    @property
    def pid(self) -> int | None:
        """The pid of its process."""
        ...

    @property
    def admin(self) -> Admin:
        """Its admin interface."""
        ...


@dataclass(frozen=True, slots=True)
class Intervals:
    """Times in seconds.

    `first`: from a client's arrival to the check of the queues; doubles up to `longest` while clients keep arriving and
    are accepted. `interval`: between two checks under suspicion. `report_after`: how long no client must have been
    accepted and the admin interface not have responded. `lag`: a check delayed by more than this means that the agent
    itself was stopped.
    """

    first: float = 1.0
    longest: float = 4.0
    interval: float = 1.0
    report_after: float = 5.0
    lag: float = 2.0


class HangDetector:
    """Watches the epoch that `serving` returns, if any.

    Calls `report` with True and a message when it hangs, and with False and a message when it responds again or another
    epoch serves instead. Calls `replace` with the reason, once, when it has hung for `replace_after` seconds (None:
    never), and not before it is reported. These times restart after the control group was throttled and after the agent
    itself was stopped.
    """

    def __init__(
        self,
        store: SocketStore,
        serving: Callable[[], Serving | None],
        report: Callable[[bool, str], None],
        replace: Callable[[str], None],
        replace_after: float | None,
        *,
        pace: Intervals | None = None,
        throttled: Callable[[], Throttled] = throttling.read,
    ) -> None:
        self._store = store
        self._serving = serving
        self._report = report
        self._replace = replace
        self._replace_after = replace_after
        self._pace = pace or Intervals()
        self._throttled = throttled
        self._tasks = Tasks()
        self._task: asyncio.Task[None] | None = None
        self._watched: int | None = None
        self._hung: int | None = None
        self._look: asyncio.Future[None] | None = None  # done: a client connected, or the socket store changed

    @property
    def hung(self) -> bool:
        """Whether the serving epoch is reported as hung."""
        serving = self._serving()
        return serving is not None and serving.number == self._hung

    def follow(self) -> None:
        """Watch the epoch that serves now, with the sockets that the store holds now."""
        serving = self._serving()
        if serving is not None and serving.number == self._watched and self._is_watching():
            self._look_soon()
            return
        if self._hung is not None and serving is not None and serving.number != self._hung:
            self._calm(f"epoch {serving.number} replaces {self._hung}, which hung")
        if self._task is not None:
            self._task.cancel()
        self._task = self._watched = None
        if serving is not None:
            self._watched = serving.number
            self._task = self._tasks.spawn(self._watch(serving), f"hang detection of {serving.number}")

    async def close(self) -> None:
        """Stop watching."""
        await self._tasks.close()

    def _is_watching(self) -> bool:
        return self._task is not None and not self._task.done()

    def _still_serves(self, epoch: Serving) -> bool:
        serving = self._serving()
        return serving is not None and serving.number == epoch.number

    # Before any suspicion

    async def _watch(self, epoch: Serving) -> None:
        pause, listening = self._pace.first, set[ListenAddress]()
        try:
            while self._still_serves(epoch):
                armed_at = clock.monotonic()
                listening |= await self._somebody_comes()
                self._revive(epoch, listening)
                quiet = clock.monotonic() - armed_at > pause
                pause = self._pace.first if quiet else min(2 * pause, self._pace.longest)
                await asyncio.sleep(pause)  # a working proxy accepts the client in this time
                self._revive(epoch, listening)
                if is_anybody_waiting(self._store):
                    await self._suspect(epoch)
        except OSError as error:
            text = f"cannot watch the queues of epoch {epoch.number}: {error.strerror}; a hang of it is not reported"
            log_event(logging.WARNING, "hung.unwatched", text)

    def _revive(self, epoch: Serving, listening: Collection[ListenAddress]) -> None:
        """Listen again on sockets that a process has stopped to listen on, for every duplicate: it refuses clients.

        HAProxy does that to a frontend that is disabled at its console. Its own part needs a new epoch.
        """
        silent = sorted(place for place in listening if place in self._store and not self._store.accepts(place))
        if not silent or not self._still_serves(epoch):
            return
        for place in silent:
            self._store.listen(place)
        names = ", ".join(place.address for place in silent[:_SHOWN])
        text = f"{_name(epoch)} stopped to listen on {names}, which refuses clients: the agent listens again"
        log_event(logging.ERROR, "service.unlistened", text)
        self._replace(f"{_name(epoch)} stopped to listen on {names}")

    async def _somebody_comes(self) -> set[ListenAddress]:
        """Wait, without polling, until a queue is not empty or closes, or `follow` requests a check.

        Returns the addresses that it waited at.
        """
        loop = asyncio.get_running_loop()
        self._look = loop.create_future()
        with opened(self._store) as (queues, places):
            loop.add_reader(queues.fileno(), self._look_soon)
            try:
                await self._look
            finally:
                loop.remove_reader(queues.fileno())
        return set(places.values())

    def _look_soon(self) -> None:
        if self._look is not None and not self._look.done():
            self._look.set_result(None)

    # Under suspicion

    async def _suspect(self, epoch: Serving) -> None:
        """Wait until the epoch accepts a client, responds or stops serving; report and replace it."""
        waiting = look_at(self._store, by_name=False)
        question: asyncio.Task[bool] | None = None
        spell = _Suspicion(self._throttled())
        try:
            while True:
                await _pass(question, self._pace.interval)
                before, waiting = waiting, look_at(self._store, by_name=question is not None)
                if (
                    not self._still_serves(epoch)
                    or waiting.moved_since(before)
                    or (question and _is_answered(question))
                ):
                    break
                if question is None or question.done():
                    question = asyncio.create_task(epoch.admin.responds())
                spell.look(self._throttled(), self._pace.interval + self._pace.lag)
                self._judge(epoch, spell, waiting)
        finally:
            if question is not None:
                question.cancel()
        if self.hung:
            self._calm(f"{_name(epoch)} accepts connections again")

    def _judge(self, epoch: Serving, spell: "_Suspicion", waiting: QueueProgress) -> None:
        if spell.seconds >= self._pace.report_after and self._hung is None:
            self._hung = epoch.number
            self._report(True, self._complaint(epoch, spell, waiting))
        after = self._replace_after
        if self._hung is not None and after is not None and spell.seconds >= after and not spell.is_replaced:
            spell.is_replaced = True
            self._replace(f"{_name(epoch)} has accepted no connection for {spell.seconds:.0f} s")

    def _complaint(self, epoch: Serving, spell: "_Suspicion", waiting: QueueProgress) -> str:
        after = self._replace_after
        step = "replace it by `agent restart`" if after is None else f"it is replaced after {after:g} s of this"
        return (
            f"{_name(epoch)} hangs: {_describe(waiting.lengths)}, and for {spell.seconds:.0f} s it has accepted none"
            f" and its admin interface has not answered; {step}"
        )

    def _calm(self, text: str) -> None:
        self._hung = None
        self._report(False, text)


class _Suspicion:
    """Measures how long a proxy has not responded."""

    def __init__(self, throttled: Throttled) -> None:
        self.seconds = 0.0
        self.is_replaced = False
        self._since: float | None = None  # from the first check without progress, when the admin request is sent
        self._looked_at = clock.monotonic()
        self._throttled = throttled

    def look(self, throttled: Throttled, longest: float) -> None:
        """Update `seconds`; restart at 0 if the CPU was throttled or the last check is too old.

        `longest`: the maximum age of the last check, in seconds.
        """
        now = clock.monotonic()
        if self._since is None or now - self._looked_at > longest or throttled != self._throttled:
            self._since = now
        self._looked_at, self._throttled = now, throttled
        self.seconds = now - self._since


async def _pass(question: "asyncio.Task[bool] | None", span: float) -> None:
    """Sleep for `span` seconds, or until the question is answered; an error is no answer."""
    began = clock.monotonic()
    if question is not None and not question.done():
        await asyncio.wait([question], timeout=span)
        if _is_answered(question):
            return
    await asyncio.sleep(max(0.0, span - (clock.monotonic() - began)))


def _is_answered(question: "asyncio.Task[bool]") -> bool:
    return question.done() and question.result()


def _name(epoch: Serving) -> str:
    return f"epoch {epoch.number} (pid {epoch.pid})"


def _describe(waiting: Mapping[ListenAddress, int]) -> str:
    """Return the clients waiting and their listeners as text, the longest queues first."""
    listeners: dict[str, int] = {}
    for place, length in waiting.items():
        listeners[place.address] = listeners.get(place.address, 0) + length
    longest = sorted(listeners, key=lambda address: -listeners[address])
    more = f" and {len(longest) - _SHOWN} more" if len(longest) > _SHOWN else ""
    clients = sum(listeners.values())
    who = "a client waits" if clients == 1 else f"{clients} clients wait"
    return f"{who} at {', '.join(longest[:_SHOWN])}{more}"
