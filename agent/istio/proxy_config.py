"""Reads Istio's ProxyConfig: the mesh file, the variable PROXY_CONFIG, and annotations of the pod.

Later ones win key by key; `proxyMetadata` and `runtimeValues` are merged.
Source: istio.io/docs/reference/config/istio.mesh.v1alpha1, ProxyConfig.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.core.errors import UsageError
from agent.istio import fields
from agent.istio.fields import Fields

ANNOTATION = "proxy.istio.io/config"
DISCOVERY_ANNOTATION = "sidecar.istio.io/discoveryAddress"
STATUS_PORT_ANNOTATION = "status.sidecar.istio.io/port"

_MERGED = frozenset({"proxyMetadata", "runtimeValues"})
_AUTH: Mapping[object, str] = {"NONE": "NONE", 0: "NONE", "MUTUAL_TLS": "MUTUAL_TLS", 1: "MUTUAL_TLS"}
_MODES: Mapping[object, str] = {
    "REDIRECT": "REDIRECT", 0: "REDIRECT", "TPROXY": "TPROXY", 1: "TPROXY", "NONE": "NONE", 2: "NONE",
}  # fmt: skip
_TAKEN = frozenset({
    "binaryPath", "serviceCluster", "drainDuration", "terminationDrainDuration", "discoveryAddress", "proxyAdminPort",
    "statusPort", "concurrency", "controlPlaneAuthPolicy", "statsdUdpAddress", "zipkinAddress", "tracing",
    "proxyMetadata", "proxyStatsMatcher", "extraStatTags", "customConfigFile", "proxyBootstrapTemplatePath",
    "runtimeValues", "meshId", "interceptionMode",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class StatsMatcher:
    """The names of statistics to keep beside the usual ones."""

    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    regexps: tuple[str, ...] = ()

    @classmethod
    def read(cls, given: Fields) -> "StatsMatcher":
        """Read a ProxyStatsMatcher."""
        keys = ("inclusionPrefixes", "inclusionSuffixes", "inclusionRegexps")
        return cls(*(given.texts(key) or () for key in keys))


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """The keys that the agent uses; None where nothing is given. Durations are in seconds.

    `mapping` is the merged whole, `ignored` has its other keys.
    """

    binary_path: str | None = None
    service_cluster: str | None = None
    drain_duration: float | None = None
    termination_drain_duration: float | None = None
    discovery_address: str | None = None
    admin_port: int | None = None
    status_port: int | None = None
    concurrency: int | None = None
    auth_policy: str | None = None
    statsd_address: str | None = None
    zipkin_address: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    stats: StatsMatcher = StatsMatcher()
    extra_tags: tuple[str, ...] = ()
    custom_config_file: str | None = None
    template_path: str | None = None
    runtime_values: Mapping[str, str] = field(default_factory=dict)
    mesh_id: str | None = None
    interception_mode: str | None = None
    mapping: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @classmethod
    def read(cls, mapping: Mapping[str, Any], where: str) -> "ProxyConfig":
        """Read a merged ProxyConfig. Raises `UsageError` naming the key."""
        given = Fields(mapping, where)
        zipkin = given.fields("tracing").fields("zipkin").text("address")
        return cls(
            binary_path=given.text("binaryPath"),
            service_cluster=given.text("serviceCluster"),
            drain_duration=given.duration("drainDuration"),
            termination_drain_duration=given.duration("terminationDrainDuration"),
            discovery_address=given.text("discoveryAddress"),
            admin_port=given.port("proxyAdminPort"),
            status_port=given.port("statusPort"),
            concurrency=given.count("concurrency"),
            auth_policy=given.choice("controlPlaneAuthPolicy", _AUTH),
            statsd_address=given.text("statsdUdpAddress"),
            zipkin_address=zipkin or given.text("zipkinAddress"),
            metadata=given.texts_by_name("proxyMetadata") or {},
            stats=StatsMatcher.read(given.fields("proxyStatsMatcher")),
            extra_tags=given.texts("extraStatTags") or (),
            custom_config_file=given.text("customConfigFile"),
            template_path=given.text("proxyBootstrapTemplatePath"),
            runtime_values=given.texts_by_name("runtimeValues") or {},
            mesh_id=given.text("meshId"),
            interception_mode=given.choice("interceptionMode", _MODES),
            mapping=dict(mapping),
            ignored=tuple(sorted(given.keys - _TAKEN)),
        )


def read(mesh: str | None, variable: str | None, annotations: Mapping[str, str]) -> ProxyConfig:
    """Merge the mesh file's text, PROXY_CONFIG and the pod's annotations. Raises `UsageError`."""
    merged: dict[str, Any] = {}
    if mesh is not None:
        document = Fields(fields.loaded(mesh, "the mesh configuration"), "the mesh configuration")
        _merge(merged, document.mapping("defaultConfig") or {})
    if variable:
        _merge(merged, fields.loaded(variable, "PROXY_CONFIG"))
    if ANNOTATION in annotations:
        _merge(merged, fields.loaded(annotations[ANNOTATION], f"the annotation {ANNOTATION}"))
    named = {"discoveryAddress": DISCOVERY_ANNOTATION, "statusPort": STATUS_PORT_ANNOTATION}
    _merge(merged, {key: annotations[name] for key, name in named.items() if annotations.get(name)})
    return ProxyConfig.read(merged, "ProxyConfig")


def _merge(merged: dict[str, Any], newer: Mapping[str, Any]) -> None:
    for key, value in newer.items():
        name, known = fields.camel(key), merged.get(fields.camel(key))
        if name in _MERGED and isinstance(known, dict) and isinstance(value, dict):
            merged[name] = {**known, **value}
        elif value is not None:
            merged[name] = value


def auth_policy(text: str) -> str:
    """Return a word of `controlPlaneAuthPolicy`. Raises `UsageError`."""
    if text not in _AUTH:
        message = f"cannot use --controlPlaneAuthPolicy {text!r}: it is neither NONE nor MUTUAL_TLS"
        raise UsageError(message)
    return _AUTH[text]
