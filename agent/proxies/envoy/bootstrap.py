"""An Envoy bootstrap: its listeners, its resource sources, and the copy an epoch runs from.

Beyond the changes made to every document, the copy differs from the operator's file in this: the admin interface
listens on a socket of the epoch, the gate is added, and log lines name the epoch.
"""

from collections.abc import Sequence

from yaml.nodes import MappingNode, Node, ScalarNode

from agent.handoff import gate
from agent.proxies.envoy import push_contexts, push_form, subscriptions, yaml_nodes
from agent.proxies.envoy.document import DIRECTORY, NUMBER, Document, is_protobuf, place_of
from agent.proxies.envoy.push_contexts import PushMode

_RESOURCES = ("static_resources", "dynamic_resources")


class Bootstrap(Document):
    """The bootstrap, or the `--config-yaml` document; only the bootstrap's copy is `gated`."""

    def __init__(self, text: str, name: str, *, gated: bool = True, push: PushMode | None = None) -> None:
        self._gated = gated
        self._push = push
        super().__init__(text, name, is_json=name.endswith(".json"))

    def _listener_nodes(self, root: MappingNode) -> list[Node]:
        return yaml_nodes.items(yaml_nodes.get(root, "static_resources", "listeners"))

    def _look_through(self, root: MappingNode) -> None:
        self.sets = _sets(root)
        """The sets of resources that it fetches: scope to file, None for a control plane."""
        place = place_of(yaml_nodes.get(root, "admin", "address"))
        self.admin_address = None if place is None else place.address
        """The operator's admin address, if any."""
        self.allowed_paths = [
            yaml_nodes.copied(each) for each in yaml_nodes.items(yaml_nodes.get(root, "admin", "allow_paths"))
        ]
        """The paths allowed at the admin address; none means all."""
        self.node = (
            yaml_nodes.text(yaml_nodes.get(root, "node", "id")),
            yaml_nodes.text(yaml_nodes.get(root, "node", "cluster")),
        )
        """The node's id and cluster, which REST xDS requires."""
        self.has_log_format = yaml_nodes.get(root, "application_log_config", "log_format") is not None
        """Whether it sets the application log's format; Envoy then rejects the flag for it."""
        self.has_resources = any(yaml_nodes.get(root, each) is not None for each in _RESOURCES)
        """Whether it has static or dynamic resources."""
        # A source of listeners may also be a URL (`xdstp://`), beside which there is no other.
        locator = yaml_nodes.get(root, "dynamic_resources", "lds_resources_locator")
        has_listeners = subscriptions.LISTENERS in self.sets or locator is not None
        self._by_listeners = push_contexts.by_listeners(self._push, has_listeners=has_listeners)
        self.pushable_files = frozenset[str]() if self._push is None else self._find_pushable_files(root)
        """The certificate files that are named only where a push reaches them."""

    def _find_pushable_files(self, root: MappingNode) -> frozenset[str]:
        yaml_nodes.unshare(root)
        return push_contexts.pushable_files(root, by_listeners=self._by_listeners)

    def push_form(self, files: Sequence[str], *, as_json: bool) -> push_form.PushForm:
        """Return the copy that takes pushes, with placeholders for these files, in order."""
        with self._changed(files) as root:
            yaml_nodes.unshare(root)
            return push_form.make(root, files, by_listeners=self._by_listeners, as_json=as_json, is_json=self._is_json)

    @property
    def has_dynamic_listeners(self) -> bool:
        """Whether listeners change by LDS while it runs; those in a materialised file do not."""
        path = self.sets.get(subscriptions.LISTENERS, "")
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
        scope: yaml_nodes.get(root, "dynamic_resources", key)
        for key, scope in (("lds_config", subscriptions.LISTENERS), ("cds_config", subscriptions.CLUSTERS))
    }
    return {
        scope: yaml_nodes.text(yaml_nodes.get(source, "path_config_source", "path") or yaml_nodes.get(source, "path"))
        for scope, source in sources.items()
        if source is not None
    }


def _name_epoch(root: MappingNode) -> None:
    log_format = yaml_nodes.get(root, "application_log_config", "log_format")
    line = yaml_nodes.get(log_format, "text_format")
    if isinstance(line, ScalarNode):
        line.value = f"[epoch {NUMBER}] {line.value}"
    members = yaml_nodes.get(log_format, "json_format")
    if isinstance(members, MappingNode) and yaml_nodes.get(members, "epoch") is None:
        yaml_nodes.put(members, "epoch", yaml_nodes.compose(NUMBER))


def _add_gate(root: MappingNode) -> None:
    resources = yaml_nodes.child_mapping(root, "static_resources")
    yaml_nodes.append(resources, "clusters", yaml_nodes.compose(gate.cluster(f"{DIRECTORY}/gate")))
    yaml_nodes.append(resources, "listeners", yaml_nodes.compose(gate.listener()))


def _move_console(root: MappingNode) -> None:
    admin = yaml_nodes.child_mapping(root, "admin")
    yaml_nodes.put(admin, "address", yaml_nodes.compose({"pipe": {"path": f"{DIRECTORY}/admin", "mode": 0o600}}))
    yaml_nodes.remove(admin, "allow_paths")  # the agent enforces them at the operator's admin address


def _forget_console(root: MappingNode) -> None:
    admin = yaml_nodes.get(root, "admin")
    if isinstance(admin, MappingNode):
        yaml_nodes.remove(admin, "address")
        yaml_nodes.remove(admin, "allow_paths")
