"""Reads where a resource comes from: REST polls of one cluster."""

from typing import NamedTuple

from agent.sidecar.config.fields import NOT_SUPPORTED, Message

SOURCE = "envoy.config.core.v3.ConfigSource"

_API_TYPES = {
    "DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE": 0,
    "REST": 1,
    "GRPC": 2,
    "DELTA_GRPC": 3,
    "AGGREGATED_GRPC": 5,
    "AGGREGATED_DELTA_GRPC": 6,
}
_API_VERSIONS = {"AUTO": 0, "V2": 1, "V3": 2}


class RestSource(NamedTuple):
    """The cluster to poll, and the intervals in seconds."""

    cluster: str
    refresh_delay: float
    request_timeout: float
    initial_fetch_timeout: float  # 0: no limit


def rest_source(source: Message) -> RestSource | None:
    """Return the source; None if it cannot be used, which has been reported."""
    source.choice("resource_api_version", _API_VERSIONS, {"V3": None}, None)
    first = source.span("initial_fetch_timeout", 15.0)
    api = source.message("api_config_source", "envoy.config.core.v3.ApiConfigSource", required=True)
    if api is None:
        return None
    if not api.has("api_type"):
        api.missing("api_type")
    api.choice("api_type", _API_TYPES, {"REST": None}, None)
    api.choice("transport_api_version", _API_VERSIONS, {"V3": None}, None)
    if not api.has("refresh_delay"):
        api.missing("refresh_delay")
    delay = api.span("refresh_delay", 1.0, positive=True)
    timeout = api.span("request_timeout", 1.0, positive=True)
    names = api.texts("cluster_names")
    if not names:
        api.refuse("cluster_names", "it names no cluster")
    if len(names) > 1:
        api.refuse("cluster_names", f"more than one cluster is {NOT_SUPPORTED}")
    return RestSource(names[0], delay, timeout, first) if names else None
