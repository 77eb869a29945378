"""The annotation in which an injection records what it has changed.

A JSON object: the names of `initContainers`, `containers` and `volumes`, as Istio writes them; `made`, the pointers
(RFC 6901, from the pod template) to what did not exist; `nulls`, those to what was null; `probes` and `prometheus`, the
original values; `text`, what `agent inject` needs to restore a file byte for byte; `version`, the agent's.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from agent import __version__
from agent.injection.annotations import STATUS
from agent.injection.edits import JsonValue
from agent.injection.objects import InjectionRefused, PodTemplate

LISTS: Final = ("initContainers", "containers", "volumes")


@dataclass(slots=True)
class Status:
    """What an injection has changed."""

    names: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in LISTS})
    made: list[str] = field(default_factory=list)
    nulls: list[str] = field(default_factory=list)
    probes: dict[str, JsonValue] = field(default_factory=dict)
    prometheus: dict[str, JsonValue] = field(default_factory=dict)
    is_ours: bool = True

    def as_text(self) -> str:
        """Return the value of the annotation."""
        parts: dict[str, Any] = {name: names for name, names in self.names.items() if names}
        optional = {"nulls": self.nulls, "probes": self.probes, "prometheus": self.prometheus}
        parts |= {"made": self.made, **{name: value for name, value in optional.items() if value}}
        return text_of({**parts, "version": __version__})


def text_of(parts: dict[str, Any]) -> str:
    """Return the text of a status; it does not depend on the order of keys in the pod."""
    return json.dumps(parts, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def read(pod: PodTemplate) -> Status | None:
    """Return the status of a pod; None without one. Raises `InjectionRefused`."""
    value = pod.annotations.values.get(STATUS)
    if value is None:
        return None
    try:
        return _status(json.loads(value if isinstance(value, str) else ""))
    except (ValueError, RecursionError):
        raise unusable(pod, "it is not the JSON that an injection writes") from None


def unusable(pod: PodTemplate, why: str) -> InjectionRefused:
    """Return the error for a status that does not match the pod."""
    return pod.annotations.refused(f"cannot be used: {why}; restore the object from before its injection", STATUS)


def _status(parts: Any) -> Status:  # noqa: ANN401  # JSON
    if not isinstance(parts, dict):
        raise ValueError  # noqa: TRY004  # a fault of the input
    status = Status(is_ours="made" in parts)
    status.names = {name: _texts(parts.get(name)) for name in LISTS}
    status.made, status.nulls = _texts(parts.get("made")), _texts(parts.get("nulls"))
    status.probes, status.prometheus = _mapping(parts.get("probes")), _mapping(parts.get("prometheus"))
    return status


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError
    return [*value]


def _mapping(value: object) -> dict[str, JsonValue]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError  # noqa: TRY004  # a fault of the input
    return value


def pointer(*keys: str) -> str:
    """Return a JSON pointer."""
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)


def keys_of(text: str) -> tuple[str, ...]:
    """Return the keys of a JSON pointer."""
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in text.split("/")[1:])
