"""The rules of an interception, spelled as iptables-save prints them, for one family of addresses.

Each built-in chain gets one jump, to a chain of ours that holds all the rest: so one transaction can replace it, and
nothing of it depends on the options that it was made with. The chains have Istio's names, which people and tools know.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from agent.interception.options import Mode, Network, Options

PREFIX = "ISTIO_"
"""All chains of ours begin with it."""

INBOUND, OUTPUT = f"{PREFIX}INBOUND", f"{PREFIX}OUTPUT"
REDIRECT, IN_REDIRECT = f"{PREFIX}REDIRECT", f"{PREFIX}IN_REDIRECT"
DIVERT, TPROXY, DROP = f"{PREFIX}DIVERT", f"{PREFIX}TPROXY", f"{PREFIX}DROP"

_BUILT_IN = ("PREROUTING", "OUTPUT")
_DNS = 53
_ZONE_OF_RESOLVER, _ZONE_OF_PROXY = 1, 2
_WHOLE = "0xffffffff"


class Family(Enum):
    """A family of addresses, by the number in the kernel's file names: IPv4 has none."""

    V4 = 4
    V6 = 6

    def __str__(self) -> str:
        return f"IPv{self.value}"

    @property
    def local_address(self) -> str:
        """The loopback address."""
        return "127.0.0.1" if self is Family.V4 else "::1"

    @property
    def passthrough_address(self) -> str:
        """The source of connections that the proxy opens to the application beside it."""
        return "127.0.0.6" if self is Family.V4 else "::6"

    @property
    def local(self) -> str:
        """The loopback address as a network."""
        return f"{self.local_address}/{self.length}"

    @property
    def passthrough(self) -> str:
        """The passthrough address as a network."""
        return f"{self.passthrough_address}/{self.length}"

    @property
    def any(self) -> str:
        """The address that stands for all."""
        return "0.0.0.0" if self is Family.V4 else "::"  # noqa: S104  # part of a rule

    @property
    def length(self) -> int:
        """The bits of an address."""
        return 32 if self is Family.V4 else 128


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a chain; `text` as iptables-save prints it behind the chain."""

    table: str
    chain: str
    text: str

    @property
    def is_jump(self) -> bool:
        """Whether it leads from a built-in chain to ours."""
        return self.chain in _BUILT_IN

    def __str__(self) -> str:
        return f"-A {self.chain} {self.text}"


def rules(options: Options, family: Family) -> list[Rule]:
    """Return the rules, jumps first in each table."""
    return [] if options.mode is Mode.NONE else list(_Rules(options, family).all())


class _Rules:
    def __init__(self, options: Options, family: Family) -> None:
        self._options = options
        self._family = family
        self._included = _of_family(options.networks, family)
        self._servers = _servers_of(options, family)
        self._by_tproxy = options.mode is Mode.TPROXY
        self._has_inbound = options.inbound is None or bool(options.inbound)

    def all(self) -> Iterator[Rule]:
        yield from self._nat()
        if self._has_dns:
            yield from self._raw()
        if self._options.drop_invalid:
            yield Rule("mangle", "PREROUTING", f"-j {DROP}")
        if self._by_tproxy and self._has_inbound:
            yield from self._mangle()
        if self._options.drop_invalid:
            yield Rule("mangle", DROP, "-m conntrack --ctstate INVALID -j DROP")

    @property
    def _has_dns(self) -> bool:
        return self._options.dns and (self._servers is None or bool(self._servers))

    # nat

    def _nat(self) -> Iterator[Rule]:
        options = self._options
        inbound = [*self._inbound()]
        if inbound:
            yield Rule("nat", "PREROUTING", f"-p tcp -j {INBOUND}")
        yield Rule("nat", "OUTPUT", f"-j {OUTPUT}")
        yield Rule("nat", REDIRECT, f"-p tcp -j REDIRECT --to-ports {options.proxy_port}")
        yield Rule("nat", IN_REDIRECT, f"-p tcp -j REDIRECT --to-ports {options.inbound_port}")
        yield from (Rule("nat", INBOUND, text) for text in inbound)
        yield from (Rule("nat", OUTPUT, text) for text in self._outbound())

    def _inbound(self) -> Iterator[str]:
        options = self._options
        by_redirect = self._has_inbound and not self._by_tproxy
        if not by_redirect and not options.virtual_interfaces:
            return
        yield from (f"-i {name} -j RETURN" for name in options.interfaces_excluded)
        for name in options.virtual_interfaces:
            networks = [""] if self._included is None else [f"-d {each} " for each in self._included]
            yield from (f"{network}-i {name} -p tcp -j {REDIRECT}" for network in networks)
            yield f"-i {name} -j RETURN"
        if by_redirect:
            yield from self._captured(IN_REDIRECT)

    def _captured(self, target: str) -> Iterator[str]:
        """Yield the rules that lead the chosen ports to a chain, after those that do not."""
        yield from self._not_captured()
        if self._options.inbound is None:
            yield f"-p tcp -j {target}"
        else:
            yield from (f"{_to(port)} -j {target}" for port in self._options.inbound)

    def _not_captured(self) -> Iterator[str]:
        options = self._options
        if options.tunnel_port:
            yield f"{_to(options.tunnel_port)} -j RETURN"
        if options.inbound is None:
            yield from (f"{_to(port)} -j RETURN" for port in options.inbound_excluded)

    def _outbound(self) -> Iterator[str]:
        yield from self._outbound_excluded()
        yield from self._of_the_proxy()
        yield from self._of_groups()
        if self._has_dns:
            for server in self._server_matches("-d"):
                yield f"{server}-p tcp -m tcp --dport {_DNS} -j REDIRECT --to-ports {self._options.dns_port}"
                yield f"{server}-p udp -m udp --dport {_DNS} -j REDIRECT --to-ports {self._options.dns_port}"
        yield f"-d {self._family.local} -j RETURN"
        excluded = _of_family(self._options.networks_excluded, self._family) or ()
        yield from (f"-d {network} -j RETURN" for network in excluded)
        yield from (f"{_to(port)} -j {REDIRECT}" for port in self._options.outbound)
        if self._included is None:
            yield f"-j {REDIRECT}"
        else:
            yield from (f"-d {network} -j {REDIRECT}" for network in self._included)

    def _outbound_excluded(self) -> Iterator[str]:
        yield from (f"-o {name} -j RETURN" for name in self._options.interfaces_excluded)
        for port in self._options.outbound_excluded:
            yield f"-p tcp -m tcp --dport {port} -j RETURN"
            yield f"-p udp -m udp --dport {port} -j RETURN"

    def _of_the_proxy(self) -> Iterator[str]:
        """Yield the rules for what the proxy sends itself: to its own pod it is captured once more, else never."""
        options, family = self._options, self._family
        yield f"-s {family.passthrough} -o lo -j RETURN"
        if not self._by_tproxy:
            for uid in options.uids:
                ports = self._own_ports()
                yield f"! -d {family.local} -o lo -p tcp {ports}-m owner --uid-owner {uid} -j {IN_REDIRECT}"
        yield from (f"-m owner --uid-owner {uid} -j RETURN" for uid in options.uids)
        yield from (f"-m owner --gid-owner {gid} -j RETURN" for gid in options.gids)
        if not any(network.is_loopback for network in self._included or ()):
            yield f"-o lo -p tcp -m tcp ! --dport {_DNS} -j RETURN" if self._has_dns else "-o lo -j RETURN"

    def _own_ports(self) -> str:
        """Return the match of the ports at which the proxy's calls to its own pod are captured."""
        tunnel = self._options.tunnel_port
        if self._has_dns:
            return f"-m multiport ! --dports {_DNS},{tunnel} " if tunnel else f"-m tcp ! --dport {_DNS} "
        return f"-m tcp ! --dport {tunnel} " if tunnel else ""

    def _of_groups(self) -> Iterator[str]:
        yield from (f"-m owner --gid-owner {gid} -j RETURN" for gid in self._options.groups_excluded)
        if self._options.groups is not None:
            others = " ".join(f"-m owner ! --gid-owner {gid}" for gid in self._options.groups)
            yield f"{others} -j RETURN".strip()

    # DNS: the proxy's queries and the application's are tracked apart

    def _server_matches(self, side: str) -> list[str]:
        if self._servers is None:
            return [""]
        return [f"{side} {server}/{self._family.length} " for server in self._servers]

    def _raw(self) -> Iterator[Rule]:
        options = self._options
        yield Rule("raw", "OUTPUT", f"-p udp -j {OUTPUT}")
        yield Rule("raw", "PREROUTING", f"-p udp -j {INBOUND}")
        owners = [*(f"--uid-owner {uid}" for uid in options.uids), *(f"--gid-owner {gid}" for gid in options.gids)]
        to, of = f"-p udp -m udp --dport {_DNS}", f"-p udp -m udp --sport {options.dns_port}"
        for owner in owners:
            yield Rule("raw", OUTPUT, f"{to} -m owner {owner} -j CT --zone {_ZONE_OF_RESOLVER}")
            yield Rule("raw", OUTPUT, f"{of} -m owner {owner} -j CT --zone {_ZONE_OF_PROXY}")
        for server in self._server_matches("-d"):
            yield Rule("raw", OUTPUT, f"{server}{to} -j CT --zone {_ZONE_OF_PROXY}")
        for server in self._server_matches("-s"):
            yield Rule("raw", INBOUND, f"{server}-p udp -m udp --sport {_DNS} -j CT --zone {_ZONE_OF_RESOLVER}")

    # TPROXY: connections to the pod are marked, and a route of their own leads them to the proxy

    def _mangle(self) -> Iterator[Rule]:
        options, family = self._options, self._family
        mark = f"{options.mark:#x}/{_WHOLE}"
        yield Rule("mangle", "PREROUTING", f"-p tcp -j {INBOUND}")
        yield Rule("mangle", "OUTPUT", f"-p tcp -j {OUTPUT}")
        yield Rule("mangle", DIVERT, f"-j MARK --set-xmark {mark}")
        yield Rule("mangle", DIVERT, "-j ACCEPT")
        there = f"--on-port {options.inbound_port} --on-ip {family.any} --tproxy-mark {mark}"
        yield Rule("mangle", TPROXY, f"! -d {family.local} -p tcp -j TPROXY {there}")
        yield from (Rule("mangle", INBOUND, text) for text in self._marked_inbound())
        yield from (Rule("mangle", OUTPUT, text) for text in self._marked_outbound())

    def _marked_inbound(self) -> Iterator[str]:
        options, masks = self._options, f"--nfmask {_WHOLE} --ctmask {_WHOLE}"
        yield from (f"-i {name} -j RETURN" for name in options.interfaces_excluded)
        yield f"-p tcp -m mark --mark {options.mark:#x} -j CONNMARK --save-mark {masks}"
        yield f"-p tcp -m mark --mark {options.mark:#x} -j RETURN"
        yield f"-s {self._family.passthrough} -i lo -p tcp -j RETURN"
        yield f"-i lo -p tcp -m mark ! --mark {options.mark + 1:#x} -j RETURN"
        yield from self._not_captured()
        established = "-m conntrack --ctstate RELATED,ESTABLISHED"
        for match in ["-p tcp"] if options.inbound is None else [_to(port) for port in options.inbound]:
            yield f"{match} {established} -j {DIVERT}"
            yield f"{match} -j {TPROXY}"

    def _marked_outbound(self) -> Iterator[str]:
        options, masks = self._options, f"--nfmask {_WHOLE} --ctmask {_WHOLE}"
        own = f"-j MARK --set-xmark {options.mark + 1:#x}/{_WHOLE}"
        yield f"-o lo -p tcp -m mark --mark {options.mark:#x} -j RETURN"
        for owner in (
            *(f"--uid-owner {uid}" for uid in options.uids),
            *(f"--gid-owner {gid}" for gid in options.gids),
        ):
            yield f"! -d {self._family.local} -o lo -p tcp -m owner {owner} {own}"
        yield f"-p tcp -m connmark --mark {options.mark:#x} -j CONNMARK --restore-mark {masks}"


def _to(port: int) -> str:
    return f"-p tcp -m tcp --dport {port}"


def _of_family(networks: tuple[Network, ...] | None, family: Family) -> tuple[Network, ...] | None:
    return None if networks is None else tuple(each for each in networks if each.version == family.value)


def _servers_of(options: Options, family: Family) -> tuple[str, ...] | None:
    """Return the name servers of the family; None for all."""
    if options.dns_servers is None:
        return None
    return tuple(each for each in options.dns_servers if ip_address(each).version == family.value)
