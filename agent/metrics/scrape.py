"""Answers scrapes with one exposition for the agent, the epochs and the application.

All sources are requested concurrently, each with its own time and size limits; a source that exceeds them is omitted
and counted. Concurrent scrapes share one result, so many clients cost as much as one. The work is done in steps of a
few milliseconds, so that it does not delay the agent's other tasks.

Epochs that count in shared memory are read there (`agent.metrics.shared_counters`); any other epoch is scraped at its
admin interface, and a last time before it ends, so that its counts survive it.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from agent.core.errors import MachineError
from agent.host.log import log_event
from agent.host.run_directory import RunDirectory
from agent.http.client import kept_open
from agent.http.message import Request, Response
from agent.metrics.aggregate import SUMMED_GAUGES, aggregate, combined
from agent.metrics.application import Application
from agent.metrics.parser import Exposition, Family, Kind, is_openmetrics, parse
from agent.metrics.registry import PREFIX, Metrics, Source
from agent.metrics.totals import EpochTotals
from agent.metrics.writer import OPENMETRICS, TEXT, format_families, wants_openmetrics
from agent.stats.errors import InvalidSegment, Unpublished
from agent.stats.reader import Segment
from agent.stats.snapshot import Snapshot
from agent.stats.tags import extracted

LAST_LOOK = 1.0  # seconds that the final scrape of an epoch may take

_MEMORY = "lineage.json"
_STREAM_TIMEOUT = 10.0  # seconds, for a response that is forwarded as it arrives
_PROMPTLY = 0.01
_SHARE = 0.9  # of Prometheus's timeout, for the sources; the rest is for the agent
_NO_NAME = re.compile(r"[^a-zA-Z0-9_]")
_ACCEPT = {
    True: "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
    False: "text/plain;version=0.0.4",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of each source: time in seconds and size in bytes."""

    seconds: float = 2.0
    size: int = 16 << 20


class Console(Protocol):
    """The admin interface of an epoch."""

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Return its metrics; the method, the query and the Accept header of the request count."""
        ...


class Epoch(Protocol):
    """The part of an epoch process that scraping needs."""

    @property
    def number(self) -> int:
        """The epoch's number."""
        ...

    @property
    def has_served(self) -> bool:
        """Whether it has served: it is not a candidate."""
        ...

    @property
    def was_asked(self) -> bool:
        """Whether it was told to exit."""
        ...

    @property
    def was_killed(self) -> bool:
        """Whether the agent killed it."""
        ...

    @property
    def home(self) -> Path:
        """Its directory."""
        ...

    @property
    def admin(self) -> Console:
        """Its admin interface."""
        ...


@dataclass(frozen=True, slots=True)
class Epochs:
    """The epochs to scrape: all live ones, the serving number, and shared-memory statistics.

    `counted` returns the totals in shared memory; `gauges` returns one epoch's gauges there, as of the last call of
    `counted`.
    """

    all: Callable[[], Iterable[Epoch]]
    serving: Callable[[], int | None]
    counted: Callable[[], Snapshot]
    gauges: Callable[[int], Mapping[str, int]]


@dataclass(slots=True)
class _Round:
    """One scrape of all sources, shared by concurrent requests.

    `tasks` maps each request to what to call if it is late; `asking` counts the clients that wait for this scrape.
    """

    answered: set[int] = field(default_factory=set)
    application: Exposition | None = None
    tasks: dict[asyncio.Task[None], Callable[[], None]] = field(default_factory=dict)
    texts: dict[tuple[bool, int], asyncio.Task[bytes]] = field(default_factory=dict)
    short: set[Source] = field(default_factory=set)
    asking: int = 0

    @property
    def left(self) -> list[asyncio.Task[None]]:
        """The requests that have not finished."""
        return [task for task in self.tasks if not task.done()]


class Scraper:
    """Answers `/metrics` and `/stats/prometheus`.

    Without `merge` it only forwards the serving epoch's response as it arrives.
    """

    def __init__(
        self,
        metrics: Metrics,
        epochs: Epochs,
        directory: RunDirectory,
        application: Application | None = None,
        *,
        merge: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self._metrics = metrics
        self._epochs = epochs
        self._directory = directory
        self._application = application
        self._merges = merge
        self._limits = limits or Limits()
        self._totals = _recall(directory)
        self._sharing: set[int] = set()  # epochs that count in shared memory
        self._round = _Round()

    async def answer(self, request: Request) -> Response:
        """Answer one request.

        The query is forwarded to the epoch without `merge`, and ignored with it.
        """
        if request.method not in {"GET", "HEAD"}:
            return Response(405, b"method not allowed\n", (("allow", "GET, HEAD"),))
        if not self._merges:
            return await self._pass_on(request)
        headers = dict(request.headers)
        openmetrics = wants_openmetrics(headers.get("accept", ""))
        if not self._round.left:
            self._round = self._begin(openmetrics=openmetrics)
        body = await self._take_part(self._round, self._patience(headers), openmetrics=openmetrics)
        kind = OPENMETRICS if openmetrics else TEXT
        return Response(200, body, (("content-type", kind), ("vary", "accept"), ("cache-control", "no-cache")))

    async def _take_part(self, now: _Round, patience: float, *, openmetrics: bool) -> bytes:
        """Wait for the sources and return the text; the last client resets the round."""
        now.asking += 1
        try:
            if now.left:
                await asyncio.wait(now.left, timeout=patience)
            return await asyncio.shield(self._text(now, openmetrics=openmetrics))
        finally:
            now.asking -= 1
            if now is self._round and not now.asking and not now.left:
                self._round = _Round()

    async def final_scrape(self, epoch: Epoch) -> None:
        """Read the counters of an epoch that is about to end, within `LAST_LOOK` seconds.

        Does nothing for an epoch that counts in shared memory.
        """
        if self._merges and not self._shares(epoch):
            try:
                async with asyncio.timeout(LAST_LOOK):
                    await self._see(epoch)
            except (OSError, ValueError) as error:
                log_event(
                    logging.DEBUG, "metrics.unseen", f"the last counters of epoch {epoch.number} are unknown: {error}"
                )

    def retire(self, number: int) -> None:
        """Keep the counters of an epoch that has exited."""
        self._sharing.discard(number)
        if self._totals.retire(number):
            self.remember()

    def remember(self) -> None:
        """Save the totals in the run directory, for the next agent."""
        try:
            self._directory.remember(self._totals.to_state(), _MEMORY)
        except MachineError as error:
            log_event(logging.ERROR, "state.unwritable", f"{error}; a restarted agent loses these counters")

    async def close(self) -> None:
        """Save the totals and cancel all requests."""
        if self._totals.live:
            self.remember()
        tasks = [*self._round.tasks, *self._round.texts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Requesting

    def _begin(self, *, openmetrics: bool) -> _Round:
        """Start requests to all sources."""
        fresh = _Round()
        epochs = list(self._epochs.all())
        for number in set(self._totals.live) - {epoch.number for epoch in epochs}:
            self.retire(number)
        for epoch in epochs:
            if not self._shares(epoch):
                task = asyncio.create_task(self._ask_epoch(fresh, epoch), name=f"metrics of epoch {epoch.number}")
                fresh.tasks[task] = partial(self._fail, fresh, Source.EPOCH, epoch)
        if self._application is not None:
            asking = self._ask_application(fresh, self._application, openmetrics=openmetrics)
            task = asyncio.create_task(asking, name="metrics of the application")
            fresh.tasks[task] = partial(self._fail, fresh, Source.APPLICATION)
        fresh.tasks[asyncio.create_task(self._measure_lag(), name="lag")] = lambda: None
        return fresh

    def _shares(self, epoch: Epoch) -> bool:
        """Return whether an epoch counts in shared memory."""
        if epoch.number not in self._sharing:
            try:
                Segment.open(epoch.home / "stats").close()
            except (Unpublished, InvalidSegment):
                return False
            self._sharing.add(epoch.number)
            self._totals.forget(epoch.number)
        return True

    async def _ask_epoch(self, fresh: _Round, epoch: Epoch) -> None:
        try:
            async with asyncio.timeout(self._limits.seconds):
                exposition = await self._see(epoch)
        except (OSError, ValueError) as error:
            log_event(logging.DEBUG, "metrics.unavailable", f"cannot scrape epoch {epoch.number}: {error}")
            self._fail(fresh, Source.EPOCH, epoch)
            return
        fresh.answered.add(epoch.number)
        if exposition.broken:
            self._fail(fresh, Source.EPOCH, epoch)

    async def _see(self, epoch: Epoch) -> Exposition:
        request = Request("GET", "/", (("accept", _ACCEPT[False]),))
        async with epoch.admin.exposition(request) as response:
            exposition = await self._read(response)
        self._totals.see(epoch.number, exposition)
        return exposition

    async def _ask_application(self, fresh: _Round, application: Application, *, openmetrics: bool) -> None:
        patience = ("x-prometheus-scrape-timeout-seconds", str(self._limits.seconds))
        try:
            async with asyncio.timeout(self._limits.seconds):
                async with application.ask((("accept", _ACCEPT[openmetrics]), patience)) as response:
                    fresh.application = await self._read(response)
        except (OSError, ValueError) as error:
            log_event(logging.DEBUG, "metrics.unavailable", f"cannot scrape the application: {error}")
            self._fail(fresh, Source.APPLICATION)
            return
        if fresh.application.broken:
            self._fail(fresh, Source.APPLICATION)

    async def _read(self, response: Response) -> Exposition:
        """Read a response; raise ValueError if it is not a 200 or is too long."""
        if response.status != 200:
            message = f"the answer is {response.status}"
            raise ValueError(message)
        assert not isinstance(response.body, bytes)
        parts, size = [], 0
        async for part in response.body:
            parts.append(part)
            if (size := size + len(part)) > self._limits.size:
                message = f"the answer is longer than {self._limits.size} bytes"
                raise ValueError(message)
        exposition = Exposition()
        kind = dict(response.headers).get("content-type", "")
        await _gently(parse(exposition, b"".join(parts), openmetrics=is_openmetrics(kind)))
        for name in [name for name in exposition.families if name.startswith(f"{PREFIX}_")]:
            del exposition.families[name]  # the prefix is reserved for the agent's own metrics
            exposition.broken += 1
        return exposition

    async def _measure_lag(self) -> None:
        """Measure how late the event loop runs."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _PROMPTLY
        await asyncio.sleep(_PROMPTLY)
        self._metrics.lagged(max(0.0, loop.time() - due))

    def _fail(self, now: _Round, source: Source, epoch: Epoch | None = None) -> None:
        """Count an omitted source, once in a round.

        Epochs that are excused do not count.
        """
        if (epoch is None or not _is_excused(epoch)) and source not in now.short:
            now.short.add(source)
            self._metrics.scrape_failed(source)

    def _patience(self, headers: dict[str, str]) -> float:
        """Return the sources' time limit: at most 90 % of the scrape timeout Prometheus sends."""
        try:
            told = float(headers.get("x-prometheus-scrape-timeout-seconds", "")) * _SHARE
        except ValueError:
            return self._limits.seconds
        return min(self._limits.seconds, told) if told > 0 else self._limits.seconds

    # Writing

    def _text(self, now: _Round, *, openmetrics: bool) -> asyncio.Task[bytes]:
        """Return the task that writes the answers received so far, shared by concurrent scrapes."""
        key = openmetrics, len(now.left)
        if key not in now.texts:
            now.texts[key] = asyncio.create_task(self._write(now, openmetrics=openmetrics), name="metrics")
        return now.texts[key]

    async def _write(self, now: _Round, *, openmetrics: bool) -> bytes:
        for task in now.left:
            now.tasks[task]()
        sums = Exposition()
        snapshot, serving = self._epochs.counted(), self._epochs.serving()
        counted = exposition_of(snapshot, {} if serving is None else self._epochs.gauges(serving))
        await _gently(aggregate(sums, self._totals.parts(serving, now.answered, counted)))
        own = Exposition({family.name: family for family in self._metrics.families()})
        sources = [("agent", own), (Source.EPOCH, sums)]
        if now.application is not None:
            sources.append((Source.APPLICATION, now.application))
        families, short = combined(sources)
        for source in short:
            self._fail(now, Source(source))
        parts: list[bytes] = []
        for part in format_families(families, openmetrics=openmetrics):
            parts.append(part)
            await asyncio.sleep(0)
        return b"".join(parts)

    async def _pass_on(self, request: Request) -> Response:
        """Forward the serving epoch's response unchanged."""
        serving = self._epochs.serving()
        epoch = next((each for each in self._epochs.all() if each.number == serving), None)
        if epoch is None:
            return Response(503, b"no epoch serves\n")
        accept = tuple(pair for pair in request.headers if pair[0] == "accept")
        asked = Request(request.method, request.target, accept)
        try:
            async with asyncio.timeout(self._limits.seconds):
                response = await kept_open(epoch.admin.exposition(asked))
        except OSError as error:
            if not _is_excused(epoch):
                self._metrics.scrape_failed(Source.EPOCH)
            return Response(503, f"the serving epoch does not answer: {error}\n".encode())
        assert not isinstance(response.body, bytes)
        return Response(response.status, _in_time(response.body), response.headers)


def _is_excused(epoch: Epoch) -> bool:
    """Whether its admin interface may be missing: it is a candidate, or was told to exit or killed."""
    return not epoch.has_served or epoch.was_asked or epoch.was_killed


async def _in_time(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with asyncio.timeout(_STREAM_TIMEOUT):
        async for part in body:
            yield part


async def _gently(steps: Iterator[None]) -> None:
    """Run the steps, yielding to the event loop between them."""
    for _ in steps:
        await asyncio.sleep(0)


def exposition_of(snapshot: Snapshot, serving: Mapping[str, int]) -> Exposition:
    """Return shared-memory statistics under the names of Envoy's Prometheus endpoint.

    Gauges are those of the serving epoch (`serving`), where it has them, except for `SUMMED_GAUGES`.
    """
    exposition = Exposition()
    for kind, values in ((Kind.COUNTER, snapshot.counters), (Kind.GAUGE, snapshot.gauges)):
        for statistic, value in values.items():
            bare, labels = extracted(statistic)
            name = f"envoy_{_NO_NAME.sub('_', bare)}"
            family = exposition.families.setdefault(name, Family(name, kind))
            leads = kind is Kind.GAUGE and not SUMMED_GAUGES.search(name)
            family.samples[f"{name}{{{labels}}}"] = serving.get(statistic, value) if leads else value
    return exposition


def _recall(directory: RunDirectory) -> EpochTotals:
    state = directory.recall(_MEMORY)
    if not state:
        return EpochTotals()
    try:
        return EpochTotals.from_state(state)
    except ValueError as error:
        log_event(logging.WARNING, "stats.forgotten", f"{error}; counters start at 0")
        return EpochTotals()
