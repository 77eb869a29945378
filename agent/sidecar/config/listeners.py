"""Reads listeners and their filter chains."""

from agent.sidecar.config.addresses import address
from agent.sidecar.config.fields import NOT_SUPPORTED, Message
from agent.sidecar.config.filters import network_filter
from agent.sidecar.config.transport_sockets import downstream
from agent.sidecar.model import Echo, FilterChain, Listener, Match, Pipe, SocketAddress

LISTENER = "envoy.config.listener.v3.Listener"
_CHAIN = "envoy.config.listener.v3.FilterChain"
TLS_INSPECTOR = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
ORIGINAL_DST = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"

_DIRECTIONS = {"UNSPECIFIED": 0, "INBOUND": 1, "OUTBOUND": 2}
_LONGEST_BACKLOG = (1 << 31) - 1  # the maximum of listen(2)
_DRAIN_TYPES = {"DEFAULT": 0, "MODIFY_ONLY": 1}


def listener(message: Message, number: int) -> Listener:
    """Return one listener; without a name, it is named after its `number`."""
    message.choice("drain_type", _DRAIN_TYPES, {"DEFAULT": None}, None)
    message.truth("ignore_global_conn_limit", default=False)
    more = message.messages("additional_addresses", "envoy.config.listener.v3.AdditionalAddress")
    chains = tuple(_chain(each) for each in message.messages("filter_chains", _CHAIN))
    default = message.message("default_filter_chain", _CHAIN)
    if not chains and default is None:
        message.missing("filter_chains")
    _require_distinct(message, chains)
    kinds = _listener_filters(message)
    made = Listener(
        name=message.text("name") or f"unnamed_{number}",
        addresses=(address(message), *(address(each) for each in more)),
        chains=chains,
        default_chain=None if default is None else _default_chain(default),
        stat_prefix=message.text("stat_prefix"),
        bind_to_port=message.truth("bind_to_port", default=True),
        reuse_port=message.truth("enable_reuse_port", default=True),
        inspects_tls=TLS_INSPECTOR in kinds or any(_wants_inspection(chain.match) for chain in chains),
        original_dst=ORIGINAL_DST in kinds,
        inspection_timeout=message.span("listener_filters_timeout", 15.0),
        continue_on_timeout=message.truth("continue_on_listener_filters_timeout", default=False),
        backlog=min(message.number("tcp_backlog_size", 4096), _LONGEST_BACKLOG),
        inbound=message.choice("traffic_direction", _DIRECTIONS, _INBOUND, default=False),
        buffer_limit=_buffer_limit(message),
    )
    _require_one_family(message, made)
    return made


_INBOUND = {"UNSPECIFIED": False, "INBOUND": True, "OUTBOUND": False}


def _buffer_limit(message: Message) -> int:
    limit = message.number("per_connection_buffer_limit_bytes", 1 << 20)
    if not limit:
        message.refuse("per_connection_buffer_limit_bytes", f"no limit at all is {NOT_SUPPORTED}")
    return limit


def _listener_filters(message: Message) -> set[str]:
    kinds = set()
    for each in message.messages("listener_filters", "envoy.config.listener.v3.ListenerFilter"):
        each.text("name", required=True)
        typed = each.typed((TLS_INSPECTOR, ORIGINAL_DST))
        if typed is not None:
            kinds.add(typed[0])
    return kinds


def _wants_inspection(match: Match) -> bool:
    return bool(match.server_names or match.application_protocols or match.transport_protocol == "tls")


def _require_one_family(message: Message, made: Listener) -> None:
    for each in made.addresses:
        if isinstance(each, SocketAddress) and each.dual_stack and ":" not in each.host:
            message.refuse("address", f"ipv4_compat is for IPv6, and {each.host} is not an IPv6 address")
    if len({isinstance(each, Pipe) for each in made.addresses}) > 1:
        message.refuse("additional_addresses", f"a listener on both a port and a path is {NOT_SUPPORTED}")


def _require_distinct(message: Message, chains: tuple[FilterChain, ...]) -> None:
    """Reject filter chains that match the same connections."""
    seen: dict[tuple[str, str, str], int] = {}
    for number, chain in enumerate(chains):
        for key in _keys(chain.match):
            if key in seen:
                path = message.at(f"filter_chains[{number}].filter_chain_match")
                message.refusals.add(path, f"it matches the same connections as filter_chains[{seen[key]}]")
                break
            seen[key] = number


def _keys(match: Match) -> list[tuple[str, str, str]]:
    return [
        (name, match.transport_protocol, protocol)
        for name in match.server_names or ("",)
        for protocol in match.application_protocols or ("",)
    ]


def _chain(message: Message) -> FilterChain:
    match = message.message("filter_chain_match", "envoy.config.listener.v3.FilterChainMatch")
    filters = message.messages("filters", "envoy.config.listener.v3.Filter")
    if len(filters) != 1:
        message.refuse("filters", f"anything but one filter is {NOT_SUPPORTED}")
    read = [network_filter(each) for each in filters]
    return FilterChain(
        filter=read[0] if read else Echo(),
        name=message.text("name"),
        match=Match() if match is None else _match(match),
        tls=downstream(message),
        connect_timeout=message.span("transport_socket_connect_timeout", 15.0),
    )


def _default_chain(message: Message) -> FilterChain:
    if message.has("filter_chain_match"):
        message.refuse("filter_chain_match", f"a match of the default chain, which Envoy ignores, is {NOT_SUPPORTED}")
    return _chain(message)


def _match(message: Message) -> Match:
    names = tuple(name.lower() for name in message.texts("server_names"))
    protocols = message.texts("application_protocols")
    for name in names:
        if not name or name == "*." or "*" in name.removeprefix("*."):
            message.refuse("server_names", f"{name!r} is {NOT_SUPPORTED}, only names and *.example.com")
    if "" in protocols:
        message.refuse("application_protocols", f"a protocol without a name is {NOT_SUPPORTED}")
    transport = message.text("transport_protocol")
    if transport not in {"", "tls", "raw_buffer"}:
        message.refuse("transport_protocol", f"{transport} is {NOT_SUPPORTED}, only tls and raw_buffer")
    return Match(names, transport, protocols)
