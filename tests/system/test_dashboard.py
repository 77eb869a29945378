"""The panels of the dashboard and the alert rules, with the exposition of a real agent."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import agent
from docs.generator.dashboard import panels
from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import PATIENCE, eventually
from tests.system.layouts import CHAIN
from tests.system.proxies import Console
from tests.system.room import Room, kill
from tests.system.status_pollers import ask

RULES = Path(agent.__file__).parents[1] / "examples" / "prometheus" / "rules.yaml"
SELECTOR = re.compile(r"\b((?:proxy_agent|process)_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"')
TARGET = {"job", "instance"}  # labels that Prometheus adds
OTHERWISE_NAMED = "proxy_agent_process_"  # only beside an application's metrics

Series = list[tuple[str, dict[str, str]]]


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Return the metrics of an expression, each with its matchers on labels of the agent."""
    for name, inside in SELECTOR.findall(expression):
        if not name.startswith(OTHERWISE_NAMED):
            yield name, [each for each in MATCHER.findall(inside) if each[0] not in TARGET]


def matches(labels: dict[str, str], matchers: list[tuple[str, str, str]]) -> bool:
    """Return whether a series has the labels that the matchers name, with a value that they accept."""
    accepts = {"=": lambda one, other: one == other, "!=": lambda one, other: one != other}
    accepts["=~"] = lambda one, other: re.fullmatch(other, one) is not None
    return all(label in labels and accepts[sign](labels[label], value) for label, sign, value in matchers)


def exposed(instance: AgentFixture) -> Series:
    """Scrape all series."""
    families = text_string_to_metric_families(ask(instance, "/metrics").text)
    return [(sample.name, sample.labels) for family in families for sample in family.samples]


def without_series(expressions: list[str], series: Series) -> list[str]:
    """Return the selectors that select nothing."""
    return [
        f"{name}{matchers}"
        for expression in expressions
        for name, matchers in selectors(expression)
        if not any(name == one and matches(labels, matchers) for one, labels in series)
    ]


def rotate_and_crash(instance: AgentFixture) -> None:
    """Have a rotation that ends with its drain, and a crash that is answered."""
    instance.rotate()
    instance.served()
    instance.settled()
    before = instance.serving()
    kill(before.pid)
    eventually(lambda: instance.serving().number > before.number, what="the next epoch serves")
    instance.ready()


@pytest.mark.sidecar
def test_every_selector_of_a_panel_and_of_a_rule_selects_a_series(instance: AgentFixture) -> None:
    rotate_and_crash(instance)
    series = exposed(instance)
    shown = [expression for panel in panels() for expression in panel.queries.values()]
    assert without_series(shown, series) == []
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert without_series([rule["expr"] for rule in rules], series) == []
    (instance.certs / CHAIN).write_bytes(b"garbage")
    refused = ("proxy_agent_files_refused", {"set": "tls", "reason": "unparsable"})
    eventually(lambda: refused in exposed(instance), what="the file is refused")


def test_a_selector_without_a_series_is_found() -> None:
    series = [("proxy_agent_epochs", {"state": "serving"}), ("proxy_agent_ready", {})]
    found = ['sum(proxy_agent_epochs{job=~"j", state="serving"})', "proxy_agent_ready == 0"]
    assert without_series(found, series) == []
    lost = [
        'proxy_agent_epochs{state="served"}',
        'proxy_agent_ready{reason="x"}',
        "rate(proxy_agent_hold_seconds_total[1m])",
    ]
    assert len(without_series(lost, series)) == len(lost)


class Prometheus:
    """A Prometheus that scrapes the agent twice a second and evaluates the alert rules."""

    def __init__(self, room: Room, instance: AgentFixture) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("there is no prometheus here: apt install prometheus")
        self._instance, directory, port = instance, instance.directory, room.port()
        targets = [{"targets": [f"127.0.0.1:{instance.status.port}"]}]
        file = directory / "prometheus.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [{"job_name": "agents", "static_configs": targets}],
                }
            )
        )
        data, listen = f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address=127.0.0.1:{port}"
        self.process = room.spawn([program, f"--config.file={file}", data, listen], log=directory / "prometheus.log")
        self._console = Console(port)

    def ask(self, path: str) -> Any:  # noqa: ANN401  # JSON
        """Return the data of an answer of its API."""
        reply = self._console.ask(f"/api/v1/{path}")
        assert reply.status == 200, reply.text
        return json.loads(reply.text)["data"]

    def values(self, expression: str) -> list[float]:
        """Evaluate an expression of the dashboard now; values that are no number are left out."""
        chosen = {"$__rate_interval": "1m", "$__range": "1m", "$job": "agents", "$instance": ".*"}
        for variable, value in chosen.items():
            expression = expression.replace(variable, value)
        found = [float(each["value"][1]) for each in self.ask(f"query?query={quote(expression)}")["result"]]
        return [value for value in found if not math.isnan(value)]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire; AssertionError if a rule cannot be evaluated."""
        (group,) = self.ask("rules")["groups"]
        assert [rule for rule in group["rules"] if rule["health"] == "err"] == []
        return {rule["name"] for rule in group["rules"] if rule["state"] == "firing"}

    def scrapes(self) -> bool:
        """Return whether it has scraped the agent."""
        try:
            return self.values("proxy_agent_ready") == [1.0]
        except OSError:
            return False

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)


@pytest.mark.long
@pytest.mark.sidecar
def test_no_panel_is_empty_in_a_real_prometheus(instance: AgentFixture, room: Room) -> None:
    prometheus = Prometheus(room, instance)
    try:
        eventually(prometheus.scrapes, what="the agent is scraped", every=0.2)
        rotate_and_crash(instance)
        for panel in panels():
            for legend, expression in panel.queries.items():
                eventually(lambda e=expression: prometheus.values(e), what=f"{panel.title}: {legend}", every=0.2)  # type: ignore[misc]
        (crashes,) = (panel for panel in panels() if panel.title == "Crashes")
        eventually(
            lambda: sum(prometheus.values(*crashes.queries.values())) >= 1, what="the crash is counted", every=0.2
        )
        eventually(lambda: prometheus.firing() == {"ProxyCrashed"}, what="one alert fires", every=0.2)
    finally:
        prometheus.stop()
