"""Finds in a configuration dump the addresses where clients see an epoch's certificates.

Only addresses known to be TLS are returned. Skipped is every listener that could treat a handshake as data: one with a
plaintext filter chain that matches more than raw_buffer, one with other listener filters than those known here (PROXY
protocol is not), and addresses with a port chosen by the kernel, in another network namespace or for datagrams.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from agent.handoff.socket_store import ListenAddress
from agent.proxies.envoy.push_form import SECRET
from agent.proxies.interface import TlsListener

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_INSPECTORS = frozenset({"TlsInspector", "HttpInspector"})  # they only peek at the data
_MATERIALISED = "/dev/fd/"
_CRITERIA = frozenset({"server_names", "transport_protocol"})

Tree = dict[str, Any]


def find(listeners: Iterable[Tree]) -> list[TlsListener]:
    """Return the TLS addresses of listeners from /config_dump, first filter chains first."""
    ranked = [
        (rank, TlsListener(place, server_name))
        for listener in listeners
        if _is_understood(listener)
        for rank, server_name in enumerate(_server_names(listener))
        for place in _places(listener)
    ]
    ranked.sort(key=lambda each: each[0])
    return list(dict.fromkeys(found for _, found in ranked))


def _is_understood(listener: Tree) -> bool:
    binds = listener.get("bind_to_port", True) and not listener.get("use_original_dst")
    filters = (_kind(each.get("typed_config")) for each in listener.get("listener_filters", []))
    return bool(binds) and all(kind in _INSPECTORS for kind in filters) and all(map(_is_told_apart, _chains(listener)))


def _is_told_apart(chain: Tree) -> bool:
    """Return whether a filter chain is TLS, or does not match a handshake."""
    return _context(chain) is not None or _match(chain).get("transport_protocol") == "raw_buffer"


def _server_names(listener: Tree) -> Iterator[str | None]:
    for chain in _chains(listener):
        match = _match(chain)
        if match.keys() <= _CRITERIA and _is_materialised(chain) and match.get("transport_protocol") != "raw_buffer":
            names = match.get("server_names", [])
            yield names[0].replace("*", "proof", 1) if names else None


def _is_materialised(chain: Tree) -> bool:
    """Return whether its certificates are the epoch's files, or pushed; others cannot be verified."""
    common = (_context(chain) or {}).get("common_tls_context", {})
    secrets = [str(each.get("name", "")) for each in common.get("tls_certificate_sds_secret_configs", [])]
    if secrets:
        return all(name.startswith(SECRET) for name in secrets)
    sources = [each.get("certificate_chain", {}) for each in common.get("tls_certificates", [])]
    names = [str(source.get("filename", "")) for source in sources]
    return bool(names) and all(name.startswith(_MATERIALISED) for name in names)


def _chains(listener: Tree) -> list[Tree]:
    default = listener.get("default_filter_chain")
    return [*listener.get("filter_chains", []), *([] if default is None else [default])]


def _match(chain: Tree) -> Tree:
    """Return its non-empty match criteria."""
    return {name: value for name, value in chain.get("filter_chain_match", {}).items() if value}


def _context(chain: Tree) -> Tree | None:
    typed: Tree = chain.get("transport_socket", {}).get("typed_config", {})
    return typed if typed.get("@type") == _TLS else None


def _kind(typed: Tree | None) -> str:
    return str((typed or {}).get("@type", "")).rpartition(".")[2]


def _places(listener: Tree) -> Iterator[ListenAddress]:
    """Yield the addresses that a client on this machine can connect to."""
    more = [each.get("address", {}) for each in listener.get("additional_addresses", [])]
    for address in [listener.get("address", {}), *more]:
        inner = address.get("socket_address", {})
        if "pipe" in address:
            yield ListenAddress(f"unix://{address['pipe'].get('path', '')}")
        elif _is_plain_tcp(inner):
            yield ListenAddress.at("tcp", str(inner["address"]), str(inner["port_value"]), "")


def _is_plain_tcp(address: Tree) -> bool:
    protocol = address.get("protocol", "TCP")
    elsewhere = address.get("network_namespace_filepath")
    return protocol in {"TCP", 0} and not elsewhere and bool(address.get("port_value")) and _is_literal(address)


def _is_literal(address: Tree) -> bool:
    """Return whether it is an IP address and no name: a verification resolves no names."""
    try:
        ip_address(str(address.get("address", "")))
    except ValueError:
        return False
    return True
