"""An Envoy bootstrap as the agent sees it: where it listens, what it adds, and the copy an epoch runs from.

Beside what holds for every document, the copy differs from the operator's file in this: the console listens on a
socket of the epoch, the gate is added, and log lines name the epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from yaml.nodes import MappingNode, Node, ScalarNode

from agent.dialects import fetches, nodes
from agent.dialects.document import DIRECTORY, NUMBER, Document, is_protobuf, place_of
from agent.handoff import gate


@dataclass(frozen=True, slots=True)
class Console:
    """The admin address that the bootstrap names, and the paths it allows (none: all)."""

    address: str
    allowed: tuple[Node, ...]


class Bootstrap(Document):
    """The bootstrap, or what `--config-yaml` adds to it; only the first has the `gated` copy."""

    def __init__(self, text: str, name: str, *, gated: bool = True) -> None:
        self._gated = gated
        super().__init__(text, name, is_json=name.endswith(".json"))

    def _listener_nodes(self) -> list[Node]:
        return nodes.items(nodes.get(self._root, "static_resources", "listeners"))

    @property
    def has_dynamic_listeners(self) -> bool:
        """Whether listeners come and go by LDS while it runs; those in a file that is materialised do not."""
        path = self.sets.get(fetches.LISTENERS, "")
        return path is None or is_protobuf(path)

    @cached_property
    def sets(self) -> dict[str, str | None]:
        """The sets that it fetches before it is whole, by scope, and from which file; None for a control plane."""
        sources = {
            scope: nodes.get(self._root, "dynamic_resources", key)
            for key, scope in (("lds_config", fetches.LISTENERS), ("cds_config", fetches.CLUSTERS))
        }
        return {
            scope: nodes.text(nodes.get(source, "path_config_source", "path") or nodes.get(source, "path"))
            for scope, source in sources.items()
            if source is not None
        }

    @property
    def console_address(self) -> str | None:
        """Where the operator wants the admin console, if anywhere."""
        place = place_of(nodes.get(self._root, "admin", "address"))
        return None if place is None else place.address

    @property
    def allowed_paths(self) -> list[Node]:
        """The paths that the admin console may answer; none named means all."""
        return nodes.items(nodes.get(self._root, "admin", "allow_paths"))

    @property
    def node(self) -> tuple[str | None, str | None]:
        """The node's id and cluster, which REST xDS cannot do without."""
        return (
            nodes.text(nodes.get(self._root, "node", "id")),
            nodes.text(nodes.get(self._root, "node", "cluster")),
        )

    @property
    def has_log_format(self) -> bool:
        """Whether it names a format for the application log, which then may not be named by a flag."""
        return nodes.get(self._root, "application_log_config", "log_format") is not None

    def _copy(self, files: Sequence[str]) -> MappingNode:
        root = super()._copy(files)
        _name_epoch(root)
        if self._gated:
            _add_gate(root)
            _move_console(root)
        else:
            _forget_console(root)
        return root


def _name_epoch(root: MappingNode) -> None:
    log_format = nodes.get(root, "application_log_config", "log_format")
    line = nodes.get(log_format, "text_format")
    if isinstance(line, ScalarNode):
        line.value = f"[epoch {NUMBER}] {line.value}"
    members = nodes.get(log_format, "json_format")
    if isinstance(members, MappingNode) and nodes.get(members, "epoch") is None:
        nodes.put(members, "epoch", nodes.compose(NUMBER))


def _add_gate(root: MappingNode) -> None:
    resources = nodes.child_mapping(root, "static_resources")
    nodes.append(resources, "clusters", nodes.compose(gate.cluster(f"{DIRECTORY}/gate")))
    nodes.append(resources, "listeners", nodes.compose(gate.listener()))


def _move_console(root: MappingNode) -> None:
    admin = nodes.child_mapping(root, "admin")
    nodes.put(admin, "address", nodes.compose({"pipe": {"path": f"{DIRECTORY}/admin", "mode": 0o600}}))
    nodes.remove(admin, "allow_paths")  # the agent keeps to them at the address that others use


def _forget_console(root: MappingNode) -> None:
    admin = nodes.get(root, "admin")
    if isinstance(admin, MappingNode):
        nodes.remove(admin, "address")
        nodes.remove(admin, "allow_paths")
