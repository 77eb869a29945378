"""An override as the agent merges it, beside Envoy's own merge of `--config-yaml`: `/config_dump` must be the same."""

import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from agent.proxies.envoy.overrides import merged
from tests.system.eventually import eventually
from tests.system.proxies import needed
from tests.system.room import Room
from tests.system.wire import Target

pytestmark = pytest.mark.envoy

_TYPES = "type.googleapis.com/envoy"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
BASE: dict[str, Any] = {
    "node": {
        "id": "a", "cluster": "c", "metadata": {"A": {"x": 1, "y": [1, 2]}, "B": "b"}, "locality": {"region": "r"},
    },
    "static_resources": {
        "clusters": [
            {
                "name": "c1", "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": "c1"},
                "typed_extension_protocol_options": {
                    _OPTIONS: {
                        "@type": f"type.googleapis.com/{_OPTIONS}",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    }
                },
            }
        ]
    },
    "layered_runtime": {"layers": [{"name": "s", "static_layer": {"a": {"b": 1}, "c": 2}}]},
    "stats_config": {
        "use_all_default_tags": False,
        "stats_tags": [{"tag_name": "x", "regex": "^x(.)"}],
        "stats_matcher": {"inclusion_list": {"patterns": [{"prefix": "server"}]}},
    },
    "stats_flush_interval": "5s",
}  # fmt: skip
_SINK = {
    "name": "envoy.stat_sinks.statsd",
    "typed_config": {
        "@type": f"{_TYPES}.config.metrics.v3.StatsdSink",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 8125, "protocol": "UDP"}},
    },
}
OVERRIDES: list[dict[str, Any]] = [
    {"node": {"cluster": "z", "metadata": {"A": {"z": 2}}}},
    {"node": {"metadata": {"A": "text", "C": [1]}, "locality": {"subZone": "z"}}},
    {"staticResources": {"clusters": [{"name": "c2", "type": "STATIC", "connectTimeout": "2s"}]}},
    {"stats_config": {"stats_matcher": {"exclusion_list": {"patterns": [{"prefix": "a"}]}}}},
    {"stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"suffix": "q"}]}}}},
    {"stats_config": {"stats_matcher": {"reject_all": True}, "use_all_default_tags": True}},
    {"stats_config": {"stats_tags": [{"tag_name": "y", "fixed_value": "1"}], "use_all_default_tags": None}},
    {"layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]}},
    {"layered_runtime": {"layers": [{"name": "t", "static_layer": {"a": {"b": 3}}}]}},
    {"statsFlushInterval": "7s", "flags_path": "/x", "header_prefix": "x-a"},
    {"cluster_manager": {"outlier_detection": {"event_log_path": "/dev/null"}}},
    {"stats_sinks": [_SINK], "node": {"id": ""}},
    {"watchdogs": {"main_thread_watchdog": {"miss_timeout": "1s"}}},
]

BEYOND: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"node": {"id": "a", "cluster": "c", "dynamic_parameters": {"t": {"params": {"a": "1", "b": "2"}}}}},
        {"node": {"dynamic_parameters": {"t": {"params": {"a": "3"}}, "u": {"params": {"c": "4"}}}}},
    ),
    (
        {"application_log_config": {"log_format": {"text_format": "%v"}}},
        {"application_log_config": {"log_format": {"json_format": {"m": "%j"}}}},
    ),
    (
        {"application_log_config": {"log_format": {"json_format": {"m": "%j", "d": {"x": "%t"}}}}},
        {"application_log_config": {"log_format": {"json_format": {"d": {"y": "%l"}}}}},
    ),
    ({"header_prefix": "x-b"}, {"headerPrefix": "", "stats_sinks": []}),
]
"""More of a bootstrap, and an override of it."""


def dumped(console: Target) -> dict[str, Any]:
    """Return the dump of an Envoy's configuration."""
    connection = http.client.HTTPConnection(console.host, console.port, timeout=30)
    try:
        connection.request("GET", "/config_dump")
        document: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return document


def bootstrap_of(room: Room, *arguments: str) -> dict[str, Any]:
    """Start Envoy, and return the bootstrap that it has."""
    console = Target("127.0.0.1", room.port())
    address = {"admin": {"address": {"socket_address": {"address": console.host, "port_value": console.port}}}}
    config = Path(arguments[0])
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), **address}), encoding="utf-8")
    quiet = ["--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    log = room.directory / "envoy.log"
    envoy = room.spawn_bare([needed("envoy").binary, "-c", *arguments, *quiet], log=log)
    try:
        document = eventually(lambda: dumped(console), what="Envoy answers")
    finally:
        envoy.kill()
        envoy.wait()
    (dump,) = [each for each in document["configs"] if each["@type"].endswith("BootstrapConfigDump")]
    found: dict[str, Any] = dump["bootstrap"]
    found["node"] = {
        name: found["node"].get(name) for name in ("id", "cluster", "metadata", "locality", "dynamic_parameters")
    }
    return {name: value for name, value in found.items() if name != "admin"}


@pytest.mark.parametrize(
    "override",
    [pytest.param(each, marks=() if number < 4 else pytest.mark.long) for number, each in enumerate(OVERRIDES)],
    ids=lambda each: json.dumps(each)[:40],
)
def test_the_merge_is_envoys(override: dict[str, Any], room: Room) -> None:
    below, whole, text = room.directory / "below.json", room.directory / "whole.json", json.dumps(override)
    below.write_text(json.dumps(BASE), encoding="utf-8")
    whole.write_text(merged(json.dumps(BASE), "below.json", text, "override.json"), encoding="utf-8")
    assert bootstrap_of(room, str(whole)) == bootstrap_of(room, str(below), "--config-yaml", text)


@pytest.mark.long
@pytest.mark.parametrize(("more", "override"), BEYOND, ids=lambda each: json.dumps(each)[:40])
def test_what_is_unset_replaced_or_chosen_is_as_envoy_has_it(
    more: dict[str, Any], override: dict[str, Any], room: Room
) -> None:
    base, text = json.dumps({**BASE, **more}), json.dumps(override)
    below, whole = room.directory / "below.json", room.directory / "whole.json"
    below.write_text(base, encoding="utf-8")
    whole.write_text(merged(base, "below.json", text, "override.json"), encoding="utf-8")
    assert bootstrap_of(room, str(whole)) == bootstrap_of(room, str(below), "--config-yaml", text)
