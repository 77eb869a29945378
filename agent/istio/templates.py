"""Fills in a bootstrap template: `${key}` in the scalars of a YAML or JSON document, `$$` for a dollar.

The document is parsed first, so no value can change its structure. A scalar that is nothing but `${key}` becomes the
value itself, which may be a number or a mapping; within a longer scalar the value is text.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from agent.core.errors import UsageError
from agent.istio.bootstrap import Plan

_PLACEHOLDER = re.compile(r"\$(?:\$|\{(?P<key>[A-Za-z_]\w*)\})", re.ASCII)
_GO = "{{"


def filled(text: str, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a template. Raises `UsageError` naming the file and the line."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        message = f"cannot read {name}{place}: {_reason(text)}"
        raise UsageError(message) from None
    if not isinstance(root, yaml.MappingNode):
        message = f"cannot read {name}: it is not a mapping; write an Envoy bootstrap with ${{key}} for the values"
        raise UsageError(message)
    made = _Filler(name, values).value(root)
    assert isinstance(made, dict), "of a mapping"
    return made


def values(plan: Plan) -> dict[str, Any]:
    """Return the keys that a template can name."""
    node, plane, ports = plan.node.document, plan.control_plane, plan.ports
    locality = node.get("locality", {})
    return {
        "node_id": node["id"],
        "cluster": node["cluster"],
        "region": locality.get("region", ""),
        "zone": locality.get("zone", ""),
        "sub_zone": locality.get("sub_zone", ""),
        "metadata": node["metadata"],
        "discovery_host": plane.host,
        "discovery_port": plane.port,
        "pod_ip": str(plan.addresses.first),
        "localhost": plan.addresses.localhost,
        "wildcard": plan.addresses.wildcards[0],
        "dns_lookup_family": plan.addresses.family.value,
        "admin_port": ports.admin,
        "status_port": ports.status,
        "health_port": ports.health,
        "prometheus_port": ports.prometheus,
    }


def _reason(text: str) -> str:
    if _GO in text:
        return "it is a Go template, which cannot be run here; write ${key} for the values, or the finished file"
    return "it is neither YAML nor JSON; correct it"


class _Filler:
    """Turns nodes into data."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._name = name
        self._values = values
        self._constructor = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node) -> Any:  # noqa: ANN401  # of a document
        if isinstance(node, yaml.MappingNode):
            return {str(self.value(key)): self.value(each) for key, each in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each) for each in node.value]
        if _GO in node.value:
            self._fail(node, _reason(node.value))
        if "$" in node.value:
            return self._scalar(node)
        return self._constructor.construct_object(node, deep=True)

    def _scalar(self, node: yaml.Node) -> Any:  # noqa: ANN401  # a value of any type
        whole = _PLACEHOLDER.fullmatch(node.value)
        if whole is not None and whole["key"] is not None:
            return self._named(node, whole["key"])
        return _PLACEHOLDER.sub(lambda found: self._text(node, found), node.value)

    def _text(self, node: yaml.Node, found: re.Match[str]) -> str:
        if found["key"] is None:
            return "$"
        value = self._named(node, found["key"])
        return value if isinstance(value, str) else json.dumps(value)

    def _named(self, node: yaml.Node, key: str) -> Any:  # noqa: ANN401  # a value of any type
        if key not in self._values:
            self._fail(node, f"there is no ${{{key}}}; the keys are {', '.join(sorted(self._values))}")
        return self._values[key]

    def _fail(self, node: yaml.Node, reason: str) -> None:
        message = f"cannot use {self._name}, line {node.start_mark.line + 1}: {reason}"
        raise UsageError(message)
