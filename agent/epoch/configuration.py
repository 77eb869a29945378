"""Reads the application's configuration file and separates what the agent added to it.

The file is any YAML whose root is a mapping. The agent writes a private copy of it for each epoch, in which
certificates and other watched files named by a key `filename` are `/dev/fd/N`. The agent's additions are removed again
here: an admin address below `admin`, the gate's cluster and listener below `static_resources`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agent.core.errors import BadInput
from agent.core.redact import without_quotes
from agent.core.yaml_depth import DEEPEST, first_beyond
from agent.handoff.gate import NAME

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The application's own `tree`, the admin address and the gate's socket, if any."""

    tree: Tree = field(default_factory=dict)
    console: Tree | None = None
    """The admin address in Envoy's bootstrap format: a `pipe` or a `socket_address`."""
    gate: Path | None = None


def read(path: str | None, extra: str | None) -> Configuration:
    """Read the file at `path` and merge `extra` over it; without either the tree is empty.

    Mappings are merged, lists are joined, any other value is replaced. Raises `BadInput` naming the file and the line.
    """
    tree: Tree = {}
    if path is not None:
        try:
            tree = _parse(Path(path).read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read {path}: {error.strerror if isinstance(error, OSError) else error}") from error
    if extra is not None:
        tree = _merge(tree, _parse(extra, "--config-yaml"))
    return Configuration(_own(tree), _follow(tree, "admin", "address"), _gate(tree))


def _parse(text: str, name: str) -> Tree:
    if first_beyond(DEEPEST, text) is not None:
        raise BadInput(f"cannot read {name}: it is nested more than {DEEPEST} levels deep; write it flatter")
    try:
        tree = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise BadInput(
            f"cannot read {name}: {where}{without_quotes(error.problem or 'not YAML')}; correct it"
        ) from error
    except yaml.YAMLError as error:
        raise BadInput(f"cannot read {name}: {without_quotes(str(error))}; correct it") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise BadInput(f"cannot read {name}: its root is not a mapping")
    return tree


def _merge(below: Tree, above: Mapping[str, Any]) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        under = below.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            merged[key] = _merge(under, value)
        elif isinstance(under, list) and isinstance(value, list):
            merged[key] = [*under, *value]
        else:
            merged[key] = value
    return merged


def _own(tree: Tree) -> Tree:
    """Return the tree without the agent's additions, and without mappings that this empties."""
    own = dict(tree)
    resources = own.get("static_resources")
    if isinstance(resources, dict):
        kept = {key: _without_gate(value) for key, value in resources.items()}
        own["static_resources"] = {key: value for key, value in kept.items() if value or not resources[key]}
    admin = own.get("admin")
    if isinstance(admin, dict):
        own["admin"] = {key: value for key, value in admin.items() if key != "address"}
    emptied = {key for key in ("static_resources", "admin") if own.get(key) == {} and tree[key]}
    return {key: value for key, value in own.items() if key not in emptied}


def _without_gate(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [each for each in value if not (isinstance(each, dict) and each.get("name") == NAME)]


def _gate(tree: Tree) -> Path | None:
    """Return the socket path of the gate's cluster."""
    for cluster in _elements(_follow(tree, "static_resources"), "clusters"):
        if isinstance(cluster, dict) and cluster.get("name") == NAME:
            for locality in _elements(_follow(cluster, "load_assignment"), "endpoints"):
                for endpoint in _elements(locality, "lb_endpoints"):
                    pipe = _follow(endpoint, "endpoint", "address", "pipe")
                    if pipe is not None and "path" in pipe:
                        return Path(str(pipe["path"]))
    return None


def _follow(node: object, *keys: str) -> Tree | None:
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else None


def _elements(node: object, key: str) -> list[Any]:
    found = node.get(key) if isinstance(node, dict) else None
    return found if isinstance(found, list) else []
