"""Which statistics the proxy keeps, how their names become labels, and where they are sent."""

import re
from collections.abc import Iterable
from typing import Any

from agent.istio.pod import Addresses
from agent.istio.proxy_config import StatsMatcher

_PREFIXES = (
    "cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "http_mixer_filter", "tcp_mixer_filter",
    "reporter=", "component", "wasm", "istio",  # the metrics of requests, from filters of 1.5 and newer
)  # fmt: skip
_SUFFIXES = (
    "downstream_cx_active",  # the agent counts them down in a drain
    "downstream_pre_cx_active",
    "ssl_context_update_by_sds",
    "rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied",
)  # fmt: skip
_REGEXPS = (r"http\..*\.downstream_rq_.xx", r"vhost\..*\.route\..*")
_TAGS = (
    ("cluster_name", r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)"),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    ("http_conn_manager_prefix", r"^http\.((.*?)\.)"),
    ("listener_address", r"^listener\.((\[[0-9a-fA-F:_]+\]_\d+|[0-9.]+_\d+)\.)"),
    ("mongo_prefix", r"^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$"),
)
_SINK = "type.googleapis.com/envoy.config.metrics.v3.StatsdSink"
_POD_IP = "{pod_ip}"


def config(given: StatsMatcher, extra_tags: Iterable[str], addresses: Addresses) -> dict[str, Any]:
    """Return the `stats_config`; `{pod_ip}` in a pattern stands for each address of the pod."""
    patterns = [
        *({"prefix": each} for each in _each((*_PREFIXES, *given.prefixes), addresses)),
        *({"suffix": each} for each in _each((*_SUFFIXES, *given.suffixes), addresses)),
        *({"safe_regex": {"regex": each}} for each in _each((*_REGEXPS, *given.regexps), addresses)),
    ]
    tags = [*_TAGS, *((tag, _extra(tag)) for tag in extra_tags)]
    return {
        "use_all_default_tags": False,
        "stats_tags": [{"tag_name": name, "regex": pattern} for name, pattern in dict(tags).items()],
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
    }


def statsd(host: str, port: int) -> dict[str, Any]:
    """Return a sink that sends them to a statsd server by UDP."""
    address = {"socket_address": {"address": host, "port_value": port, "protocol": "UDP"}}
    return {"name": "envoy.stat_sinks.statsd", "typed_config": {"@type": _SINK, "address": address}}


def _each(patterns: Iterable[str], addresses: Addresses) -> list[str]:
    """Return the patterns once each, one for each address where there is a placeholder."""
    made: dict[str, None] = {}
    for pattern in patterns:
        texts = map(str, addresses.all) if _POD_IP in pattern else [""]
        made |= dict.fromkeys(pattern.replace(_POD_IP, text) for text in texts)
    return list(made)


def _extra(tag: str) -> str:
    """Return the pattern of a label that Istio's filters write into a name as `tag=.=value;.;`."""
    return rf"({re.escape(tag)}=\.=(.*?);\.;)"
