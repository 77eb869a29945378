"""Sends the log's warnings as Kubernetes events of the pod, for `kubectl describe pod`.

Events with the same text are one event (core/v1): it is created once and its count raised after that, so a recurring
fault is one line. Warnings that still hold are sent again before the cluster expires them, by default after an hour;
failed ones are retried. As in Kubernetes' own clients, a burst of 25 is allowed, then one event every five minutes.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from agent.core.errors import MachineError
from agent.host import clock
from agent.host.log import LogEvent, log_event, subscribe
from agent.host.service_account import Pod, ServiceAccount
from agent.host.tasks import Tasks
from agent.http.client import stream
from agent.http.message import Request

AGAIN = 1800.0  # seconds until a warning that still holds is sent again
AT_ONCE, SOON, LATER = 0.1, 30.0, 120.0  # seconds until a retry: while sending works, and while it fails
_TIMEOUT = 10.0  # seconds, for one request
_LAST_WORDS = 1.0  # seconds that `close` waits for queued events
_BURST, _REFILL = 25, 300.0  # burst size, and seconds until one more is allowed
_WAITING = 100  # queue length; further events are dropped
_KNOWN = 100  # events whose counts are remembered
_TEXT_LIMIT = 1024  # characters
_GOOD_NEWS = frozenset({"certificate.repaired", "service.answers"})
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT = 401, 403, 404, 409  # RFC 9110; http.HTTPStatus takes 0.1 MB
_TOO_MANY_REQUESTS, _INTERNAL_SERVER_ERROR = 429, 500
_OWN = "events."  # prefix of this module's own log events, which are not sent


@dataclass(frozen=True, slots=True)
class PodEvent:
    """An event to send. `name` is that of the log event, such as `certificate.refused`."""

    name: str
    text: str
    warns: bool

    @classmethod
    def of(cls, event: LogEvent) -> "PodEvent | None":
        """Return the event to send for a log event, if any."""
        warns = event.level >= logging.WARNING
        if event.name.startswith(_OWN) or not (warns or event.name in _GOOD_NEWS):
            return None
        return cls(event.name, event.text[:_TEXT_LIMIT], warns)

    @property
    def reason(self) -> str:
        """The name in Kubernetes' style: CertificateRefused."""
        return "".join(word.capitalize() for word in self.name.replace("_", ".").split("."))

    def key(self, pod: Pod) -> str:
        """Return the event object's name; it differs for another pod of the same name."""
        digest = hashlib.sha256(repr((pod.uid, self.reason, self.text)).encode()).hexdigest()
        return f"{pod.name[:200]}.{digest[:16]}"

    def event(self, pod: Pod, at: datetime) -> dict[str, object]:
        """Return the event object for a first occurrence."""
        involved = {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": self.key(pod), "namespace": pod.namespace},
            "involvedObject": involved,
            "type": "Warning" if self.warns else "Normal",
            "reason": self.reason,
            "message": self.text,
            "source": {"component": "proxy-agent"},
            "reportingComponent": "proxy-agent",
            "reportingInstance": pod.name,
            "firstTimestamp": _stamp(at),
            "lastTimestamp": _stamp(at),
            "count": 1,
        }


class KubernetesEvents:
    """Sends events one by one while it is open. `standing` returns the messages that still hold."""

    def __init__(self, standing: Callable[[], Collection[str]]) -> None:
        self._standing = standing
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._news: asyncio.Queue[PodEvent] = asyncio.Queue(_WAITING)
        self._counts: dict[PodEvent, int] = {}  # how often each was sent; 0: not yet
        self._tokens, self._filled_at = float(_BURST), clock.monotonic()
        self._works = True
        self._cut = False
        self._patience = AT_ONCE
        self._subscription = contextlib.ExitStack()

    def begin(self, find: Callable[[], ServiceAccount] = ServiceAccount.find) -> None:
        """Subscribe to the log; log a warning if there is no cluster to send to."""
        try:
            account = find()
        except MachineError as error:
            log_event(logging.WARNING, "events.unavailable", f"{error}; no Kubernetes events are sent, see the log")
            return
        self._subscription.enter_context(subscribe(self._receive))
        self._tasks.spawn(self._turn(account), "events")

    async def close(self) -> None:
        """Unsubscribe, and send the queued events if that is quick."""
        self._subscription.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._news.join()
        await self._tasks.close()

    def _receive(self, event: LogEvent) -> None:
        """Queue an event from any thread."""
        if (news := PodEvent.of(event)) is not None:
            self._loop.call_soon_threadsafe(self._put, news)

    def _put(self, news: PodEvent) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._news.put_nowait(news)

    async def _turn(self, account: ServiceAccount) -> None:
        remind_at = self._loop.time() + AGAIN
        while True:
            untold = 0 in self._counts.values()
            wake_at = min(remind_at, self._loop.time() + self._patience) if untold else remind_at
            try:
                async with asyncio.timeout_at(wake_at):
                    news = await self._news.get()
            except TimeoutError:
                if wake_at == remind_at:
                    remind_at += AGAIN
                    self._remind()
                else:
                    self._try_again()
                continue
            try:
                await self._take(account, news)
            finally:
                self._news.task_done()

    def _remind(self) -> None:
        """Queue again the warnings that still hold."""
        standing = self._standing()
        for news in [news for news in self._counts if any(text in news.text for text in standing)]:
            self._put(news)

    def _try_again(self) -> None:
        """Retry the newest unsent event; the others follow once one succeeds."""
        self._put(next(news for news, count in reversed(self._counts.items()) if not count))

    async def _take(self, account: ServiceAccount, news: PodEvent) -> None:
        if self._may_tell():
            await self._tell(account, news)
            return
        self._put_off(news)
        if not self._cut:
            log_event(logging.WARNING, "events.cut", f"{_BURST} events were sent at once: the others follow slowly")
        self._cut = True

    def _may_tell(self) -> bool:
        now = clock.monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._filled_at) / _REFILL)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self._cut = self._cut and self._tokens < 1
        return True

    async def _tell(self, account: ServiceAccount, news: PodEvent) -> None:
        """Create or count up the event; log only the first failure in a row."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(OSError),
            wait=wait_exponential(max=60),
            stop=stop_after_attempt(5),
            reraise=True,
        )
        try:
            await attempts(self._send, account, news)
        except (OSError, MachineError, ValueError) as error:  # ValueError: an invalid host name
            if self._works:
                why = str(error) or f"{account.authority} does not answer"
                log_event(logging.WARNING, "events.untold", f"cannot send Kubernetes events: {why}; see the log")
            self._works = False
            self._tokens += 1  # the server counted nothing; the retry interval grows instead
            self._put_off(news)
        else:
            self._works, self._patience = True, AT_ONCE
            self._note(news, self._counts.get(news, 0) + 1)

    def _put_off(self, news: PodEvent) -> None:
        """Mark the event as unsent, and double the retry interval up to `LATER`."""
        self._note(news, 0)
        self._patience = min(max(SOON, 2 * self._patience), LATER)

    def _note(self, news: PodEvent, count: int) -> None:
        """Store how often an event was sent; forget the oldest beyond `_KNOWN`."""
        self._counts.pop(news, None)
        self._counts[news] = count
        if len(self._counts) > _KNOWN:
            del self._counts[next(iter(self._counts))]

    async def _send(self, account: ServiceAccount, news: PodEvent) -> None:
        """Send one event. Raises `OSError` if a retry may help, `MachineError` if not."""
        known = bool(self._counts.get(news))
        status = await self._count_up(account, news) if known else _NOT_FOUND
        if status == _NOT_FOUND:  # the event expired or was never created
            self._note(news, 0)
            status = await _ask(account, "POST", "", news.event(account.pod, clock.calendar()))
        if status == _CONFLICT:  # an earlier agent created it
            status = await self._count_up(account, news)
        if status not in range(200, 300):
            raise _failure(status, account)

    async def _count_up(self, account: ServiceAccount, news: PodEvent) -> int:
        change: dict[str, object] = {"lastTimestamp": _stamp(clock.calendar())}
        if count := self._counts.get(news):
            change["count"] = count + 1
        return await _ask(account, "PATCH", f"/{news.key(account.pod)}", change)


async def _ask(account: ServiceAccount, method: str, path: str, body: Mapping[str, object]) -> int:
    """Send one request about events in the pod's namespace; return the status code."""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    headers = (("authorization", f"Bearer {account.token}"), ("content-type", kind), ("accept", "application/json"))
    target = f"/api/v1/namespaces/{account.pod.namespace}/events{path}"
    request = Request(method, target, headers, json.dumps(body).encode())
    async with asyncio.timeout(_TIMEOUT):
        async with stream((account.host, account.port), request, account.authority, account.trust()) as response:
            return response.status


def _failure(status: int, account: ServiceAccount) -> Exception:
    """Return the exception for a status code other than success."""
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        where = f"namespace {account.pod.namespace}"
        return MachineError(f"it answers {status}; let the pod's service account create and patch events in {where}")
    if status == _TOO_MANY_REQUESTS or status >= _INTERNAL_SERVER_ERROR:
        return ConnectionError(f"it answers {status}")
    return MachineError(f"it answers {status}")


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
