"""A cluster's endpoints, used in turn, and its TLS settings."""

import socket
import ssl
import struct
from collections.abc import Sequence
from ipaddress import IPv6Address

from agent.core.errors import BadInput
from agent.sidecar.connect import Transport
from agent.sidecar.contexts import check_files, client_context
from agent.sidecar.counters import ClusterCounters, SecretUseCounters, TlsCounters
from agent.sidecar.model import Address, Cluster, SocketAddress
from agent.stats.writer import Writer

_ORIGINAL = 80  # SO_ORIGINAL_DST (linux/netfilter_ipv4.h) and IP6T_SO_ORIGINAL_DST (netfilter_ipv6/ip6_tables.h)


class Upstream:
    """One cluster: endpoints, statistics and TLS. `settings` as configured."""

    def __init__(self, settings: Cluster, stats: Writer) -> None:
        """Load the cluster's certificates; raise `BadInput` if that fails."""
        self.settings = settings
        scope = f"cluster.{settings.stat_name or settings.name}."
        self.counters = ClusterCounters(stats, scope)
        self.transport = _transport(settings, stats, scope)
        self._endpoints: tuple[Address, ...] = ()
        self._turn = 0
        if settings.kind == "STATIC":
            self.take(settings.endpoints)

    def use(self, context: ssl.SSLContext) -> None:
        """Make new connections by this TLS context; established ones keep theirs, those of a pool too."""
        assert self.transport is not None
        self.transport = self.transport._replace(context=context)
        if self.transport.secret_use is not None:
            self.transport.secret_use.ssl_context_update_by_sds.add()

    def take(self, endpoints: Sequence[Address]) -> None:
        """Replace the endpoints."""
        if tuple(endpoints) == self._endpoints:
            self.counters.update_no_rebuild.add()
            return
        self._endpoints = tuple(endpoints)
        self.counters.membership_change.add()
        self.counters.membership_total.set(len(self._endpoints))
        self.counters.membership_healthy.set(len(self._endpoints))

    @property
    def endpoints(self) -> tuple[Address, ...]:
        """The current endpoints."""
        return self._endpoints

    def choose(self, original: SocketAddress | None) -> Address | None:
        """Return the next endpoint; None if there is none.

        `original`: the client's destination before a redirect, if there was one.
        """
        if self.settings.kind == "ORIGINAL_DST":
            chosen: Address | None = original
        elif self._endpoints:
            chosen = self._endpoints[self._turn % len(self._endpoints)]
            self._turn += 1
        else:
            chosen = None
        if chosen is None:
            self.counters.upstream_cx_none_healthy.add()
        return chosen


def _transport(settings: Cluster, stats: Writer, scope: str) -> Transport | None:
    if settings.tls is None:
        return None
    tls, counters = settings.tls, TlsCounters(stats, scope)
    try:
        if not tls.has_secrets:
            return Transport(client_context(tls), tls.sni, counters)
        check_files(tls)
        return Transport(None, tls.sni, counters, SecretUseCounters(stats, f"{scope}client_ssl_socket_factory."))
    except BadInput as error:
        raise BadInput(f"cluster {settings.name}: {error}") from error


def original_destination(client: socket.socket) -> SocketAddress | None:
    """Return a client's destination before a firewall redirect; None if there was no redirect."""
    try:
        found = _redirected(client)
        local = client.getsockname()
    except OSError:  # not in the connection tracking table
        return None
    return None if found is None or (found.host, found.port) == local[:2] else found


def _redirected(client: socket.socket) -> SocketAddress | None:
    if client.family == socket.AF_INET:
        raw = client.getsockopt(socket.SOL_IP, _ORIGINAL, 16)
        return SocketAddress(socket.inet_ntoa(raw[4:8]), struct.unpack_from("!H", raw, 2)[0])
    if client.family == socket.AF_INET6:
        raw = client.getsockopt(socket.IPPROTO_IPV6, _ORIGINAL, 28)
        return SocketAddress(str(IPv6Address(raw[8:24])), struct.unpack_from("!H", raw, 2)[0])
    return None
