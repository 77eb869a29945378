"""Finds the TLS contexts of a bootstrap whose files can be pushed, and rewrites them.

By LDS, a listener keeps its files by name, and each push names other descriptors: any certificate file of its contexts
can be pushed. By SDS, the certificates of a context become secrets, which excludes more: a context has either files or
secrets, and each changed secret makes a whole new context.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agent.proxies.envoy import yaml_nodes

CONTEXT = "common_tls_context"
_CERTIFICATES, _VALIDATION, _COMBINED = "tls_certificates", "validation_context", "combined_validation_context"
_SECRETS = "tls_certificate_sds_secret_configs"
_VALIDATION_SECRET = "validation_context_sds_secret_config"  # noqa: S105  # the name of a field
_OTHER_CERTIFICATES = (
    _SECRETS,
    "tls_certificate_provider_instance",
    "tls_certificate_certificate_provider",
    "tls_certificate_certificate_provider_instance",
    "custom_tls_certificate_selector",
)
MOST_SECRETS = 16
"""The most certificates of a context that become secrets: Envoy makes the whole context anew for each that changes."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A certificate or validation context that becomes a secret: its field in `Secret`, and its node."""

    field: str
    node: MappingNode


@dataclass(frozen=True, slots=True)
class PushMode:
    """How certificates are pushed.

    `drains`: connections of a changed certificate end, so listeners come by LDS, which Envoy alone can do.
    """

    drains: bool


def by_listeners(push: PushMode | None, *, has_listeners: bool) -> bool:
    """Return whether listeners come from the agent: a proxy has one source of listeners at most."""
    return push is not None and push.drains and not has_listeners


def listeners_of(root: MappingNode) -> list[MappingNode]:
    """Return the static listeners that a listener discovery response can carry."""
    listed = yaml_nodes.items(yaml_nodes.get(root, "static_resources", "listeners"))
    return [each for each in listed if isinstance(each, MappingNode) and yaml_nodes.get(each, "api_listener") is None]


def clusters_of(root: MappingNode) -> list[MappingNode]:
    """Return the static clusters."""
    listed = yaml_nodes.items(yaml_nodes.get(root, "static_resources", "clusters"))
    return [each for each in listed if isinstance(each, MappingNode)]


def contexts_of(resources: Iterable[MappingNode]) -> list[MappingNode]:
    """Return the TLS contexts of listeners or clusters."""
    return [node for each in resources for key, node in yaml_nodes.mappings(each) if yaml_nodes.is_name(key, CONTEXT)]


def pushable_files(root: MappingNode, *, by_listeners: bool) -> frozenset[str]:
    """Return the certificate files that are named only where a push reaches them."""
    every = Counter(_files(root))
    reached: Counter[str] = Counter()
    listeners = listeners_of(root)
    if by_listeners:
        for context in contexts_of(listeners):
            reached.update(path for node in _certificate_nodes(context) for path in _files(node))
    for context in contexts_of(clusters_of(root) if by_listeners else [*listeners, *clusters_of(root)]):
        reached.update(path for secret in secrets_of(context) for path in _files(secret.node))
    return frozenset(path for path, count in reached.items() if count == every[path])


def secrets_of(context: MappingNode) -> list[Secret]:
    """Return what becomes a secret in a context; nothing if it cannot be rewritten."""
    found = []
    certificates = yaml_nodes.items(yaml_nodes.get(context, _CERTIFICATES))
    if _may_be_secrets(context, certificates):
        found += [Secret("tls_certificate", each) for each in certificates if isinstance(each, MappingNode)]
    validation = yaml_nodes.get(context, _VALIDATION)
    if isinstance(validation, MappingNode) and any(_files(validation)):
        found.append(Secret("validation_context", validation))
    return found


def make_secrets(context: MappingNode, source: Callable[[Secret], Node]) -> None:
    """Replace what becomes a secret by `source` of it: a node with its name and where it comes from."""
    configs: list[Node] = []
    for secret in secrets_of(context):
        if secret.field == "tls_certificate":
            configs.append(source(secret))
        else:
            yaml_nodes.put(context, _VALIDATION_SECRET, source(secret))
            yaml_nodes.remove(context, _VALIDATION)
    if configs:
        yaml_nodes.remove(context, _CERTIFICATES)
        yaml_nodes.put(context, _SECRETS, SequenceNode("tag:yaml.org,2002:seq", configs))


def chains_of(listener: MappingNode) -> Iterator[MappingNode]:
    """Yield the filter chains of a listener, the default one last."""
    default = yaml_nodes.get(listener, "default_filter_chain")
    for chain in [*yaml_nodes.items(yaml_nodes.get(listener, "filter_chains")), default]:
        if isinstance(chain, MappingNode):
            yield chain


def file_nodes(root: Node) -> Iterator[tuple[MappingNode, ScalarNode]]:
    """Yield each data source that names a file, and the scalar that names it."""
    for _, mapping in yaml_nodes.mappings(root):
        name = yaml_nodes.get(mapping, "filename")
        if isinstance(name, ScalarNode):
            yield mapping, name


def _files(root: Node) -> Iterator[str]:
    return (str(name.value) for _, name in file_nodes(root))


def _certificate_nodes(context: MappingNode) -> Iterator[Node]:
    """Yield the certificates and validation contexts of a context, PKCS #12 files excepted: they are no PEM."""
    for certificate in yaml_nodes.items(yaml_nodes.get(context, _CERTIFICATES)):
        if yaml_nodes.get(certificate, "pkcs12") is None:
            yield certificate
    for found in (
        yaml_nodes.get(context, _VALIDATION),
        yaml_nodes.get(context, _COMBINED, "default_validation_context"),
    ):
        if found is not None:
            yield found


def _may_be_secrets(context: MappingNode, certificates: list[Node]) -> bool:
    if not certificates or len(certificates) > MOST_SECRETS:
        return False
    if any(yaml_nodes.get(context, other) is not None for other in _OTHER_CERTIFICATES):
        return False
    has_files = any(True for each in certificates for _ in _files(each))
    return has_files and all(yaml_nodes.get(each, "pkcs12") is None for each in certificates)
