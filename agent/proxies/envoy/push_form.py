"""The form of a bootstrap that takes pushes: its listeners and certificates come from the agent.

The static listeners become the answer to a listener discovery request at the gate (LDS), the certificates of clusters
become secrets (SDS). Where listeners cannot come by LDS, their certificates are secrets too. The operator's file is
never edited, and the proxy validates it in its own form.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from yaml.nodes import MappingNode, Node

from agent.handoff import gate
from agent.proxies.envoy import push_contexts, yaml_nodes
from agent.proxies.envoy.document import Template, content_token, digest_token, file_of
from agent.proxies.envoy.push_contexts import Secret

_LISTENER_TYPE = "type.googleapis.com/envoy.config.listener.v3.Listener"
_SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  # a type
# How long Envoy waits before it asks again, twice that at most: the next push waits for it. There may be many secrets,
# and where no agent runs each is asked for as often.
_OF_LISTENERS, _OF_SECRETS = "0.1s", "0.5s"
SECRET = "agent_secret_"  # noqa: S105  # the beginning of the secrets' names
_METADATA = "agent"


@dataclass(slots=True)
class PushForm:
    """The texts of one bootstrap in this form, with placeholders.

    `main` is the bootstrap without what comes from the agent; `listeners` the resources of the listener discovery
    response, None if listeners stay static; `secrets` each secret by name.
    """

    main: Template
    listeners: Template | None = None
    secrets: Mapping[str, Template] = field(default_factory=dict)


def make(root: MappingNode, files: Sequence[str], *, by_listeners: bool, as_json: bool, is_json: bool) -> PushForm:
    """Take apart a bootstrap whose `files` are placeholders already. `is_json`: it was written as JSON."""
    listeners, digests = None, list[tuple[int, ...]]()
    if by_listeners:
        listeners = Template.of(_cut_listeners(root, digests, is_json=is_json), files, digests)
        _fetch_listeners(root)
        _raise_limits(root)
        contexts = push_contexts.contexts_of(push_contexts.clusters_of(root))
    else:
        contexts = push_contexts.contexts_of([*push_contexts.listeners_of(root), *push_contexts.clusters_of(root)])
    secrets: dict[str, Template] = {}

    def source(secret: Secret) -> Node:
        name = f"{SECRET}{len(secrets)}"
        secrets[name] = Template.of(_secret(name, secret, is_json=is_json), files)
        return yaml_nodes.compose({"name": name, "sds_config": gate.source(_OF_SECRETS)})

    for context in contexts:
        push_contexts.make_secrets(context, source)
    text = yaml_nodes.write_json(root, from_json=is_json) if as_json else yaml_nodes.write(root)
    return PushForm(Template.of(text, files), listeners, secrets)


def _cut_listeners(root: MappingNode, digests: list[tuple[int, ...]], *, is_json: bool) -> str:
    """Remove the static listeners from the bootstrap; return them as JSON. Each chain names a digest of its files.

    Envoy ignores a static listener with the name of an earlier one, and refuses it by LDS: it is left out.
    """
    resources = yaml_nodes.child_mapping(root, "static_resources")
    listeners = push_contexts.listeners_of(root)
    kept = [each for each in yaml_nodes.items(yaml_nodes.get(resources, "listeners")) if each not in listeners]
    named: dict[str, MappingNode] = {}
    for number, listener in enumerate(listeners):
        name = yaml_nodes.text(yaml_nodes.get(listener, "name"))
        if not name:
            name = f"agent_listener_{number}"
            yaml_nodes.put(listener, "name", yaml_nodes.compose(name))
        named.setdefault(name, listener)
    for listener in named.values():
        for chain in push_contexts.chains_of(listener):
            _mark(chain, digests)
    yaml_nodes.remove(resources, "listeners")
    for each in kept:
        yaml_nodes.append(resources, "listeners", each)
    texts = (yaml_nodes.write_json(listener, from_json=is_json) for listener in named.values())
    return ", ".join(f'{{"@type": {json.dumps(_LISTENER_TYPE)}, {text[1:]}' for text in texts)


def _mark(chain: MappingNode, digests: list[tuple[int, ...]]) -> None:
    """Let a filter chain change whenever one of its files does, even if a push reuses a descriptor."""
    socket = yaml_nodes.get(chain, "transport_socket")
    named = () if socket is None else push_contexts.file_nodes(socket)
    files = tuple(sorted({number for _, name in named if (number := file_of(name.value)) is not None}))
    if files:
        metadata = yaml_nodes.child_mapping(yaml_nodes.child_mapping(chain, "metadata"), "filter_metadata")
        yaml_nodes.put(metadata, _METADATA, yaml_nodes.compose({"files": digest_token(len(digests))}))
        digests.append(files)


def _fetch_listeners(root: MappingNode) -> None:
    dynamic = yaml_nodes.child_mapping(root, "dynamic_resources")
    yaml_nodes.put(dynamic, "lds_config", yaml_nodes.compose(gate.source(_OF_LISTENERS)))


def _raise_limits(root: MappingNode) -> None:
    """Let more secrets wait at the gate than Envoy's default of 1,024 requests; the sidecar has no such limit."""
    for cluster in push_contexts.clusters_of(root):
        if yaml_nodes.text(yaml_nodes.get(cluster, "name")) == gate.NAME:
            yaml_nodes.put(cluster, "circuit_breakers", yaml_nodes.compose(gate.limits()))


def _secret(name: str, secret: Secret, *, is_json: bool) -> str:
    """Return a secret as JSON, the content of its files inline. The proxy must not watch directories for it."""
    yaml_nodes.remove(secret.node, "watched_directory")  # elsewhere than in a secret, Envoy ignores it
    for mapping, scalar in list(push_contexts.file_nodes(secret.node)):
        if (number := file_of(scalar.value)) is not None:
            yaml_nodes.remove(mapping, "filename")
            yaml_nodes.remove(mapping, "watched_directory")
            yaml_nodes.put(mapping, "inline_bytes", yaml_nodes.compose(content_token(number)))
    yaml_nodes.remove(secret.node, "watched_directory")  # else Envoy watches it, with an inotify instance a secret
    body = yaml_nodes.write_json(secret.node, from_json=is_json)
    head = json.dumps({"@type": _SECRET_TYPE, "name": name})[:-1]
    return f'{head}, "{secret.field}": {body}}}'
