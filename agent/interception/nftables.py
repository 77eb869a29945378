"""Renders an interception as one table of nftables, for both families, which replaces itself in one transaction."""

from collections.abc import Iterable, Iterator, Sequence

from agent.core.errors import UsageError
from agent.interception.options import Mode, Network, Options
from agent.interception.rules import Family

TABLE = "inet proxy_agent"

_HEAD = {Family.V4: "ip", Family.V6: "ip6"}


def script(options: Options) -> str:
    """Return the input of `nft -f -`. Raises `UsageError` for what only iptables does here."""
    if options.mode is Mode.TPROXY:
        message = "cannot use --backend nftables with TPROXY; use another backend"
        raise UsageError(message)
    if options.mode is Mode.NONE:
        return removal()
    lines = [f"table {TABLE} {{", *_chain("inbound", "nat hook prerouting priority dstnat", _inbound(options))]
    lines += _chain("outbound", "nat hook output priority -100", _outbound(options))
    if options.dns:
        lines += _chain("dns_in", "filter hook prerouting priority raw", _zones_in(options))
        lines += _chain("dns_out", "filter hook output priority raw", _zones_out(options))
    if options.drop_invalid:
        lines += _chain("invalid", "filter hook prerouting priority mangle", ["ct state invalid drop"])
    return removal() + "\n".join([*lines, "}", ""])


def removal() -> str:
    """Return the input that removes the table, whether or not it exists."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    return [f"  chain {name} {{", f"    type {hook}; policy accept;", *(f"    {rule}" for rule in rules), "  }"]


def _set(items: Iterable[object], *, quoted: bool = False) -> str:
    return "{ " + ", ".join(f'"{item}"' if quoted else str(item) for item in items) + " }"


def _of(family: Family, networks: Sequence[Network]) -> list[Network]:
    return [network for network in networks if network.version == family.value]


def _each_family(networks: Sequence[Network]) -> Iterator[str]:
    """Yield a match of these destinations for each family that has some."""
    for family in Family:
        if found := _of(family, networks):
            yield f"{_HEAD[family]} daddr {_set(found)}"


def _inbound(options: Options) -> Iterator[str]:
    if options.interfaces_excluded:
        yield f"iifname {_names(options.interfaces_excluded)} return"
    if options.virtual_interfaces:
        names = _names(options.virtual_interfaces)
        matches = ["meta l4proto tcp"] if options.networks is None else [*_each_family(options.networks)]
        for match in matches:
            tcp = "" if match.startswith("meta") else "meta l4proto tcp "
            yield f"iifname {names} {match} {tcp}redirect to :{options.proxy_port}"
        yield f"iifname {names} return"
    if options.tunnel_port:
        yield f"tcp dport {options.tunnel_port} return"
    if options.inbound is None:
        if options.inbound_excluded:
            yield f"tcp dport {_set(options.inbound_excluded)} return"
        yield f"meta l4proto tcp redirect to :{options.inbound_port}"
    elif options.inbound:
        yield f"tcp dport {_set(options.inbound)} redirect to :{options.inbound_port}"


def _names(interfaces: Iterable[str]) -> str:
    """Return a set of interfaces; iptables' wildcard at the end of a name is another one here."""
    return _set((f"{name[:-1]}*" if name.endswith("+") else name for name in interfaces), quoted=True)


def _outbound(options: Options) -> Iterator[str]:
    if options.interfaces_excluded:
        yield f"oifname {_names(options.interfaces_excluded)} return"
    if options.outbound_excluded:
        yield f"meta l4proto {{ tcp, udp }} th dport {_set(options.outbound_excluded)} return"
    yield from _of_the_proxy(options)
    if options.groups_excluded:
        yield f"meta skgid {_set(options.groups_excluded)} return"
    if options.groups is not None:
        yield f"meta skgid != {_set(options.groups)} return" if options.groups else "return"
    if options.dns:
        yield from (
            f"{server}{protocol} dport 53 redirect to :{options.dns_port}"
            for server in _servers(options, "daddr")
            for protocol in ("tcp", "udp")
        )
    yield from (f"{_HEAD[family]} daddr {family.local_address} return" for family in Family)
    yield from (f"{match} return" for match in _each_family(options.networks_excluded))
    if options.outbound:
        yield f"tcp dport {_set(options.outbound)} redirect to :{options.proxy_port}"
    if options.networks is None:
        yield f"meta l4proto tcp redirect to :{options.proxy_port}"
    else:
        yield from (
            f"{match} meta l4proto tcp redirect to :{options.proxy_port}" for match in _each_family(options.networks)
        )


def _of_the_proxy(options: Options) -> Iterator[str]:
    yield from (f'oifname "lo" {_HEAD[family]} saddr {family.passthrough_address} return' for family in Family)
    ports = [53] if options.dns else []
    ports += [options.tunnel_port] if options.tunnel_port else []
    match = f"tcp dport != {_set(ports)}" if ports else "meta l4proto tcp"
    for family in Family:
        to = f'oifname "lo" {_HEAD[family]} daddr != {family.local_address} {match}'
        yield f"{to} meta skuid {_set(options.uids)} redirect to :{options.inbound_port}"
    yield f"meta skuid {_set(options.uids)} return"
    yield f"meta skgid {_set(options.gids)} return"
    if not any(network.is_loopback for network in options.networks or ()):
        yield 'oifname "lo" tcp dport != 53 return' if options.dns else 'oifname "lo" return'


def _servers(options: Options, side: str) -> list[str]:
    if options.dns_servers is None:
        return [""]
    return [f"{'ip6' if ':' in server else 'ip'} {side} {server} " for server in options.dns_servers]


def _zones_out(options: Options) -> Iterator[str]:
    for owner in (f"skuid {_set(options.uids)}", f"skgid {_set(options.gids)}"):
        yield f"udp dport 53 meta {owner} ct zone set 1 return"
        yield f"udp sport {options.dns_port} meta {owner} ct zone set 2 return"
    yield from (f"{server}udp dport 53 ct zone set 2" for server in _servers(options, "daddr"))


def _zones_in(options: Options) -> Iterator[str]:
    yield from (f"{server}udp sport 53 ct zone set 1" for server in _servers(options, "saddr"))
