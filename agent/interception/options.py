"""The options of an interception, parsed and checked before anything is changed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from agent.core.errors import UsageError

Network = IPv4Network | IPv6Network

_ALL = "*"
_LONGEST_INTERFACE = 15  # characters: IFNAMSIZ without its end
_MOST_GROUPS = 64
_LARGEST_ID = 2**32 - 2
_LARGEST_MARK = 2**32 - 2  # the next one is used as well
_INTERFACE = re.compile(r"[^\s/:]+\+?")


class Mode(StrEnum):
    """How inbound connections reach the proxy."""

    REDIRECT = "REDIRECT"  # with another destination, the original one in SO_ORIGINAL_DST
    TPROXY = "TPROXY"  # with source and destination unchanged
    NONE = "NONE"  # not at all, and outbound ones neither


@dataclass(frozen=True, slots=True)
class Options:
    """The traffic that is intercepted. A port of 0 is none; None stands for all ports, networks or groups."""

    proxy_port: int = 15001
    inbound_port: int = 15006
    tunnel_port: int = 15008
    dns_port: int = 15053
    uids: tuple[int, ...] = (1337,)
    gids: tuple[int, ...] = (1337,)
    mode: Mode = Mode.REDIRECT
    inbound: tuple[int, ...] | None = None
    inbound_excluded: tuple[int, ...] = ()
    outbound: tuple[int, ...] = ()  # ports that are intercepted whatever their network
    outbound_excluded: tuple[int, ...] = ()
    networks: tuple[Network, ...] | None = None
    networks_excluded: tuple[Network, ...] = ()
    interfaces_excluded: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    groups: tuple[int, ...] | None = None
    groups_excluded: tuple[int, ...] = ()
    dns: bool = False
    dns_servers: tuple[str, ...] | None = None
    drop_invalid: bool = False
    mark: int = 1337
    route_table: int = 133
    warnings: tuple[str, ...] = field(default=(), compare=False)


def parse(texts: Mapping[str, str], switches: Mapping[str, bool], servers: Sequence[str]) -> Options:
    """Parse the texts of options by name, such as `inbound-ports`, and the switches; a missing one has its default.

    `servers`: the addresses of the name servers. Raises `UsageError` naming the option and the item.
    """
    read = _Reader(texts)
    proxy, inbound = read.port("envoy-port", 15001), read.port("inbound-capture-port", 15006)
    if proxy == inbound:
        message = f"cannot use --inbound-capture-port {inbound}: --envoy-port is the same"
        raise UsageError(message)
    uids = read.ids("proxy-uid") or (1337,)
    if 0 in uids:
        message = (
            "cannot use --proxy-uid 0: everything that root does would bypass the proxy; name the proxy's own user"
        )
        raise UsageError(message)
    dns = switches.get("redirect-dns", False) or switches.get("capture-all-dns", False)
    return Options(
        proxy_port=proxy,
        inbound_port=inbound,
        tunnel_port=read.port("inbound-tunnel-port", 15008, may_be_none=True),
        uids=uids,
        gids=read.ids("proxy-gid") or uids,
        mode=read.mode("inbound-interception-mode"),
        inbound=read.ports_or_all("inbound-ports"),
        inbound_excluded=read.ports("local-exclude-ports"),
        outbound=read.ports("outbound-ports"),
        outbound_excluded=read.ports("local-outbound-ports-exclude"),
        networks=read.networks_or_all("service-cidr"),
        networks_excluded=read.networks("service-exclude-cidr"),
        interfaces_excluded=read.interfaces("exclude-interfaces"),
        virtual_interfaces=read.interfaces("kube-virt-interfaces"),
        groups=read.groups_or_all("outbound-owner-groups"),
        groups_excluded=read.groups("outbound-owner-groups-exclude"),
        dns=dns,
        dns_servers=None if switches.get("capture-all-dns", False) else tuple(servers),
        drop_invalid=switches.get("drop-invalid", False),
        mark=read.number("inbound-tproxy-mark", 1337, _LARGEST_MARK),
        route_table=read.number("inbound-tproxy-route-table", 133, _LARGEST_ID),
        warnings=tuple(read.warnings),
    )


class _Reader:
    """Reads the texts of options; each method raises `UsageError` naming the option and the item."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self.warnings: list[str] = []

    def _items(self, name: str, default: str = "") -> list[str]:
        items = [item.strip() for item in self._texts.get(name, default).split(",")]
        return list(dict.fromkeys(item for item in items if item))

    def _fail(self, name: str, item: str, reason: str) -> UsageError:
        return UsageError(f"cannot use --{name} {item}: {reason}")

    def number(self, name: str, default: int, most: int, *, least: int = 1) -> int:
        """Return a number in decimal, or in hexadecimal with 0x."""
        text = self._texts.get(name, "").strip() or str(default)
        try:
            value = int(text, 16 if text[:2].lower() == "0x" else 10)
        except ValueError:
            raise self._fail(name, text, "it is not a number") from None
        if not least <= value <= most:
            raise self._fail(name, text, f"it is not between {least} and {most}")
        return value

    def port(self, name: str, default: int, *, may_be_none: bool = False) -> int:
        """Return a port; 0 only if it `may_be_none`."""
        return self.number(name, default, 65535, least=0 if may_be_none else 1)

    def _ports(self, name: str, items: Sequence[str]) -> tuple[int, ...]:
        for item in items:
            if not item.isascii() or not item.isdigit() or not 1 <= int(item) <= 65535:
                raise self._fail(name, item, "it is not a port between 1 and 65535; write them one by one, with commas")
        return tuple(map(int, items))

    def ports(self, name: str) -> tuple[int, ...]:
        """Return ports."""
        return self._ports(name, self._items(name))

    def ports_or_all(self, name: str) -> tuple[int, ...] | None:
        """Return ports; None for all."""
        items = self._items(name, _ALL)
        return None if self._is_all(name, items) else self._ports(name, items)

    def networks(self, name: str) -> tuple[Network, ...]:
        """Return networks."""
        return tuple(self._network(name, item) for item in self._items(name))

    def networks_or_all(self, name: str) -> tuple[Network, ...] | None:
        """Return networks; None for all."""
        items = self._items(name, _ALL)
        return None if self._is_all(name, items) else tuple(self._network(name, item) for item in items)

    def _network(self, name: str, item: str) -> Network:
        try:
            network = ip_network(item, strict=False)
        except ValueError:
            raise self._fail(name, item, "it is not a network like 10.0.0.0/8 or fd00::/8") from None
        if ip_address(item.partition("/")[0]) != network.network_address:
            self.warnings.append(f"--{name} {item} is {network}: the other bits are not part of the network")
        return network

    def _is_all(self, name: str, items: Sequence[str]) -> bool:
        if _ALL in items and len(items) > 1:
            raise self._fail(name, ",".join(items), f"{_ALL} means all of them, so it stands alone")
        return list(items) == [_ALL]

    def interfaces(self, name: str) -> tuple[str, ...]:
        """Return names of interfaces."""
        items = self._items(name)
        for item in items:
            if len(item) > _LONGEST_INTERFACE or not _INTERFACE.fullmatch(item):
                raise self._fail(
                    name, item, f"it is not the name of an interface, of at most {_LONGEST_INTERFACE} characters"
                )
        return tuple(items)

    def ids(self, name: str) -> tuple[int, ...]:
        """Return numeric ids of users or groups: rules with names would ask a name service."""
        items = self._items(name)
        for item in items:
            if not item.isascii() or not item.isdigit() or int(item) > _LARGEST_ID:
                raise self._fail(name, item, "it is not a numeric id")
        return tuple(map(int, items))

    def groups(self, name: str) -> tuple[int, ...]:
        """Return numeric ids of groups, of which a rule takes only so many."""
        found = self.ids(name)
        if len(found) > _MOST_GROUPS:
            raise self._fail(name, f"with {len(found)} groups", f"the kernel takes {_MOST_GROUPS}")
        return found

    def groups_or_all(self, name: str) -> tuple[int, ...] | None:
        """Return numeric ids of groups; None for all."""
        return None if self._is_all(name, self._items(name, _ALL)) else self.groups(name)

    def mode(self, name: str) -> Mode:
        """Return the mode; an empty text is the default."""
        text = self._texts.get(name, "").strip() or Mode.REDIRECT
        if text not in list(Mode):
            raise self._fail(name, text, f"it is not one of {', '.join(Mode)}")
        return Mode(text)
