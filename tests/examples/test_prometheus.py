"""The examples for Prometheus: promtool accepts them, and every metric in them is one of the agent's."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import agent
from agent.metrics.registry import Metrics
from docs.generator.metric_names import metric_names
from tests.status.sample import overview
from tests.system.eventually import PATIENCE

DIRECTORY = Path(agent.__file__).parents[1] / "examples" / "prometheus"
RULES = DIRECTORY / "rules.yaml"

OF_THE_TARGET = {"instance", "job", "namespace", "pod"}

Json = dict[str, Any]


def promtool(*arguments: str, told: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run promtool in the directory of the examples."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool here: it comes with Prometheus (apt install prometheus)")
    return subprocess.run(
        [program, *arguments], input=told, cwd=DIRECTORY, capture_output=True, check=False, timeout=PATIENCE
    )


def rules() -> list[Json]:
    """The alert rules."""
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[Json] = group["rules"]
    return found


def exposed(*, openmetrics: bool = False) -> bytes:
    """Return the metrics that an agent exposes."""
    return Metrics(overview).expose(openmetrics=openmetrics)


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yaml"), ("check", "rules", "rules.yaml"), ("test", "rules", "rules_test.yaml")],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    checked = promtool(*arguments)
    assert checked.returncode == 0, checked.stderr.decode() + checked.stdout.decode()


@pytest.mark.long
@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("proxy_agent_ready == 0", "proxy_agent_ready == 2"),
        ("[15m])) > 2", "[15m])) > 4"),
        ("without (state, cause)", "by (instance, job)"),
        ("14 * 86400", "12 * 86400"),
        ("14 * 86400", "16 * 86400"),
        ("2 * 86400", "1 * 86400"),
        ("/ 5)", "/ 1)"),
        ("/ 20)", "/ 2)"),
        ("unless ignoring (source)", "and ignoring (source)"),
        ("> 3600", "> 7200"),
        ("paused|window|jitter", "paused|jitter"),
    ],
)
def test_promtool_finds_a_wrong_rule(tmp_path: Path, correct: str, wrong: str) -> None:
    shutil.copy(DIRECTORY / "rules_test.yaml", tmp_path)
    text = RULES.read_text(encoding="utf-8")
    assert correct in text
    (tmp_path / "rules.yaml").write_text(text.replace(correct, wrong), encoding="utf-8")
    assert promtool("test", "rules", str(tmp_path / "rules_test.yaml")).returncode != 0


def test_promtool_has_nothing_to_say_about_the_agents_metrics() -> None:
    checked = promtool("check", "metrics", told=exposed())
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_rules_are_about_metrics_that_there_are() -> None:
    known = set(re.findall(r"^([a-z_]+)", exposed().decode(), re.MULTILINE))
    named = {name for rule in rules() for name in re.findall(r"proxy_agent_[a-z_]+", str(rule))}
    assert named
    assert named <= known, named - known


def test_the_series_of_the_tests_are_series_of_an_agent() -> None:
    definitions = {metric.name: metric.labels for metric in metric_names()}
    tests = yaml.safe_load((DIRECTORY / "rules_test.yaml").read_text(encoding="utf-8"))["tests"]
    series = [each["series"] for test in tests for each in test["input_series"]]
    assert len(series) > 50
    for each in series:
        name = each.partition("{")[0]
        labels = dict(re.findall(r'(\w+)="([^"]*)"', each))
        own = {label: value for label, value in labels.items() if label not in OF_THE_TARGET}
        assert own.keys() == definitions[name].keys(), each
        for label, value in own.items():
            assert label == "set" or f"`{value}`" in definitions[name][label], each


def test_every_alert_is_fired_in_a_test_and_says_what_to_do() -> None:
    tests = (DIRECTORY / "rules_test.yaml").read_text(encoding="utf-8")
    for rule in rules():
        assert re.search(rf"alertname(: |=\"){rule['alert']}\b", tests), rule["alert"]
        assert rule["labels"]["severity"] in {"page", "ticket", "info"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["description"].endswith(".")


def test_kubernetes_is_scraped_where_its_examples_answer() -> None:
    (job,) = yaml.safe_load((DIRECTORY / "kubernetes.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    (keep,) = (each for each in job["relabel_configs"] if each.get("action") == "keep")
    for example in (DIRECTORY.parent / "kubernetes").glob("*.yaml"):
        assert f"- name: {keep['regex']}\n" in example.read_text(encoding="utf-8")
