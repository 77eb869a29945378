"""Adds the sidecar to a pod that has none."""

from collections.abc import Mapping
from typing import Final

from agent.injection import probes, removal, template
from agent.injection.annotations import STATUS
from agent.injection.draft import Draft
from agent.injection.edits import Append, Insert, JsonValue, Remove, Set
from agent.injection.objects import PodTemplate
from agent.injection.options import IMAGES, InjectionOptions, Profile, quantity
from agent.injection.removal import DEFAULT_CONTAINER, FS_GROUP, PROMETHEUS
from agent.injection.status import Status, pointer

_LEAST_MEMORY: Final = 384 * 2**20  # bytes, for two epochs of a proxy
_METRICS_PATH: Final = "/stats/prometheus"


class Addition:
    """Plans the addition; `notes` are warnings. `mounts` are more of them for our containers, by the names of these."""

    def __init__(
        self,
        draft: Draft,
        pod: PodTemplate,
        options: InjectionOptions,
        mounts: Mapping[str, list[JsonValue]] | None = None,
    ) -> None:
        self._draft, self._pod, self._options = draft, pod, options
        self._mounts = mounts or {}
        self._status = Status()
        self._default_container = ""
        self.notes: list[str] = []

    def check(self) -> None:
        """Replace containers with our names if adopted. Raises `InjectionRefused` for conflicts."""
        ours = (*template.NAMES.values(), template.INIT)
        taken = {"initContainers": ours, "containers": ours, "volumes": template.VOLUMES}
        found = removal.collisions(self._pod, taken)
        for item in reversed(found):
            if not self._options.adopt or "volumes" in item.path:
                why = f"is {item.text('name')}, the name of the agent's own; remove it, or replace it with --adopt"
                raise item.refused(why)
            self._draft.add(Remove(item.path))
            self.notes.append(f"the container {item.text('name')} is replaced")
        if found:
            self._pod = PodTemplate(self._draft.document, self._pod.namespace)
        if not self._pod.containers:
            raise self._pod.spec.refused("has no items; name a container", "containers")
        self._default_container = self._pod.containers[0].text("name")
        if self._options.intercepts:
            self._check_users()

    def _check_users(self) -> None:
        """Raise `InjectionRefused` for a container that runs as the proxy's user."""
        everybody = self._pod.spec.mapping("securityContext")
        for container in self._pod.lasting:
            own = container.mapping("securityContext")
            for key in ("runAsUser", "runAsGroup"):
                node = own if own.has(key) else everybody
                if node.number(key) == template.USER:
                    why = (
                        f"is {template.USER}, the proxy's own: the traffic of {container.text('name')} would bypass it"
                    )
                    raise node.refused(f"{why}; choose another, or --interception NONE", key)

    def add(self) -> None:
        """Add everything; the status last, when it is known what has been made."""
        options, metrics = self._options, self._metrics()
        rewritten = probes.rewritten(self._pod, options.status_port) if options.rewrites_probes else []
        probers: dict[str, JsonValue] = {each.address: each.prober for each in rewritten}
        is_own = metrics.get("port") == str(options.status_port)
        added = template.additions(self._pod, options, probers, {} if is_own or not self._merges(metrics) else metrics)
        self._status.probes = probes.as_status(rewritten)
        for each in rewritten:
            self._draft.add(*each.edits(options.status_port))
        self._add_containers(added)
        self._add_items("volumes", [*added.volumes])
        self._add_group()
        self._add_annotations(metrics)
        self._warn()

    def _add_containers(self, added: template.Additions) -> None:
        path = self._pod.spec.path
        sidecar = self._mounted(added.sidecar)
        init = [] if added.init is None else [self._mounted(added.init)]
        if self._options.is_native:
            self._add_items("initContainers", [*init, sidecar], first=True)
            return
        self._add_items("initContainers", [*init])
        if self._options.holds:
            self._draft.add(Insert((*path, "containers", 0), sidecar))
        else:
            self._draft.add(Append((*path, "containers"), sidecar))
        self._status.names["containers"].append(str(sidecar["name"]))

    def _mounted(self, container: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Return a container with the mounts that others gave it, as far as their volumes are there."""
        volumes = {each.text("name") for each in self._pod.spec.mappings("volumes")}
        more = [
            mount
            for mount in self._mounts.get(str(container["name"]), [])
            if isinstance(mount, dict) and mount.get("name") in volumes
        ]
        own = container.get("volumeMounts")
        return {**container, "volumeMounts": [*(own if isinstance(own, list) else []), *more]} if more else container

    def _add_items(self, key: str, items: list[dict[str, JsonValue]], *, first: bool = False) -> None:
        path = (*self._pod.spec.path, key)
        self._status.names[key] = [str(item["name"]) for item in items]
        if not items:
            return
        if not self._pod.spec.has(key):
            self._make(("spec", key), [*items])
        elif first and self._pod.spec.items(key):
            self._draft.add(*(Insert((*path, index), item) for index, item in enumerate(items)))
        else:
            self._draft.add(*(Append(path, item) for item in items))

    def _make(self, keys: tuple[str, ...], value: JsonValue) -> None:
        """Set a value in the pod template that is missing or null, and record that."""
        parent = self._pod.root
        for key in keys[:-1]:
            parent = parent.mapping(key)
        known = self._status.nulls if keys[-1] in parent.values else self._status.made
        known.append(pointer(*keys))
        self._draft.add(Set((*self._pod.root.path, *keys), value))

    def _add_group(self) -> None:
        """Let the sidecar's user read a secret: its files have the group of the pod's volumes."""
        certificates, spec = self._options.certificates, self._pod.spec
        if certificates is None or not certificates.secret:
            return
        context = spec.mapping("securityContext")
        if context.has("fsGroup"):
            if context.number("fsGroup") != template.USER:
                self.notes.append("fsGroup is kept: the sidecar reads its certificates as a member of that group")
        elif spec.has("securityContext"):
            self._make(FS_GROUP, template.USER)
        else:
            self._status.made.append(pointer(*FS_GROUP))
            self._make(FS_GROUP[:-1], {FS_GROUP[-1]: template.USER})

    def _metrics(self) -> dict[str, str]:
        """Return the pod's annotations of Prometheus, without their prefix."""
        found = {}
        for name in ("scrape", "port", "path"):
            value = self._pod.annotations.values.get(PROMETHEUS + name)
            if value is not None:
                found[name] = str(value).lower() if isinstance(value, bool) else str(value)
        return found

    def _merges(self, metrics: Mapping[str, str]) -> bool:
        """Return whether the agent is scraped in the application's place."""
        return self._options.merge_metrics and metrics.get("scrape") != "false"

    def _add_annotations(self, metrics: Mapping[str, str]) -> None:
        given: dict[str, JsonValue] = {}
        known = self._pod.annotations.values
        if DEFAULT_CONTAINER not in known:
            given[DEFAULT_CONTAINER] = self._default_container
        if self._merges(metrics):
            port = str(self._options.status_port)
            values = {"scrape": "true", "port": port, "path": _METRICS_PATH}
            given |= {PROMETHEUS + name: value for name, value in values.items()}
        changed = {name: value for name, value in given.items() if known.get(name) != value}
        self._status.prometheus = {
            name.removeprefix(PROMETHEUS): known[name]
            for name in changed
            if name.startswith(PROMETHEUS) and name in known
        }
        self._status.made += [pointer("metadata", "annotations", name) for name in changed if name not in known]
        self._set_annotations(changed)

    def _set_annotations(self, values: dict[str, JsonValue]) -> None:
        """Set annotations and the status, which records which of their parents are made."""
        root, metadata = self._pod.root, self._pod.metadata
        path = self._pod.annotations.path
        if metadata.has("annotations"):
            self._draft.add(*(Set((*path, name), value) for name, value in values.items()))
            self._draft.add(Set((*path, STATUS), self._status.as_text()))
            return
        keys = ("metadata", "annotations")
        (self._status.nulls if "annotations" in metadata.values else self._status.made).append(pointer(*keys))
        if root.has("metadata"):
            self._draft.add(Set(path, {**values, STATUS: self._status.as_text()}))
            return
        (self._status.nulls if "metadata" in root.values else self._status.made).append(pointer("metadata"))
        self._draft.add(Set(metadata.path, {"annotations": {**values, STATUS: self._status.as_text()}}))

    def _warn(self) -> None:
        options = self._options
        limit = options.resources.memory_limit
        if limit and quantity(limit) < _LEAST_MEMORY:
            self.notes.append(f"the memory limit {limit} is less than 384Mi, and two epochs run during a restart")
        image = options.init_image or options.sidecar_image
        if options.intercepts and image == IMAGES[Profile.MESH]:
            self.notes.append(
                f"istio-init needs iptables or nft, and {image} has neither; name an image by --init-image"
            )
        if options.profile is Profile.TLS and options.certificates is None:
            self.notes.append("no certificates are mounted at /etc/certs; name their source by --cert-source")
