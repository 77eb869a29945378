from pathlib import Path
from types import SimpleNamespace
from typing import cast

from prometheus_client.parser import text_string_to_metric_families

from agent.host.disk_thread import DiskThread
from agent.webhook.ca_bundle import authorities
from agent.webhook.registration import Registration
from agent.webhook.reviewer import Result
from agent.webhook.serving_pair import ServingPair
from agent.webhook.webhook_metrics import WebhookMetrics
from tests.pki import UNTIL, Authority
from tests.webhook.test_serving_pair import CA, opened, write


def without_files() -> ServingPair:
    """Return a pair that is never loaded."""
    return ServingPair(Path("/none"), [], cast("DiskThread", SimpleNamespace()))


def series(metrics: WebhookMetrics) -> dict[tuple[str, ...], float]:
    """Return the values by name and label values."""
    text = metrics.expose(openmetrics=False).decode()
    samples = (each for family in text_string_to_metric_families(text) for each in family.samples)
    return {(each.name, *each.labels.values()): each.value for each in samples}


def test_each_result_has_a_series_from_the_start() -> None:
    found = series(WebhookMetrics(without_files(), None))
    assert {*Result} == {"injected", "unchanged", "skipped", "refused", "failed"}
    for result in (*Result, "invalid"):
        assert found["proxy_agent_webhook_reviews_total", result] == 0
    assert found["proxy_agent_webhook_ready",] == 0
    assert not any(name[0].startswith("proxy_agent_certificate") for name in found)
    assert not any(name[0].startswith("proxy_agent_webhook_registrations") for name in found)


def test_reviews_are_counted_by_result_and_timed() -> None:
    metrics = WebhookMetrics(without_files(), None)
    metrics.reviewed(Result.REFUSED, 0.002)
    metrics.refused()
    found = series(metrics)
    assert found["proxy_agent_webhook_reviews_total", "refused"] == 1
    assert found["proxy_agent_webhook_reviews_total", "invalid"] == 1
    assert found["proxy_agent_webhook_review_duration_seconds_bucket", "0.001"] == 0
    assert found["proxy_agent_webhook_review_duration_seconds_bucket", "0.0025"] == 1


async def test_the_certificate_has_the_series_of_the_agents_own(tmp_path: Path) -> None:
    write(tmp_path, CA.issue(["webhook"]))
    async with opened(tmp_path) as pair:
        await pair.load()
        disk = cast("DiskThread", SimpleNamespace())
        registration = Registration("hook", tmp_path / "ca.crt", disk)
        registration.own = authorities("", Authority.create("ca").pem)
        found = series(WebhookMetrics(pair, registration))
    name = "proxy_agent_certificate_not_after_timestamp_seconds"
    for role, source in (("leaf", "served"), ("leaf", "disk"), ("authorities", "served")):
        assert found[name, role, "webhook", source] == UNTIL.timestamp()
    assert found["proxy_agent_certificate_in_sync", "webhook"] == 1
    assert found["proxy_agent_webhook_certificate_loads_total", "loaded"] == 1
    assert found["proxy_agent_webhook_registrations_total", "failed"] == 0
    assert found["proxy_agent_webhook_ready",] == 1
