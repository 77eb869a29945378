"""The webhook's HTTP requests: reviews, health and metrics."""

import asyncio
import logging

from agent.core.errors import BadInput
from agent.host import clock
from agent.host.log import log_event
from agent.host.offload import offload
from agent.http.message import Headers, Request, Response
from agent.metrics.writer import OPENMETRICS, TEXT, wants_openmetrics
from agent.status.health import Health
from agent.webhook.reviewer import Outcome, Result, Reviewer
from agent.webhook.webhook_metrics import WebhookMetrics

REVIEWS = "/inject"
_JSON = "application/json"
_MUCH = 32 << 10  # bytes of a review that would block other clients for too long
_PLAIN = ("content-type", "text/plain; charset=utf-8")


class Routes:
    """Answers requests. `is_stopping`: each response asks its client to connect elsewhere."""

    def __init__(self, reviewer: Reviewer, metrics: WebhookMetrics, health: Health) -> None:
        self.is_stopping = False
        self._reviewer = reviewer
        self._metrics = metrics
        self._health = health
        self._large = asyncio.Lock()  # one large review at a time: parsed, it takes many times its size

    async def answer(self, request: Request) -> Response:
        """Answer a request over TLS."""
        response = await (self._review(request) if request.path == REVIEWS else self.answer_plain(request))
        if not self.is_stopping:
            return response
        return Response(response.status, response.body, (*response.headers, ("connection", "close")))

    async def answer_plain(self, request: Request) -> Response:
        """Answer a request without TLS: of the kubelet, or a scrape."""
        if request.path != "/metrics":
            return await self._health.answer(request)
        if request.method not in {"GET", "HEAD"}:
            return _refusal(405, "method not allowed", ("allow", "GET, HEAD"))
        openmetrics = wants_openmetrics(_header(request, "accept"))
        headers: Headers = (("content-type", OPENMETRICS if openmetrics else TEXT),)
        return Response(200, self._metrics.expose(openmetrics=openmetrics), headers)

    async def _review(self, request: Request) -> Response:
        begun = clock.monotonic()
        if request.method != "POST":
            return self._refused(405, "method not allowed", ("allow", "POST"))
        if _header(request, "content-type").partition(";")[0].strip().lower() != _JSON:
            return self._refused(415, f"send {_JSON}")
        try:
            outcome = await self._outcome(request.body)
        except BadInput as error:
            log_event(logging.WARNING, "webhook.invalid", str(error))
            return self._refused(400, str(error))
        _log(outcome)
        self._metrics.reviewed(outcome.result, clock.monotonic() - begun)
        return Response(200, outcome.body, (("content-type", _JSON),))

    async def _outcome(self, body: bytes) -> Outcome:
        if len(body) < _MUCH:
            return self._reviewer.answer(body)
        async with self._large:
            return await offload(len(body), self._reviewer.answer, body)

    def _refused(self, status: int, text: str, *headers: tuple[str, str]) -> Response:
        self._metrics.refused()
        return _refusal(status, text, *headers)


def _log(outcome: Outcome) -> None:
    text = outcome.text
    if outcome.result is Result.FAILED:
        log_event(logging.ERROR, "webhook.failed", f"a review failed: {text}", error=outcome.error)
    elif outcome.result is Result.REFUSED:
        log_event(logging.WARNING, "webhook.refused", text)
    elif text:
        log_event(logging.INFO, "webhook.review", f"reviewed, {outcome.result}: {text}")


def _refusal(status: int, text: str, *headers: tuple[str, str]) -> Response:
    return Response(status, f"{text}\n".encode(), (_PLAIN, *headers))


def _header(request: Request, name: str) -> str:
    return next((value for each, value in request.headers if each == name), "")
