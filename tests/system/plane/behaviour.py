"""Resources and faults of a control plane: written by a test, read by the server, as one JSON file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
LISTENERS, CLUSTERS, SECRETS = "listeners", "clusters", "secrets"
KINDS = {
    LISTENERS: "type.googleapis.com/envoy.config.listener.v3.Listener",
    CLUSTERS: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    SECRETS: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
}
WILDCARD = (LISTENERS, CLUSTERS)  # a client that names none of these subscribes to all of them


@dataclass
class Behaviour:
    """Resources by kind and name, in the JSON form of a bootstrap, and the enabled faults.

    `delay_ms`: every response of this kind is delayed by this. `silent`: kinds that are never answered.
    `empty_for_new`: kinds with an empty set on streams opened from now on. `unavailable`: streams, open and new,
    end with UNAVAILABLE. `number` counts the changes; the server records it when the change is in effect.
    """

    number: int = 0
    resources: dict[str, dict[str, Json]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    delay_ms: dict[str, int] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    empty_for_new: list[str] = field(default_factory=list)
    unavailable: bool = False

    def write(self, path: Path) -> None:
        """Write the file by a rename."""
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(json.dumps(asdict(self)), encoding="utf-8")
        beside.replace(path)


def read(path: Path) -> Behaviour:
    """Read the file."""
    return Behaviour(**json.loads(path.read_text(encoding="utf-8")))
