"""Lists the agent's metrics, from a scrape of a registry with a sample status."""

from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from agent.certificates.findings import Fault
from agent.metrics.registry import Metrics
from agent.status.model import (
    AttemptView,
    Authorities,
    CertificateSet,
    EpochView,
    Facts,
    ListenerView,
    RejectedFile,
    Status,
)

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_OPEN = {
    "set": "the name of a certificate set",
    "address": "a listener's address, or `unix`",
    "version": "the agent's version",
    "python": "Python's version",
}
"""Labels whose values depend on the configuration or on the installation."""


@dataclass(frozen=True, slots=True)
class MetricName:
    """A metric as a scrape shows it. `labels`: for each label its values, or in words which values it has."""

    name: str
    kind: str
    help: str
    labels: dict[str, tuple[str, ...]]


def metric_names() -> list[MetricName]:
    """Return every metric in the order of a scrape."""
    text = Metrics(_status).expose(openmetrics=False).decode()
    return [_named(family) for family in text_string_to_metric_families(text)]


def _named(family: Metric) -> MetricName:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels: dict[str, dict[str, None]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label == "le":
                continue  # a histogram's own
            labels.setdefault(label, {})[_OPEN.get(label, f"`{value}`")] = None
    return MetricName(name, family.type, family.documentation, {label: tuple(each) for label, each in labels.items()})


def _status() -> Status:
    """Return a status that gives every metric a value."""
    leaf = Facts("CN=a", (), None, "CN=a", "1", "RSA 2048", _NOW, _NOW, "0")
    bundle = Authorities("/ca.pem", 1, _NOW)
    return Status(
        at=_NOW,
        version="0",
        pid=1,
        started_at=_NOW,
        ready=True,
        reason="",
        sentence="",
        epoch=1,
        epochs=(EpochView(1, "serving", "serving", "r", 1, _NOW, _NOW),),
        certificates=(CertificateSet("a", "/a.crt", "/a.key", leaf, leaf, (bundle,)),),
        refused=tuple(RejectedFile("/a.crt", fault.value, "", "a") for fault in Fault),
        listeners=(ListenerView("127.0.0.1:443", 1, 0),),
        rotations=(AttemptView(1, "start", "serving", "", _NOW, "r", None),),
    )
