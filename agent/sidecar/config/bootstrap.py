"""Reads the whole bootstrap: file, command line, and the checks across several parts."""

from collections.abc import Iterable

from agent.core.errors import BadInput
from agent.sidecar.config import document
from agent.sidecar.config.addresses import address
from agent.sidecar.config.clusters import CLUSTER, cluster
from agent.sidecar.config.document import Tree
from agent.sidecar.config.fields import NOT_SUPPORTED, Message, Refusals
from agent.sidecar.config.listeners import LISTENER, listener
from agent.sidecar.model import Admin, Cluster, Configuration, HttpManager, Listener

_BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"
_COMMAND_LINE = "--config-yaml"


def read(config_path: str | None, config_yaml: str | None, *, node: str = "", cluster: str = "") -> Configuration:
    """Read a bootstrap from a file, from YAML on the command line, or from both, merged.

    `node` and `cluster` are the node's names from the command line, which override those of the bootstrap. Raises
    BadInput, which names the file and its line, or the path of each rejected field.
    """
    under = document.load(config_path) if config_path else {}
    over = document.parse(config_yaml, _COMMAND_LINE) if config_yaml else {}
    if not config_path and not config_yaml:
        raise BadInput("cannot read the configuration: there is none; name a file with --config-path")
    return read_tree(document.merge(under, over), config_path or _COMMAND_LINE, node=node, cluster=cluster)


def read_tree(tree: Tree, name: str, *, node: str = "", cluster: str = "") -> Configuration:
    """Read a parsed document; `name` is for error messages."""
    refusals = Refusals()
    configuration = _bootstrap(Message(tree, "", _BOOTSTRAP, refusals), tree, node, cluster)
    refusals.check(name)
    return configuration


def _bootstrap(root: Message, tree: Tree, node: str, node_cluster: str) -> Configuration:
    static = root.message("static_resources", f"{_BOOTSTRAP}.StaticResources")
    listeners = [] if static is None else static.messages("listeners", LISTENER)
    clusters = [] if static is None else static.messages("clusters", CLUSTER)
    identity = root.message("node", "envoy.config.core.v3.Node")
    made = Configuration(
        listeners=tuple(listener(each, number) for number, each in enumerate(listeners)),
        clusters=tuple(cluster(each) for each in clusters),
        admin=_admin(root),
        node_id=node or ("" if identity is None else identity.text("id")),
        node_cluster=node_cluster or ("" if identity is None else identity.text("cluster")),
        log_format=_log_format(root),
        stats_flush_interval=_flush_interval(root),
        tree=tree,
    )
    if identity is not None:
        identity.tree("metadata")
    _require_distinct(zip(listeners, made.listeners, strict=True))
    _require_distinct(zip(clusters, made.clusters, strict=True))
    _require_free_addresses(listeners, made.listeners)
    asks = "a gate needs" if _is_gated(made) else "secrets need" if _has_secrets(made) else ""
    if asks and not (made.node_id and made.node_cluster):
        root.refuse("node", f"{asks} id and cluster; write them here or give --service-node and --service-cluster")
    return made


def _is_gated(made: Configuration) -> bool:
    filters = (chain.filter for listener in made.listeners for chain in listener.chains)
    return any(isinstance(each, HttpManager) and each.gate is not None for each in filters)


def _has_secrets(made: Configuration) -> bool:
    return any(each.has_secrets for each in made.tls)


def _require_distinct(made: Iterable[tuple[Message, Listener | Cluster]]) -> None:
    seen = set()
    for message, each in made:
        if each.name in seen:
            message.refuse("name", f"two of the name {each.name} are {NOT_SUPPORTED}")
        seen.add(each.name)


def _require_free_addresses(messages: Iterable[Message], listeners: Iterable[Listener]) -> None:
    """Reject an address that two listeners have, bound or not.

    A bound port 0 never conflicts, since each bind gets another port.
    """
    taken: dict[str, str] = {}
    for message, each in zip(messages, listeners, strict=True):
        places = [one.place for one in each.addresses]
        for place in places:
            if place.address in taken:
                message.refuse("address", f"{place.address} is that of the listener {taken[place.address]}")
        lasting = [place.address for place in places if not (place.any_port and each.bind_to_port)]
        if len(set(lasting)) < len(lasting):
            message.refuse("additional_addresses", f"the same address twice is {NOT_SUPPORTED}")
        taken.update(dict.fromkeys(lasting, each.name))


def _flush_interval(root: Message) -> float:
    span = root.span("stats_flush_interval", 5.0)
    if not 0.001 <= span < 300:  # Envoy's protobuf validation rules
        root.refuse("stats_flush_interval", "it is at least 0.001s and less than 300s")
    return span


def _log_format(root: Message) -> str | None:
    log = root.message("application_log_config", f"{_BOOTSTRAP}.ApplicationLogConfig")
    form = None if log is None else log.message("log_format", f"{_BOOTSTRAP}.ApplicationLogConfig.LogFormat")
    return None if form is None or form.one_of("text_format") is None else form.text("text_format")


def _admin(root: Message) -> Admin | None:
    message = root.message("admin", "envoy.config.bootstrap.v3.Admin")
    if message is None:
        return None
    message.truth("ignore_global_conn_limit", default=False)
    allowed = tuple(_allowed(each) for each in message.messages("allow_paths", "envoy.type.matcher.v3.StringMatcher"))
    return Admin(address(message), allowed) if message.has("address") else None


def _allowed(message: Message) -> str:
    """Return an exact path, or a prefix followed by `*`."""
    chosen = message.one_of("exact", "prefix")
    if chosen == "prefix":
        return f"{message.text('prefix', required=True)}*"
    exact = message.text("exact") if chosen else ""
    if exact.endswith("*"):
        message.refuse("exact", f"a path that ends in a star is {NOT_SUPPORTED}")
    return exact
