"""Resources in wire format: from the JSON form of a bootstrap to protobuf, with a version each."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.json_format import ParseDict

from tests.system.plane.behaviour import KINDS, Json

xds = grpc.protos("tests/system/plane/xds.proto")  # compiled here by grpcio-tools; no generated code is stored


@dataclass(frozen=True)
class Versioned:
    """One resource: its name, the digest of its bytes, and a message `Any` with these bytes."""

    name: str
    version: str
    packed: Any


def encoded(kind: str, trees: Mapping[str, Json]) -> dict[str, Versioned]:
    """Encode the resources of a kind; json_format.ParseError names a field that is missing in xds.proto."""
    return {name: _versioned(name, {"@type": KINDS[kind], **tree}) for name, tree in trees.items()}


def _versioned(name: str, tree: Json) -> Versioned:
    packed = ParseDict(_with_packed(tree), xds.Any())
    return Versioned(name, hashlib.sha256(packed.value).hexdigest()[:12], packed)


def _with_packed(tree: Any) -> Any:  # noqa: ANN401  # JSON
    """Replace each object with an `@type` by the JSON form of the message `Any`, innermost first."""
    if isinstance(tree, list):
        return [_with_packed(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    fields = {key: _with_packed(value) for key, value in tree.items() if key != "@type"}
    if "@type" not in tree:
        return fields
    message = getattr(xds, tree["@type"].rpartition(".")[2])()
    value = ParseDict(fields, message).SerializeToString(deterministic=True)
    return {"type_url": tree["@type"], "value": base64.b64encode(value).decode("ascii")}


def version_of(resources: Iterable[Versioned]) -> str:
    """Return one version for a set of resources, the same in every process."""
    parts = sorted(f"{one.name} {one.version}" for one in resources)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
