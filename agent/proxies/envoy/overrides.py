"""Merges a document over a bootstrap as Envoy merges `--config-yaml`, without its content on a command line.

As protobuf's MergeFrom: messages are merged, repeated fields are joined, any other field is replaced. Envoy knows the
types of fields; here the exceptions are listed: an `Any` is replaced whole, and so is each value of a map or a Struct.
Of alternatives, such as `pipe` beside `socket_address`, the document's own remains. Null and an empty text change
nothing. On purpose, a duration is replaced: Envoy merges it as a message, its seconds apart from its fraction;
and false and 0 replace, while in Envoy a value that is its type's default changes nothing.
Source: protobuf.dev/programming-guides/proto3, and differential tests with Envoy's `/config_dump`.
"""

from collections.abc import Iterable

from yaml.nodes import MappingNode, Node, SequenceNode

from agent.proxies.envoy import yaml_nodes

_MAPS = (
    "metadata", "static_layer", "typed_extension_protocol_options", "extension_protocol_options", "filter_metadata",
    "typed_filter_metadata", "inline_headers", "client_features", "dynamic_parameters", "json_format",
)  # fmt: skip
_ALTERNATIVES = (
    ("socket_address", "pipe", "envoy_internal_address"),
    ("filename", "inline_bytes", "inline_string", "environment_variable"),
    ("path", "path_config_source", "api_config_source", "ads", "self"),
    ("exact", "prefix", "suffix", "safe_regex", "contains", "custom"),
    ("static_layer", "disk_layer", "admin_layer", "rtds_layer"),
    ("type", "cluster_type"),
    ("accept_all", "reject_all", "exclusion_list", "inclusion_list"),
    ("envoy_grpc", "google_grpc"),
    ("text_format", "json_format"),
    ("port_value", "named_port"),
)


def merged(text: str, name: str, over: str, over_name: str) -> str:
    """Return the bootstrap with a document merged over it, in the bootstrap's own format.

    Raises `BadInput` naming the file and the line.
    """
    is_json = name.endswith(".json")
    root = yaml_nodes.read(text, name, is_json=is_json)
    above = yaml_nodes.read(over, over_name)
    yaml_nodes.unshare(root)
    yaml_nodes.unshare(above)
    _merge(root, above)
    return yaml_nodes.write_json(root, from_json=over_name.endswith(".json")) if is_json else yaml_nodes.write(root)


def _merge(below: MappingNode, above: MappingNode) -> None:
    for key, value in above.value:
        name = yaml_nodes.text(key) or ""
        _drop_alternatives(below, name)
        found = next((pair for pair in below.value if _is_same(pair[0], name)), None)
        if found is not None and not isinstance(value, (MappingNode, SequenceNode)) and not yaml_nodes.text(value):
            continue
        if found is None:
            below.value.append((key, value))
        else:
            at = below.value.index(found)
            below.value[at] = (found[0], _merged(name, found[1], value))


def _merged(name: str, below: Node, above: Node) -> Node:
    if isinstance(below, SequenceNode) and isinstance(above, SequenceNode):
        return SequenceNode(below.tag, [*below.value, *above.value])
    if not isinstance(below, MappingNode) or not isinstance(above, MappingNode) or _is_any(below, above):
        return above
    if any(yaml_nodes.is_name(name, each) for each in _MAPS):
        names = {yaml_nodes.text(key) for key, _ in above.value}
        kept = [pair for pair in below.value if yaml_nodes.text(pair[0]) not in names]
        return MappingNode(below.tag, [*kept, *above.value])
    _merge(below, above)
    return below


def _is_any(*nodes: Node) -> bool:
    return any(yaml_nodes.get(node, "@type") is not None for node in nodes)


def _is_same(key: Node, name: str) -> bool:
    """Return whether a key is this one, in snake_case or camelCase."""
    known = yaml_nodes.text(key)
    return known is not None and (yaml_nodes.is_name(known, name) or yaml_nodes.is_name(name, known))


def _drop_alternatives(below: MappingNode, name: str) -> None:
    for alternatives in _ALTERNATIVES:
        if _named(name, alternatives):
            others = [each for each in alternatives if not yaml_nodes.is_name(name, each)]
            for other in others:
                yaml_nodes.remove(below, other)


def _named(name: str, keys: Iterable[str]) -> bool:
    return any(yaml_nodes.is_name(name, key) for key in keys)
