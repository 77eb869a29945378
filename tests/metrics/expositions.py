"""Metrics in text, as the tests write and compare them."""

import math

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from agent.metrics.parser import Exposition, read
from agent.metrics.registry import PREFIX, Metrics
from agent.metrics.writer import format_families

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def text_of(exposition: Exposition, *, openmetrics: bool = False) -> str:
    """Write it all."""
    return b"".join(format_families(exposition.families.values(), openmetrics=openmetrics)).decode()


def as_read_by_prometheus(text: str, *, openmetrics: bool = False) -> Values:
    """Read with the library of Prometheus, which raises where a text is not valid; times of creation left out."""
    families = openmetrics_families(text) if openmetrics else text_families(text)  # type: ignore[no-untyped-call]
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples if not s.name.endswith("_created")}


def own_values(metrics: Metrics) -> Values:
    """Read the agent's own metrics, by their names without the prefix."""
    values = as_read_by_prometheus(metrics.expose(openmetrics=False).decode())
    return {(name.removeprefix(f"{PREFIX}_"), labels): value for (name, labels), value in values.items()}


def of(*lines: str, openmetrics: bool = False) -> Exposition:
    """Read lines."""
    return read("".join(f"{line}\n" for line in lines).encode(), openmetrics=openmetrics)


def same(one: Values, other: Values) -> bool:
    """Compare values, of which some may be no numbers."""
    nan = {key for key in one if math.isnan(one[key])}
    rest = one.keys() - nan
    return (
        one.keys() == other.keys()
        and all(math.isnan(other[key]) for key in nan)
        and all(one[key] == other[key] for key in rest)
    )


def histogram(buckets: dict[str, int], labels: str = "") -> list[str]:
    """A histogram's lines."""
    lines = [f'h_bucket{{{labels}le="{bound}"}} {count}' for bound, count in buckets.items()]
    rest = labels.rstrip(",")
    return ["# TYPE h histogram", *lines, f"h_sum{{{rest}}} 1.5", f"h_count{{{rest}}} {buckets['+Inf']}"]
