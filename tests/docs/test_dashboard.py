import json
from pathlib import Path

import pytest
import yaml

from docs.generator.dashboard import WITHOUT_PANEL, Panel, dashboard, panels, select
from docs.generator.metric_names import metric_names
from tests.examples.test_prometheus import promtool

MODEL = json.loads(dashboard())
SHOWN = [panel for panel in MODEL["panels"] if panel["type"] != "row"]


def test_each_metric_has_a_panel_or_a_reason_against_one() -> None:
    names = {metric.name for metric in metric_names()}
    shown = {name for panel in panels() for name in panel.metrics()}
    assert sorted(names - shown - WITHOUT_PANEL.keys()) == []
    assert WITHOUT_PANEL.keys() <= names


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("proxy_agent_epocs", {}),
        ("proxy_agent_epochs", {"stat": "serving"}),
        ("proxy_agent_epochs", {"state": "served"}),
        ("proxy_agent_epochs", {"state": "!served"}),
    ],
)
def test_what_no_scrape_contains_cannot_be_selected(name: str, labels: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        select(name, **labels)


def test_a_selector_names_the_targets_and_the_values() -> None:
    chosen = 'job=~"$job", instance=~"$instance"'
    assert select("proxy_agent_epochs", state="serving") == f'proxy_agent_epochs{{{chosen}, state="serving"}}'
    assert select("proxy_agent_epochs", state="!serving") == f'proxy_agent_epochs{{{chosen}, state!="serving"}}'


def parsed(expressions: list[str], file: Path) -> bool:
    """Return whether promtool can parse these expressions, written as rules into a file."""
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    return promtool("check", "rules", str(file)).returncode == 0


def test_promtool_parses_every_expression(tmp_path: Path) -> None:
    text = dashboard().replace("$__rate_interval", "1m").replace("$__range", "1h")
    found = [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
    assert len(found) == sum(len(panel.queries) for panel in panels())
    assert parsed(found, tmp_path / "rules.yaml")
    assert not parsed([found[0] + ")"], tmp_path / "rules.yaml")


def test_each_panel_says_what_it_shows() -> None:
    assert [panel["title"] for panel in SHOWN if not panel["description"].endswith(".")] == []
    assert len({panel["title"] for panel in SHOWN}) == len(SHOWN)
    assert Panel("", "stat", 4, {"": select("proxy_agent_ready")}).description().startswith("Whether an epoch serves")


def test_panels_fill_the_grid_and_cover_nothing() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in MODEL["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    assert taken == {(x, y) for x in range(24) for y in range(1 + max(y for _, y in taken))}
    ids = [panel["id"] for panel in MODEL["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_variables_of_the_queries_are_defined() -> None:
    assert [variable["name"] for variable in MODEL["templating"]["list"]] == ["datasource", "job", "instance"]
    assert {panel["datasource"]["uid"] for panel in SHOWN} == {"${datasource}"}
