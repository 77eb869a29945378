"""The node of a proxy, as it introduces itself to a control plane: id, cluster, locality and metadata."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.istio.pod import Addresses, Locality, Pod
from agent.istio.proxy_config import ProxyConfig

_META = "ISTIO_META_"
_META_JSON = "ISTIO_METAJSON_"
_LABELS_JSON = f"{_META_JSON}LABELS"
_NOT_OF_THE_POD = frozenset({"pod-template-hash"})  # the same pods have another after each change of a Deployment


@dataclass(frozen=True, slots=True)
class Node:
    """A node; `metadata` is JSON."""

    id: str
    cluster: str
    locality: Locality
    metadata: Mapping[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """The node in an Envoy bootstrap."""
        parts = {"region": self.locality.region, "zone": self.locality.zone, "sub_zone": self.locality.sub_zone}
        known = {name: part for name, part in parts.items() if part}
        locality = {"locality": known} if known else {}
        return {"id": self.id, "cluster": self.cluster, **locality, "metadata": dict(self.metadata)}


def make(
    role: str,
    pod: Pod,
    addresses: Addresses,
    config: ProxyConfig,
    named: Mapping[str, str],
    known: Mapping[str, Any] | None = None,
) -> Node:
    """Return the node; `named` has id, domain and cluster where a flag gives them, `known` more metadata."""
    default_id = f"{pod.name}.{pod.namespace}" if pod.name else str(addresses.first)
    default_domain = f"{pod.namespace}.svc.cluster.local" if pod.namespace else ""
    parts = (role, str(addresses.first), named.get("id") or default_id, named.get("domain") or default_domain)
    labels = {**_json_of(pod, _LABELS_JSON), **pod.labels}
    metadata = {**(known or {}), **_metadata(pod, addresses, config, labels)}
    return Node("~".join(parts), named["cluster"], Locality.of(labels), _filled(metadata))


def _metadata(pod: Pod, addresses: Addresses, config: ProxyConfig, labels: Mapping[str, Any]) -> dict[str, Any]:
    environment = pod.environment
    metadata: dict[str, Any] = {"INTERCEPTION_MODE": config.interception_mode, "MESH_ID": config.mesh_id}
    metadata |= _meta_of(config.metadata)
    metadata |= _meta_of(environment)
    for name in sorted(environment):
        if name.startswith(_META_JSON):
            metadata |= _json_of(pod, name)
    metadata |= {
        "NAME": pod.name,
        "NAMESPACE": pod.namespace,
        "SERVICE_ACCOUNT": environment.get("SERVICE_ACCOUNT", ""),
        "INSTANCE_IPS": ",".join(map(str, addresses.all)),
        "LABELS": {name: value for name, value in labels.items() if name not in _NOT_OF_THE_POD},
        "ANNOTATIONS": dict(pod.annotations),
        "PROXY_CONFIG": dict(config.mapping),
    }
    return _filled(metadata)


def _filled(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not known."""
    return {name: value for name, value in metadata.items() if value not in (None, "", {}, [])}


def _meta_of(variables: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(_META): value for name, value in variables.items() if _is_meta(name)}


def _is_meta(name: str) -> bool:
    return name.startswith(_META) and name != _META


def _json_of(pod: Pod, name: str) -> dict[str, Any]:
    """Return the mapping in a variable; an empty one if it is none, of which `unreadable` tells."""
    return _object_in(pod.environment.get(name, "")) or {}


def unreadable(pod: Pod) -> Iterator[str]:
    """Yield a message for each variable that should have a JSON object and has none."""
    for name in sorted(pod.environment):
        if name.startswith(_META_JSON) and _object_in(pod.environment[name]) is None:
            yield f"{name} is left out of the node's metadata: it is not a JSON object"


def _object_in(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
