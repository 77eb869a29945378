"""Plans the removal of an injection, by what its status records."""

import json
from collections.abc import Iterable, Mapping
from typing import Final

from agent.injection import probes, status
from agent.injection.annotations import STATUS
from agent.injection.draft import Draft
from agent.injection.edits import JsonValue, Remove, Set
from agent.injection.objects import ObjectFields, PodTemplate
from agent.injection.status import LISTS, Status, keys_of, pointer

PROMETHEUS: Final = "prometheus.io/"
DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
FS_GROUP: Final = ("spec", "securityContext", "fsGroup")

_METRICS: Final = tuple(PROMETHEUS + name for name in ("scrape", "port", "path"))
_REMOVABLE: Final = (DEFAULT_CONTAINER, *_METRICS)


def remove(draft: Draft, pod: PodTemplate, recorded: Status, *, adopt: bool) -> list[str]:
    """Add the edits that remove an injection; return notes. Raises `InjectionRefused`."""
    if not recorded.is_ours and not adopt:
        raise status.unusable(pod, "another injector has written it (--adopt replaces its sidecar)")
    removal = _Removal(draft, pod, recorded)
    if not recorded.is_ours:
        recorded.probes, recorded.prometheus = _of_another(pod, recorded)
    for name in reversed(LISTS):
        removal.remove_items(name)
    removal.restore_probes()
    removal.remove_annotations()
    removal.remove_group()
    return [] if recorded.is_ours else ["the sidecar of another injector is replaced; its options are not taken over"]


class _Removal:
    def __init__(self, draft: Draft, pod: PodTemplate, recorded: Status) -> None:
        self._draft, self._pod, self._recorded = draft, pod, recorded

    def restore_probes(self) -> None:
        """Put the probes back, where they are without the containers of ours."""
        remaining = PodTemplate(self._draft.document).lasting
        by_name = {container.text("name"): container for container in remaining}
        for name, places in self._recorded.probes.items():
            if name not in by_name or not isinstance(places, dict):
                raise status.unusable(self._pod, f"the container {name}, whose probes it records, is not there")
            self._draft.add(*probes.restored(by_name[name], places))

    def remove_items(self, key: str) -> None:
        """Remove the recorded items of a list, or the list if it was made for them."""
        names, items = self._recorded.names[key], self._pod.spec.mappings(key)
        positions = [index for index, item in enumerate(items) if item.text("name") in names]
        missing = sorted({*names} - {item.text("name") for item in items})
        if missing:
            raise status.unusable(self._pod, f"{', '.join(missing)} of {key} is not there")
        if positions and len(positions) == len(items) and self._end_parent("spec", key):
            return
        for index in reversed(positions):
            self._draft.add(Remove((*self._pod.spec.path, key, index)))

    def remove_annotations(self) -> None:
        """Remove the annotations that were added, put back the others."""
        annotations = self._pod.annotations
        made = {keys[-1] for keys in map(keys_of, self._recorded.made) if len(keys) == 3}
        ours = [name for name in annotations.values if name == STATUS or (name in made and name in _REMOVABLE)]
        if len(ours) == len(annotations.values) and self._end_parent("metadata", "annotations"):
            return
        for name, value in self._recorded.prometheus.items():
            full = PROMETHEUS + name
            if full in _METRICS and full in annotations.values and annotations.values[full] != value:
                self._draft.add(Set((*annotations.path, full), value))
        self._draft.add(*(Remove((*annotations.path, name)) for name in ours))

    def remove_group(self) -> None:
        """Remove the group of the volumes."""
        context = self._pod.spec.mapping("securityContext")
        if pointer(*FS_GROUP) in self._recorded.nulls:
            self._draft.add(Set((*context.path, "fsGroup"), None))
        if pointer(*FS_GROUP) not in self._recorded.made:
            return
        if not context.has("fsGroup"):
            return
        if len(context.values) == 1 and self._end_parent("spec", "securityContext"):
            return
        self._draft.add(Remove((*context.path, "fsGroup")))

    def _end_parent(self, *keys: str) -> bool:
        """Remove a parent that was made, or make it null again; return False for any other."""
        path = (*self._pod.root.path, *keys)
        parents = self._pod.root.mapping(keys[0])
        if pointer(*keys) in self._recorded.nulls:
            self._draft.add(Set(path, None))
        elif pointer(*keys) not in self._recorded.made:
            return False
        elif keys == ("metadata", "annotations") and len(parents.values) == 1 and self._end_parent("metadata"):
            pass
        else:
            self._draft.add(Remove(path))
        return True


def mounts_of_others(pod: PodTemplate, recorded: Status | None) -> dict[str, list[JsonValue]]:
    """Return the mounts that others added to our containers, by the names of these.

    The API server mounts the token of the service account between two calls of a webhook for the same pod.
    """
    if recorded is None:
        return {}
    containers = [each for key in ("initContainers", "containers") for each in pod.spec.mappings(key)]
    names = {*recorded.names["initContainers"], *recorded.names["containers"]}
    ours = {each.text("name"): each.mappings("volumeMounts") for each in containers if each.text("name") in names}
    volumes = {*recorded.names["volumes"]}
    found: dict[str, list[JsonValue]] = {
        name: [{**mount.values} for mount in mounts if mount.text("name") not in volumes]
        for name, mounts in ours.items()
    }
    return {name: mounts for name, mounts in found.items() if mounts}


def _of_another(pod: PodTemplate, recorded: Status) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """Return the original probes and annotations that Istio keeps in its sidecar's variables."""
    names = {*recorded.names["containers"], *recorded.names["initContainers"]}
    sidecars = (each for each in pod.lasting if each.text("name") in names)
    variables = {
        variable.text("name"): variable.values.get("value")
        for sidecar in sidecars
        for variable in sidecar.mappings("env")
    }
    by_address = _object(variables.get("ISTIO_KUBE_APP_PROBERS"))
    others = [each for each in pod.lasting if each.text("name") not in names]
    found = {container.text("name"): probes.recovered(container, by_address) for container in others}
    metrics = _object(variables.get("ISTIO_PROMETHEUS_ANNOTATIONS"))
    return {name: {**places} for name, places in found.items() if places}, metrics


def _object(text: JsonValue) -> dict[str, JsonValue]:
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def collisions(pod: PodTemplate, names: Mapping[str, Iterable[str]]) -> list[ObjectFields]:
    """Return the items of the pod's lists that have one of the names."""
    return [
        item for key, taken in names.items() for item in pod.spec.mappings(key) if item.text("name") in frozenset(taken)
    ]
