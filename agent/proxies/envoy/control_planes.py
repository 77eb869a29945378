"""Finds the control planes that a document names, and their configured addresses."""

from yaml.nodes import MappingNode, Node

from agent.proxies.envoy import yaml_nodes

_SOURCES = ("api_config_source", "ads_config")  # ApiConfigSource: of GRPC, DELTA_GRPC and REST


def find(root: MappingNode) -> dict[str, str | None]:
    """Return name to address of each: a cluster, or a Google gRPC target, which is its own address.

    The address is host and port, or a path, of the first endpoint; None if the document does not define the cluster.
    """
    names: dict[str, str | None] = {}
    clusters: dict[str, Node] = {}
    for key, mapping in yaml_nodes.mappings(root):
        if any(yaml_nodes.is_name(key, each) for each in _SOURCES):
            names.update(_named(mapping))
        elif key == "clusters" and (name := yaml_nodes.text(yaml_nodes.get(mapping, "name"))):
            clusters[name] = mapping
    return {name: address or _address(clusters.get(name)) for name, address in names.items()}


def _named(source: MappingNode) -> dict[str, str | None]:
    """Return the control planes of one ApiConfigSource, with the address if the source itself has it."""
    found = {yaml_nodes.text(each): None for each in yaml_nodes.items(yaml_nodes.get(source, "cluster_names"))}
    named: dict[str, str | None] = {name: None for name in found if name is not None}
    for service in yaml_nodes.items(yaml_nodes.get(source, "grpc_services")):
        cluster = yaml_nodes.text(yaml_nodes.get(service, "envoy_grpc", "cluster_name"))
        target = yaml_nodes.text(yaml_nodes.get(service, "google_grpc", "target_uri"))
        named |= {} if cluster is None else {cluster: None}
        named |= {} if target is None else {target: target.removeprefix("dns:///").removeprefix("dns:")}
    return named


def _address(cluster: Node | None) -> str | None:
    """Return the address of a cluster's first endpoint."""
    for group in yaml_nodes.items(yaml_nodes.get(cluster, "load_assignment", "endpoints")):
        for endpoint in yaml_nodes.items(yaml_nodes.get(group, "lb_endpoints")):
            address = yaml_nodes.get(endpoint, "endpoint", "address")
            host = yaml_nodes.text(yaml_nodes.get(address, "socket_address", "address"))
            port = yaml_nodes.text(yaml_nodes.get(address, "socket_address", "port_value"))
            return f"{host}:{port}" if host and port else yaml_nodes.text(yaml_nodes.get(address, "pipe", "path"))
    return None
