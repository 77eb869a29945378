"""A document merged over a bootstrap; a system test compares with Envoy's own merge."""

import json

import pytest
import yaml

from agent.core.errors import BadInput
from agent.proxies.envoy.overrides import merged


def merge(below: str, above: str) -> object:
    return yaml.safe_load(merged(below, "b.yaml", above, "o.yaml"))


@pytest.mark.parametrize(
    ("below", "above", "result"),
    [
        ("a: {b: 1}", "a: {c: 2}", {"a": {"b": 1, "c": 2}}),
        ("a: {b: 1}", "a: {b: 2}", {"a": {"b": 2}}),
        ("a: [1]", "a: [2]", {"a": [1, 2]}),
        ("a: 1", "", {"a": 1}),
        ("a: 1", "a: ~", {"a": 1}),
        ("a: x", "a: ''", {"a": "x"}),
        ("a: [1]", "a: []", {"a": [1]}),
        ("b: 1", "a: ''", {"b": 1, "a": ""}),
        ("", "a: 1", {"a": 1}),
        ("stats_flush_interval: 5s", "statsFlushInterval: 6s", {"stats_flush_interval": "6s"}),
        ("statsFlushInterval: 5s", "stats_flush_interval: 6s", {"statsFlushInterval": "6s"}),
    ],
)
def test_mappings_are_merged_and_lists_joined(below: str, above: str, result: object) -> None:
    assert merge(below, above) == result


def test_an_any_is_replaced_whole() -> None:
    assert merge('c: {"@type": t, a: 1}', 'c: {"@type": t, b: 2}') == {"c": {"@type": "t", "b": 2}}


def test_values_of_a_map_are_replaced_whole() -> None:
    below = "node: {id: x, metadata: {A: {deep: 1}, B: 2}}"
    assert merge(below, "node: {metadata: {A: {other: 1}}}") == {
        "node": {"id": "x", "metadata": {"B": 2, "A": {"other": 1}}}
    }


def test_of_alternatives_the_newer_remains() -> None:
    below = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}"
    assert merge(below, "admin: {address: {pipe: {path: /p}}}") == {"admin": {"address": {"pipe": {"path": "/p"}}}}
    below = "layered_runtime: {layers: [{name: a, static_layer: {}}]}"
    assert merge(below, "layered_runtime: {layers: [{name: b, admin_layer: {}}]}") == {
        "layered_runtime": {"layers": [{"name": "a", "static_layer": {}}, {"name": "b", "admin_layer": {}}]}
    }


def test_the_text_is_in_the_format_of_the_bootstrap() -> None:
    text = merged('{"a": {"b": 1.5, "t": true}}', "b.json", "a: {c: yes, d: '5', e: 1e3}", "o.yaml")
    assert json.loads(text) == {"a": {"b": "1.5", "t": True, "c": True, "d": "5", "e": "1e3"}}
    text = merged('{"a": {"b": 1.5}}', "b.json", '{"a": {"c": 2.5}}', "o.json")
    assert json.loads(text) == {"a": {"b": 1.5, "c": 2.5}}
    assert merged("a: yes # note", "b.yaml", '{"b": 1}', "o.json") == 'a: yes\n"b": 1\n'


def test_an_alias_of_the_bootstrap_changes_in_one_place() -> None:
    below = "a: &x {k: 1}\nb: *x\n"
    assert merge(below, "a: {k: 2}") == {"a": {"k": 2}, "b": {"k": 1}}


@pytest.mark.parametrize(
    ("below", "above", "message"),
    [
        ("a: }", "b: 1", r"cannot read b\.yaml: line 1"),
        ("a: 1", "b: 1\nc: }", r"cannot read o\.yaml: line 2"),
        ("a: 1", "- b", r"cannot read o\.yaml: its root is not a mapping"),
    ],
)
def test_a_bad_document_is_named_with_its_line(below: str, above: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        merge(below, above)
