import logging

import pytest

from agent.http.message import Request
from agent.injection import planning
from agent.injection.options import InjectionOptions
from agent.status.health import Health
from agent.webhook.reviewer import Reviewer
from agent.webhook.routes import Routes
from agent.webhook.webhook_metrics import WebhookMetrics
from tests.webhook.reviews import pod, response, review
from tests.webhook.test_webhook_metrics import without_files

JSON = (("content-type", "application/json"),)


@pytest.fixture
def routes() -> Routes:
    return made()


def made(*, denies: bool = True, reason: str = "") -> Routes:
    metrics = WebhookMetrics(without_files(), None)
    return Routes(Reviewer(InjectionOptions(), denies=denies), metrics, Health(lambda: reason))


def post(body: bytes, *headers: tuple[str, str]) -> Request:
    return Request("POST", "/inject?timeout=5s", headers or JSON, body)


async def counted(routes: Routes, result: str) -> int:
    """Return how many reviews had this result, as a scrape shows it."""
    answer = await routes.answer_plain(Request("GET", "/metrics"))
    assert isinstance(answer.body, bytes)
    start = f'proxy_agent_webhook_reviews_total{{result="{result}"}} '
    return next(int(float(row[len(start) :])) for row in answer.body.decode().splitlines() if row.startswith(start))


async def test_a_review_is_answered_as_json(routes: Routes) -> None:
    answer = await routes.answer(post(review()))
    assert (answer.status, answer.headers) == (200, JSON)
    assert isinstance(answer.body, bytes)
    assert response(answer.body)["allowed"] is True
    assert await counted(routes, "injected") == 1


async def test_a_large_review_gets_the_same_response(routes: Routes) -> None:
    document = pod(metadata={"annotations": {"a": "x" * (200 << 10)}})
    large, small = await routes.answer(post(review(document))), await routes.answer(post(review()))
    assert isinstance(large.body, bytes)
    assert response(large.body)["allowed"] is True
    assert large.status == small.status == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request("GET", "/inject"), 405),
        (Request("POST", "/inject", (), review()), 415),
        (post(review(), ("content-type", "text/json")), 415),
        (post(b"{"), 400),
    ],
)
async def test_what_is_no_review_is_refused_and_counted(request_: Request, status: int, routes: Routes) -> None:
    assert (await routes.answer(request_)).status == status
    assert await counted(routes, "invalid") == 1


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
async def test_a_content_type_may_have_parameters(kind: str, routes: Routes) -> None:
    assert (await routes.answer(post(review(), ("content-type", kind)))).status == 200


async def test_reviews_are_answered_over_tls_alone(routes: Routes) -> None:
    assert (await routes.answer_plain(post(review()))).status == 405
    assert (await routes.answer_plain(Request("GET", "/inject"))).status == 404


async def test_health_is_known_at_both_ports() -> None:
    routes = made(reason="waiting")
    for answer in (routes.answer, routes.answer_plain):
        assert (await answer(Request("GET", "/healthz/ready"))).status == 503
        assert (await answer(Request("GET", "/healthz/live"))).status == 200


async def test_metrics_are_written_in_the_format_that_is_asked_for(routes: Routes) -> None:
    accept = ("accept", "application/openmetrics-text;version=1.0.0")
    answer = await routes.answer_plain(Request("GET", "/metrics", (accept,)))
    assert isinstance(answer.body, bytes)
    assert answer.body.endswith(b"# EOF\n")
    assert (await routes.answer_plain(Request("POST", "/metrics"))).status == 405


async def test_at_the_end_clients_are_sent_elsewhere(routes: Routes) -> None:
    routes.is_stopping = True
    answer = await routes.answer(post(review()))
    assert (answer.status, answer.headers[-1]) == (200, ("connection", "close"))


async def test_what_is_refused_or_skipped_is_logged_by_its_pod(
    routes: Routes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await routes.answer(post(review(pod(spec={"securityContext": {"runAsUser": 1337}}))))
    await routes.answer(post(review(pod(spec={"hostNetwork": True}))))
    refused, skipped = caplog.records
    assert (refused.levelno, skipped.levelno) == (logging.WARNING, logging.INFO)
    assert refused.getMessage().startswith("cannot change Pod shop/web-7d4-*")
    assert skipped.getMessage().startswith("reviewed, skipped: Pod shop/web-7d4-* is not injected")


async def test_a_bug_is_logged_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(planning, "inject", lambda *_, **__: 1 / 0)
    answer = await made(denies=False).answer(post(review()))
    assert isinstance(answer.body, bytes)
    assert response(answer.body)["allowed"] is True
    assert "ZeroDivisionError" in caplog.text
