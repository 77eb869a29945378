"""Bootstraps with certificates in every place where a push may have to reach them."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.nodes import MappingNode

from agent.proxies.envoy import yaml_nodes
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.push_contexts import PushMode

Tree = dict[str, Any]
_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets"


def source(path: str) -> Tree:
    """A data source."""
    return {"filename": path}


def pair(name: str, **more: object) -> Tree:
    """A certificate with its key."""
    return {"certificate_chain": source(f"/c/{name}.crt"), "private_key": source(f"/c/{name}.key"), **more}


def bundle(name: str) -> Tree:
    """A validation context."""
    return {"trusted_ca": source(f"/c/{name}.ca")}


def context(*pairs: Tree, **more: object) -> Tree:
    """A TLS context."""
    return {"tls_certificates": list(pairs), **more} if pairs else dict(more)


def tls(common: Tree) -> Tree:
    """The transport socket of a listener."""
    typed = {"@type": f"{_TYPE}.tls.v3.DownstreamTlsContext", "common_tls_context": common}
    return {"name": "tls", "typed_config": typed}


def quic(common: Tree) -> Tree:
    """The transport socket of a QUIC listener."""
    inner = {"common_tls_context": common}
    typed = {"@type": f"{_TYPE}.quic.v3.QuicDownstreamTransport", "downstream_tls_context": inner}
    return {"name": "quic", "typed_config": typed}


def chain(socket: Tree | None, name: str | None = None) -> Tree:
    """A filter chain, for one server name."""
    match = {} if name is None else {"filter_chain_match": {"server_names": [name]}}
    return {**match, "filters": [], **({} if socket is None else {"transport_socket": socket})}


def listener(name: str | None, *chains: Tree, **more: object) -> Tree:
    """A listener."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 8443}}
    return {**({} if name is None else {"name": name}), "address": address, "filter_chains": list(chains), **more}


def cluster(name: str, common: Tree | None = None) -> Tree:
    """A cluster, with TLS towards its endpoints."""
    typed = {"@type": f"{_TYPE}.tls.v3.UpstreamTlsContext", "sni": name, "common_tls_context": common}
    return {"name": name, **({} if common is None else {"transport_socket": {"name": "tls", "typed_config": typed}})}


def bootstrap(listeners: list[Tree], clusters: list[Tree] | None = None, **more: object) -> Tree:
    """A bootstrap."""
    return {"static_resources": {"listeners": listeners, "clusters": clusters or []}, **more}


def camel(tree: Any) -> Any:  # noqa: ANN401
    """Return a tree with its keys in camelCase."""
    if isinstance(tree, dict):
        return {re.sub(r"_(\w)", lambda match: match[1].upper(), key): camel(value) for key, value in tree.items()}
    return [camel(each) for each in tree] if isinstance(tree, list) else tree


def snake(tree: Any) -> Any:  # noqa: ANN401
    """Return a tree with its keys in snake_case."""
    if isinstance(tree, dict):
        kept = {
            key if key.startswith("@") else re.sub(r"([A-Z])", r"_\1", key).lower(): value
            for key, value in tree.items()
        }
        return {key: snake(value) for key, value in kept.items()}
    return [snake(each) for each in tree] if isinstance(tree, list) else tree


def configured(
    tree: Tree | str, *, drains: bool = True, as_json: bool = False, extra: str | None = None
) -> Configuration:
    """Parse a bootstrap, as YAML unless `as_json`, or a text."""
    text = tree if isinstance(tree, str) else json.dumps(tree) if as_json else yaml.safe_dump(tree)
    return Configuration(text, "envoy.json" if as_json else "envoy.yaml", extra, None, PushMode(drains))


def pushable(tree: Tree | str, *, drains: bool = True, as_json: bool = False) -> set[str]:
    """Return the names of the files that can be pushed, without their directory."""
    found = configured(tree, drains=drains, as_json=as_json).pushable_files
    return {path.removeprefix("/c/") for path in found}


def parsed(tree: Tree | str) -> MappingNode:
    """Return a bootstrap as nodes."""
    return yaml_nodes.read(tree if isinstance(tree, str) else yaml.safe_dump(tree), "envoy.yaml")


def content(path: str) -> bytes:
    """The content of each file: a secret."""
    return f"the secret of {path}".encode()


def numbers_of(configuration: Configuration, first: int = 100) -> Mapping[str, int]:
    """Return a descriptor for each file that a configuration names."""
    return {path: first + n for n, path in enumerate(sorted({each.path for each in configuration.references}))}
