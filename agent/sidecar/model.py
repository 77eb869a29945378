"""The sidecar's configuration: the supported part of Envoy's v3 bootstrap, validated.

Names are those of Envoy's API where it has one. Durations are seconds; 0 means none where it does in Envoy's API.
All types are plain data: files are named, not read. They are named tuples, since Python defines one in a tenth of the
time of a dataclass, at each start.
"""

from collections.abc import Iterator, Mapping
from ssl import TLSVersion
from types import MappingProxyType
from typing import NamedTuple

from agent.handoff.socket_store import ListenAddress


class SocketAddress(NamedTuple):
    """An IP address and port; `host` is numeric, or a name where the cluster resolves it."""

    host: str
    port: int
    dual_stack: bool = False  # ipv4_compat: `::` accepts IPv4 as well

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def place(self) -> ListenAddress:
        """The address in the hot-restart protocol's form."""
        return ListenAddress.at("tcp", self.host, str(self.port), "")


class Pipe(NamedTuple):
    """A Unix socket; a path that begins with `@` is abstract. `mode` 0: set by the umask."""

    path: str
    mode: int = 0

    def __str__(self) -> str:
        return self.path

    @property
    def place(self) -> ListenAddress:
        """The address in the hot-restart protocol's form."""
        return ListenAddress(f"unix://{self.path}")


Address = SocketAddress | Pipe


# Transport sockets


class LoadedPem:
    """PEM text that a secret brought, in memory. As a string it is `name`, so that no message shows the content.

    `path`: the file that the secret names, or `<inline>`.
    """

    __slots__ = ("content", "name", "path")

    def __init__(self, name: str, path: str, content: bytes) -> None:
        self.name = name
        self.path = path
        self.content = content

    def __str__(self) -> str:
        return self.name


PemSource = str | LoadedPem  # a path, or the text itself


class Certificate(NamedTuple):
    """The paths of a certificate chain and its private key."""

    chain: str
    key: str


class LoadedCertificate(NamedTuple):
    """A certificate chain and its private key from a secret."""

    chain: LoadedPem
    key: LoadedPem


AnyCertificate = Certificate | LoadedCertificate


class SecretSource(NamedTuple):
    """A secret's name, the cluster that sends it by SDS, and the intervals of the polls, in seconds."""

    name: str
    cluster: str
    refresh_delay: float
    request_timeout: float = 1.0
    initial_fetch_timeout: float = 15.0  # limits how long the start waits; 0: no limit


class DownstreamTls(NamedTuple):
    """TLS settings towards clients.

    With `trusted_ca`, a certificate that a client presents must verify, required or not. Certificates are named, or
    come as secrets; `ca_secret` replaces `trusted_ca`.
    """

    certificates: tuple[AnyCertificate, ...]
    trusted_ca: PemSource | None = None
    require_client_certificate: bool = False
    alpn: tuple[str, ...] = ()
    minimum: TLSVersion = TLSVersion.TLSv1_2
    maximum: TLSVersion = TLSVersion.TLSv1_3
    certificate_secrets: tuple[SecretSource, ...] = ()
    ca_secret: SecretSource | None = None

    @property
    def has_secrets(self) -> bool:
        """Return whether a part comes by SDS."""
        return bool(self.certificate_secrets) or self.ca_secret is not None


class UpstreamTls(NamedTuple):
    """TLS settings towards a cluster.

    Without `trusted_ca` nothing is verified, as in Envoy. With an empty `sni` none is sent.
    """

    certificates: tuple[AnyCertificate, ...] = ()
    trusted_ca: PemSource | None = None
    sni: str = ""
    alpn: tuple[str, ...] = ()
    minimum: TLSVersion = TLSVersion.TLSv1_2
    maximum: TLSVersion = TLSVersion.TLSv1_2
    certificate_secrets: tuple[SecretSource, ...] = ()
    ca_secret: SecretSource | None = None

    @property
    def has_secrets(self) -> bool:
        """Return whether a part comes by SDS."""
        return bool(self.certificate_secrets) or self.ca_secret is not None


Tls = DownstreamTls | UpstreamTls


# Network filters


class TcpProxy(NamedTuple):
    """Settings of the TCP proxy filter, which connects all clients to one cluster."""

    stat_prefix: str
    cluster: str
    idle_timeout: float = 3600.0  # without bytes in either direction
    max_connect_attempts: int = 1


class Echo(NamedTuple):
    """The echo filter, which sends back what it receives."""


class DirectResponse(NamedTuple):
    """Settings of the filter that sends fixed bytes and closes the connection."""

    body: bytes = b""


class Reply(NamedTuple):
    """A fixed response of a route."""

    status: int
    body: bytes = b""


class Route(NamedTuple):
    """A path prefix, with the cluster that its requests go to, or a fixed response."""

    prefix: str
    action: str | Reply
    timeout: float = 15.0  # for a cluster's whole response; 0: none


class VirtualHost(NamedTuple):
    """Routes for some domains: exact names, `*.suffix`, `prefix.*`, or `*`."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]


class HttpManager(NamedTuple):
    """Settings of the HTTP/1.1 filter.

    If `gate` names a cluster, the routes are fetched from it, once, before the process serves.
    """

    stat_prefix: str
    hosts: tuple[VirtualHost, ...] = ()
    gate: str | None = None
    server_name: str = "envoy"
    max_request_headers: int = 60 << 10  # bytes
    request_headers_timeout: float = 60.0  # Envoy's default: none
    stream_idle_timeout: float = 300.0
    request_timeout: float = 0.0
    idle_timeout: float = 3600.0  # of a connection without a request


NetworkFilter = TcpProxy | Echo | DirectResponse | HttpManager


# Listeners


class Match(NamedTuple):
    """The connections that a filter chain matches; an empty field matches all.

    Only the most specific chain counts, as in Envoy.
    """

    server_names: tuple[str, ...] = ()  # exact or `*.suffix`, lower case
    transport_protocol: str = ""  # `tls`, `raw_buffer`
    application_protocols: tuple[str, ...] = ()


class FilterChain(NamedTuple):
    """A filter chain: match, TLS settings and the filter that serves the connections."""

    filter: NetworkFilter
    name: str = ""
    match: Match = Match()
    tls: DownstreamTls | None = None
    connect_timeout: float = 15.0  # of the handshake; Envoy's default: none


class Listener(NamedTuple):
    """One listener. A listener that is not bound (the gate's) only waits for its routes."""

    name: str
    addresses: tuple[Address, ...]  # its statistics are named after the first one
    chains: tuple[FilterChain, ...]
    default_chain: FilterChain | None = None
    stat_prefix: str = ""  # replaces the address in the names of statistics
    bind_to_port: bool = True
    reuse_port: bool = True
    inspects_tls: bool = False  # has the listener filter tls_inspector, or chains that require it
    original_dst: bool = False  # has the listener filter original_dst
    inspection_timeout: float = 15.0  # listener_filters_timeout
    continue_on_timeout: bool = False
    backlog: int = 4096  # the kernel limits it to net.core.somaxconn, which is Envoy's default
    inbound: bool = False  # traffic_direction
    buffer_limit: int = 1 << 20

    @property
    def all_chains(self) -> tuple[FilterChain, ...]:
        """The chains, with the default one at the end."""
        return self.chains if self.default_chain is None else (*self.chains, self.default_chain)


# Clusters


class Cluster(NamedTuple):
    """A cluster of endpoints, used in turn. `kind`: STATIC, STRICT_DNS or ORIGINAL_DST."""

    name: str
    kind: str
    endpoints: tuple[Address, ...] = ()
    connect_timeout: float = 5.0
    tls: UpstreamTls | None = None
    dns_refresh_rate: float = 5.0
    dns_family: str = "AUTO"  # dns_lookup_family
    stat_name: str = ""  # alt_stat_name


class Admin(NamedTuple):
    """The admin interface's address and allowed paths.

    `allowed` holds exact paths, and prefixes ending in `*`; if empty, all paths are allowed.
    """

    address: Address
    allowed: tuple[str, ...] = ()


class Configuration(NamedTuple):
    """The supported settings of a bootstrap. `tree` is the document itself, for /config_dump."""

    listeners: tuple[Listener, ...]
    clusters: tuple[Cluster, ...]
    admin: Admin | None = None
    node_id: str = ""
    node_cluster: str = ""
    log_format: str | None = None  # application_log_config.log_format.text_format
    stats_flush_interval: float = 5.0
    tree: Mapping[str, object] = MappingProxyType({})

    @property
    def tls(self) -> Iterator[Tls]:
        """Yield the TLS settings of each filter chain and cluster that has any."""
        for listener in self.listeners:
            for chain in listener.all_chains:
                if chain.tls is not None:
                    yield chain.tls
        for cluster in self.clusters:
            if cluster.tls is not None:
                yield cluster.tls
