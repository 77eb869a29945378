"""An Envoy bootstrap as the agent sees it: where it listens, what it adds, and the copy an epoch runs from.

Beside what holds for every document, the copy differs from the operator's file in this: the console listens on a
socket of the epoch, the gate is added, and log lines name the epoch.
"""

from dataclasses import dataclass

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

    def _listener_nodes(self, root: MappingNode) -> list[Node]:
        return nodes.items(nodes.get(root, "static_resources", "listeners"))

    def _look_through(self, root: MappingNode) -> None:
        self.sets = _sets(root)
        """The sets that it fetches before it is whole, by scope, and from which file; None for a control plane."""
        place = place_of(nodes.get(root, "admin", "address"))
        self.console_address = None if place is None else place.address
        """Where the operator wants the admin console, if anywhere."""
        self.allowed_paths = [nodes.copied(each) for each in nodes.items(nodes.get(root, "admin", "allow_paths"))]
        """The paths that the admin console may answer; none named means all."""
        self.node = nodes.text(nodes.get(root, "node", "id")), nodes.text(nodes.get(root, "node", "cluster"))
        """The node's id and cluster, which REST xDS cannot do without."""
        self.has_log_format = nodes.get(root, "application_log_config", "log_format") is not None
        """Whether it names a format for the application log, which then may not be named by a flag."""

    @property
    def has_dynamic_listeners(self) -> bool:
        """Whether listeners come and go by LDS while it runs; those in a file that is materialised do not."""
        path = self.sets.get(fetches.LISTENERS, "")
        return path is None or is_protobuf(path)

    def _change(self, root: MappingNode) -> None:
        _name_epoch(root)
        if self._gated:
            _add_gate(root)
            _move_console(root)
        else:
            _forget_console(root)


def _sets(root: MappingNode) -> dict[str, str | None]:
    sources = {
        scope: nodes.get(root, "dynamic_resources", key)
        for key, scope in (("lds_config", fetches.LISTENERS), ("cds_config", fetches.CLUSTERS))
    }
    return {
        scope: nodes.text(nodes.get(source, "path_config_source", "path") or nodes.get(source, "path"))
        for scope, source in sources.items()
        if source is not None
    }


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
