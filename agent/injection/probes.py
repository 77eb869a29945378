"""Rewrites the application's probes to the agent's status port, and restores them.

Behind an interception a probe of the kubelet would reach the proxy; the agent asks the application in its place. See
`agent.core.app_probes` for the form of the value that the agent reads.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agent.core import app_probes
from agent.core.errors import UsageError
from agent.injection.edits import Edit, JsonValue, Path, Remove, Set
from agent.injection.objects import ObjectFields, PodTemplate

_ADDRESSES: Final = {
    ("livenessProbe",): "/app-health/{}/livez",
    ("readinessProbe",): "/app-health/{}/readyz",
    ("startupProbe",): "/app-health/{}/startupz",
    ("lifecycle", "preStop"): "/app-lifecycle/{}/prestopz",
    ("lifecycle", "postStart"): "/app-lifecycle/{}/poststartz",
}
_KINDS: Final = ("httpGet", "tcpSocket", "grpc")
_HTTP_FIELDS: Final = ("path", "port", "host", "scheme")


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewritten probe: what the agent asks, and the original; `where` in its container."""

    container: str
    where: tuple[str, ...]
    address: str
    prober: dict[str, JsonValue]
    kind: str
    original: dict[str, JsonValue]
    path: Path

    def edits(self, status_port: int) -> Iterator[Edit]:
        """Yield the edits that send it to the agent."""
        if self.kind != "httpGet":
            yield Set((*self.path, "httpGet"), {"path": self.address, "port": status_port})
            yield Remove((*self.path, self.kind))
            return
        action = (*self.path, "httpGet")
        yield Set((*action, "path"), self.address)
        yield Set((*action, "port"), status_port)
        if self.original.get("scheme", "HTTP") != "HTTP":
            yield Set((*action, "scheme"), "HTTP")
        if "host" in self.original:
            yield Remove((*action, "host"))


def rewritten(pod: PodTemplate, status_port: int) -> list[Rewritten]:
    """Return the probes to rewrite. Raises `InjectionRefused` naming a port without number."""
    return [each for container in pod.lasting for each in _of_container(container, status_port)]


def _of_container(container: ObjectFields, status_port: int) -> Iterator[Rewritten]:
    name = container.text("name")
    for where, address in _ADDRESSES.items():
        probe = container
        for key in where:
            probe = probe.mapping(key)
        kinds = [kind for kind in _KINDS if probe.has(kind)]
        if len(kinds) != 1:
            continue
        action = probe.mapping(kinds[0])
        port = _port(container, action)
        if port == status_port:
            continue
        prober = _prober(probe, kinds[0], port)
        try:
            app_probes.parse(json.dumps({address.format(name): prober}))
        except UsageError as error:
            raise probe.refused(f"cannot be answered by the agent: {str(error).partition(': ')[2]}") from None
        yield Rewritten(name, where, address.format(name), prober, kinds[0], dict(action.values), probe.path)


def _prober(probe: ObjectFields, kind: str, port: int) -> dict[str, JsonValue]:
    """Return what the agent asks: the port as a number, and the timeout."""
    prober: dict[str, JsonValue] = {kind: {**probe.mapping(kind).values, "port": port}}
    if probe.has("timeoutSeconds"):
        prober["timeoutSeconds"] = probe.values["timeoutSeconds"]
    return prober


def _port(container: ObjectFields, action: ObjectFields) -> int:
    """Return the number of a port; a name is one of the container's ports."""
    port = action.values.get("port")
    if isinstance(port, str) and port.isascii() and port.isdigit():
        port = int(port)
    if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536:
        return port
    for each in container.mappings("ports"):
        number = each.number("containerPort")
        if isinstance(port, str) and each.values.get("name") == port and number is not None:
            return number
    raise action.refused("is neither a number nor the name of a port of the container", "port")


def as_status(probes: list[Rewritten]) -> dict[str, JsonValue]:
    """Return what the status annotation records: container, place, kind and the original fields."""
    found: dict[str, dict[str, JsonValue]] = {}
    for each in probes:
        original = each.original
        if each.kind == "httpGet":
            original = {name: original[name] for name in _HTTP_FIELDS if name in original}
        found.setdefault(each.container, {})["/".join(each.where)] = {each.kind: original}
    return {name: {**places} for name, places in found.items()}


def restored(container: ObjectFields, places: Mapping[str, JsonValue]) -> Iterator[Edit]:
    """Yield the edits that restore the probes of a container, as far as they are still there."""
    for place, recorded in places.items():
        probe = container
        for key in place.split("/"):
            probe = probe.mapping(key)
        if not isinstance(recorded, dict) or not probe.has("httpGet"):
            continue
        (kind, original), *_ = recorded.items()
        action = probe.mapping("httpGet")
        if not isinstance(original, dict) or "/app-" not in str(action.values.get("path")):
            continue
        if kind != "httpGet":
            yield Set((*probe.path, kind), original)
            yield Remove((*probe.path, "httpGet"))
            continue
        yield from _restored_http(action, original)


def _restored_http(action: ObjectFields, original: Mapping[str, JsonValue]) -> Iterator[Edit]:
    for name in _HTTP_FIELDS:
        if name in original and action.values.get(name) != original[name]:
            yield Set((*action.path, name), original[name])
    for name in _HTTP_FIELDS:
        if name not in original and name in action.values:
            yield Remove((*action.path, name))


def recovered(container: ObjectFields, probers: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the record for a container that Istio has injected, from its sidecar's probers."""
    found: dict[str, JsonValue] = {}
    for where, address in _ADDRESSES.items():
        prober = probers.get(address.format(container.text("name")))
        if isinstance(prober, dict):
            original = {kind: prober[kind] for kind in _KINDS if prober.get(kind) is not None}
            found["/".join(where)] = original or {"httpGet": prober}
    return found
