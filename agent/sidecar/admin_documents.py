"""The admin interface's JSON about configuration, certificates and command line."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from agent.epoch.admin_documents import Context, Json, Pem, document, text, whole_seconds
from agent.epoch.arguments import Arguments
from agent.http.message import Response
from agent.sidecar.model import Configuration, LoadedPem, PemSource, Tls

_TYPES = "type.googleapis.com"
_DUMPS = f"{_TYPES}/envoy.admin.v3"
_PLAIN = "text/plain"
_LEVELS = {"warn": "warning"}
_MODES = {"serve": "Serve", "validate": "Validate", "init_only": "InitOnly"}
_LOG_FORMAT = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"
_NOT_BY_NAME = frozenset({"metadata"})


# Certificates


class Certificates:
    """The certificates of a configuration, with its files as they are at construction; an unreadable file is empty."""

    def __init__(self, configuration: Configuration) -> None:
        self._settings = tuple(configuration.tls)
        self._loaded: dict[str, Pem] = {}
        for tls in self._settings:
            self._context(tls)

    def contexts(self, fill: Callable[[Tls], Tls | None]) -> list[Context]:
        """Return the TLS contexts in use, where `fill` puts secrets into settings; without one there is no context."""
        return [self._context(filled) for tls in self._settings if (filled := fill(tls)) is not None]

    def _context(self, tls: Tls) -> Context:
        authorities = None if tls.trusted_ca is None else self._pem(tls.trusted_ca)
        return Context([self._pem(each.chain) for each in tls.certificates], authorities)

    def _pem(self, source: PemSource) -> Pem:
        if isinstance(source, LoadedPem):
            return Pem(source.path, source.content)
        if source not in self._loaded:
            try:
                self._loaded[source] = Pem.read(source)
            except OSError:  # the data plane reads the file too, and reports the error
                self._loaded[source] = Pem(source, b"")
        return self._loaded[source]


# The command line and the node


def options(arguments: Arguments) -> Json:
    """Return the command line in Envoy's form: whole seconds, 64-bit numbers as text."""
    return {
        "base_id": str(arguments.base_id),
        "concurrency": arguments.concurrency,
        "config_path": arguments.config_path or "",
        "config_yaml": arguments.config_yaml or "",
        "admin_address_path": arguments.admin_address_path or "",
        "log_level": _LEVELS.get(arguments.log_level, arguments.log_level),
        "log_format": _LOG_FORMAT if arguments.log_format is None else arguments.log_format,
        "log_path": arguments.log_path or "",
        "service_cluster": arguments.service_cluster,
        "service_node": arguments.service_node,
        "drain_time": whole_seconds(arguments.drain_time),
        "parent_shutdown_time": whole_seconds(arguments.parent_shutdown_time),
        "mode": _MODES[arguments.mode],
        "disable_hot_restart": arguments.disable_hot_restart,
        "restart_epoch": arguments.restart_epoch,
        "drain_strategy": arguments.drain_strategy.capitalize(),
        "socket_path": arguments.socket_path,
        "socket_mode": 0 if arguments.socket_path.startswith("@") else arguments.socket_mode,
    }


def node(configuration: Configuration) -> Json:
    """Return the node's names, its metadata and the user agent."""
    given = configuration.tree.get("node")
    metadata = given.get("metadata") if isinstance(given, dict) else None
    return {
        "id": configuration.node_id,
        "cluster": configuration.node_cluster,
        **({"metadata": metadata} if metadata else {}),
        "user_agent_name": "sidecar",
    }


# The configuration


def config_dump(configuration: Configuration, loaded_at: datetime, asked: Mapping[str, str]) -> Response:
    """Return /config_dump for the query parameters `resource` and `name_regex`; reject `mask`."""
    if "mask" in asked:
        return text("mask is not supported by sidecar\n", 400, _PLAIN)
    try:
        pattern = re.compile(asked.get("name_regex") or ".*", re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        message = f"INVALID_ARGUMENT: Error while parsing name_regex from {asked['name_regex']}: {error}"
        return text(message, 400, _PLAIN)
    dumped = _Dump(configuration, loaded_at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z", pattern)
    if "resource" not in asked:
        return document({"configs": dumped.everything()})
    resource = dumped.resources.get(asked["resource"])
    if resource is None:
        return text(f"{asked['resource']} not found in config dump", 404, _PLAIN)
    kind, listed = resource
    return document(_unless_empty("configs", [{"@type": f"{_DUMPS}.{kind}", **each} for each in listed()]))


class _Dump:
    """The parts of a dump, as loaded; the paths of private keys are redacted, as in Envoy."""

    def __init__(self, configuration: Configuration, loaded_at: str, pattern: re.Pattern[str]) -> None:
        self._tree: Json = _redacted(configuration.tree)
        self._node = node(configuration)
        self._loaded_at = loaded_at
        self._pattern = pattern
        self.resources: dict[str, tuple[str, Callable[[], list[Json]]]] = {
            "static_clusters": ("ClustersConfigDump.StaticCluster", self._clusters),
            "static_listeners": ("ListenersConfigDump.StaticListener", self._listeners),
            "static_route_configs": ("RoutesConfigDump.StaticRouteConfig", self._routes),
        }

    def everything(self) -> list[Json]:
        """Return all parts, in Envoy's order."""
        bootstrap = {"node": self._node, **{name: part for name, part in self._tree.items() if name != "node"}}
        return [
            {"@type": f"{_DUMPS}.BootstrapConfigDump", "bootstrap": bootstrap, "last_updated": self._loaded_at},
            {"@type": f"{_DUMPS}.ClustersConfigDump", **_unless_empty("static_clusters", self._clusters())},
            {"@type": f"{_DUMPS}.ListenersConfigDump", **_unless_empty("static_listeners", self._listeners())},
            {"@type": f"{_DUMPS}.ScopedRoutesConfigDump"},
            {"@type": f"{_DUMPS}.RoutesConfigDump", **_unless_empty("static_route_configs", self._routes())},
            {"@type": f"{_DUMPS}.SecretsConfigDump"},
        ]

    def _clusters(self) -> list[Json]:
        clusters = sorted(self._static("clusters"), key=lambda each: str(each["name"]))
        return self._entries("cluster", "envoy.config.cluster.v3.Cluster", clusters)

    def _listeners(self) -> list[Json]:
        return self._entries("listener", "envoy.config.listener.v3.Listener", self._static("listeners"))

    def _routes(self) -> list[Json]:
        found = [
            each["typed_config"]["route_config"]
            for listener in self._static("listeners")
            for chain in (*_items(listener, "filter_chains"), listener.get("default_filter_chain") or {})
            for each in _items(chain, "filters")
            if each["typed_config"].get("route_config") is not None
        ]
        return self._entries("route_config", "envoy.config.route.v3.RouteConfiguration", found)

    def _static(self, name: str) -> list[Json]:
        return _items(self._tree.get("static_resources") or {}, name)

    def _entries(self, name: str, kind: str, found: Iterable[Json]) -> list[Json]:
        return [
            {name: {"@type": f"{_TYPES}/{kind}", **each}, "last_updated": self._loaded_at}
            for each in found
            if self._pattern.fullmatch(each.get("name") or "")
        ]


def _items(tree: Json, name: str) -> list[Json]:
    return tree.get(name) or []


def _unless_empty(name: str, listed: list[Json]) -> Json:
    return {name: listed} if listed else {}


def _redacted(value: Any, name: str = "") -> Any:  # noqa: ANN401  # any tree
    if isinstance(value, list):
        return [_redacted(each, name) for each in value]
    if not isinstance(value, dict):
        return value
    if name == "private_key":
        return dict.fromkeys(value, "[redacted]")
    return {key: each if key in _NOT_BY_NAME else _redacted(each, key) for key, each in value.items()}
