"""The default bootstrap for operators who provide only certificates: TLS to one service."""

import json
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from agent.certificates.references import Reference, Role

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def bootstrap(listen: tuple[str, int], forward: tuple[str, int], references: Iterable[Reference]) -> str:
    """Return a readable YAML bootstrap that serves every pair, selected by the requested name."""
    pairs = _pairs(list(references))
    certificates = "\n".join(_CERTIFICATE.format(chain=json.dumps(chain), key=json.dumps(key)) for chain, key in pairs)
    return _BOOTSTRAP.format(
        listen_host=json.dumps(listen[0]),
        listen_port=listen[1],
        forward_host=json.dumps(forward[0]),
        forward_port=forward[1],
        kind="STATIC" if _is_number(forward[0]) else "STRICT_DNS",
        certificates=certificates,
        tls=_TLS,
        tcp_proxy=_TCP_PROXY,
    )


def _pairs(references: Sequence[Reference]) -> list[tuple[str, str]]:
    keys = {reference.group: reference.path for reference in references if reference.role is Role.KEY}
    chains = [reference for reference in references if reference.role is Role.CHAIN]
    return [(chain.path, keys[chain.group]) for chain in chains if chain.group in keys]


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


_CERTIFICATE = """\
            - certificate_chain: {{filename: {chain}}}
              private_key: {{filename: {key}}}"""

_BOOTSTRAP = """\
static_resources:
  listeners:
  - name: inbound
    address:
      socket_address: {{address: {listen_host}, port_value: {listen_port}}}
    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": {tls}
          common_tls_context:
            tls_certificates:
{certificates}
      filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": {tcp_proxy}
          stat_prefix: inbound
          cluster: application
  clusters:
  - name: application
    type: {kind}
    connect_timeout: 1s
    load_assignment:
      cluster_name: application
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: {{address: {forward_host}, port_value: {forward_port}}}
"""
