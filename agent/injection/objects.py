"""Objects of Kubernetes with a pod template: kinds, paths, names."""

from collections.abc import Iterator, Mapping

from agent.core.errors import BadInput
from agent.injection.edits import JsonValue, Path

TEMPLATE: Mapping[str, Path] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""The path of the pod template, by kind."""

_LIST = "List"
_DEEPEST_LIST = 16  # lists in lists


class InjectionRefused(BadInput):
    """An object cannot be injected, or the injection in it cannot be removed."""


class ObjectFields:
    """A mapping in a document. Readers raise `InjectionRefused` naming object and field."""

    def __init__(self, document: Mapping[str, JsonValue], where: str, path: Path = ()) -> None:
        self.values = document
        self.path = path
        self._where = where

    def refused(self, why: str, *keys: str | int) -> InjectionRefused:
        """Return the error for a field."""
        field = ".".join(str(each) for each in (*self.path, *keys))
        return InjectionRefused(f"cannot change {self._where}: {field} {why}")

    def mapping(self, key: str) -> "ObjectFields":
        """Return a nested mapping; an empty one if it is missing or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.refused("is not a mapping; correct it", key)
        return ObjectFields(value or {}, self._where, (*self.path, key))

    def items(self, key: str) -> list[JsonValue]:
        """Return a list; an empty one if it is missing or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.refused("is not a list; correct it", key)
        return value or []

    def mappings(self, key: str) -> "list[ObjectFields]":
        """Return the items of a list of mappings."""
        found = []
        for index, each in enumerate(self.items(key)):
            if not isinstance(each, dict):
                raise self.refused("is not a mapping; correct it", key, index)
            found.append(ObjectFields(each, self._where, (*self.path, key, index)))
        return found

    def text(self, key: str) -> str:
        """Return a text; empty if it is missing or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refused("is not a text; correct it", key)
        return value or ""

    def number(self, key: str) -> int | None:
        """Return a whole number; None if it is missing or null."""
        value = self.values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.refused("is not a whole number; correct it", key)
        return value

    def has(self, key: str) -> bool:
        """Return whether the key has a value, other than null."""
        return self.values.get(key) is not None


class PodTemplate:
    """The pod template of an object."""

    def __init__(self, document: Mapping[str, JsonValue], namespace: str | None = None) -> None:
        self.kind = str(document.get("kind"))
        self.path = TEMPLATE[self.kind]
        root = ObjectFields(document, self.kind)
        self.owner_metadata = root.mapping("metadata")
        name = self.owner_metadata.text("name")
        self.name = name or self.owner_metadata.text("generateName")
        self.namespace = self.owner_metadata.text("namespace") or namespace or ""
        shown = name or (f"{self.name}*" if self.name else "without a name")
        self.where = f"{self.kind} {self.namespace}/{shown}" if self.namespace else f"{self.kind} {shown}"
        self.root = ObjectFields(document, self.where)
        for key in self.path:
            self.root = self.root.mapping(str(key))
        self.metadata = self.root.mapping("metadata")
        self.annotations = self.metadata.mapping("annotations")
        self.spec = self.root.mapping("spec")

    @property
    def containers(self) -> list[ObjectFields]:
        """The containers."""
        return self.spec.mappings("containers")

    @property
    def init_containers(self) -> list[ObjectFields]:
        """The containers that run before them, or beside them (`restartPolicy: Always`)."""
        return self.spec.mappings("initContainers")

    @property
    def lasting(self) -> list[ObjectFields]:
        """The containers that run as long as the pod."""
        return [*(each for each in self.init_containers if each.text("restartPolicy") == "Always"), *self.containers]


def has_template(document: Mapping[str, JsonValue]) -> bool:
    """Return whether the object is of one of the kinds and has a pod template with containers."""
    kind = document.get("kind")
    at: JsonValue = dict(document)
    for key in (*TEMPLATE[kind], "spec", "containers") if isinstance(kind, str) and kind in TEMPLATE else ("",):
        at = at.get(str(key)) if isinstance(at, dict) else None
    return at is not None


def is_list(document: Mapping[str, JsonValue]) -> bool:
    """Return whether the document is a list of objects, such as `List` or `PodList`."""
    kind = document.get("kind")
    return isinstance(kind, str) and kind.endswith(_LIST) and isinstance(document.get("items"), list)


def objects(document: JsonValue, path: Path = ()) -> Iterator[tuple[Path, dict[str, JsonValue]]]:
    """Yield each object with its path: the document, or the items of a list, also nested."""
    if not isinstance(document, dict):
        return
    items = document.get("items")
    if not is_list(document) or not isinstance(items, list) or len(path) > 2 * _DEEPEST_LIST:
        yield path, document
        return
    for index, item in enumerate(items):
        yield from objects(item, (*path, "items", index))
