"""What a sidecar is configured to do: the supported part of Envoy's bootstrap (v3), checked, in types of its own.

Names are those of Envoy's API where it has one. Spans are seconds, 0 means none where Envoy's API says so. Everything
here is plain data: files are named, not read. Named tuples, since a class of theirs is made in a tenth of the time
that a dataclass takes, at each start.
"""

from collections.abc import Mapping
from ssl import TLSVersion
from types import MappingProxyType
from typing import NamedTuple

from agent.handoff.socket_store import ListenAddress


class SocketAddress(NamedTuple):
    """An internet address; `host` is a number, or a name where the cluster resolves it."""

    host: str
    port: int
    dual_stack: bool = False  # ipv4_compat: `::` takes version 4 as well

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def place(self) -> ListenAddress:
        """The address as the hot-restart protocol spells it."""
        return ListenAddress.at("tcp", self.host, str(self.port), "")


class Pipe(NamedTuple):
    """A Unix socket; a path that begins with `@` is abstract. `mode` 0: whatever the umask leaves."""

    path: str
    mode: int = 0

    def __str__(self) -> str:
        return self.path

    @property
    def place(self) -> ListenAddress:
        """The address as the hot-restart protocol spells it."""
        return ListenAddress(f"unix://{self.path}")


Address = SocketAddress | Pipe


# Transport sockets


class Certificate(NamedTuple):
    """The paths of a chain and its key."""

    chain: str
    key: str


class DownstreamTls(NamedTuple):
    """How clients are met. With a `trusted_ca` a certificate that a client shows must verify, asked for or not."""

    certificates: tuple[Certificate, ...]
    trusted_ca: str | None = None
    require_client_certificate: bool = False
    alpn: tuple[str, ...] = ()
    minimum: TLSVersion = TLSVersion.TLSv1_2
    maximum: TLSVersion = TLSVersion.TLSv1_3


class UpstreamTls(NamedTuple):
    """How a cluster is met. Without a `trusted_ca` nothing is verified, as in Envoy; `sni` empty: none is sent."""

    certificates: tuple[Certificate, ...] = ()
    trusted_ca: str | None = None
    sni: str = ""
    alpn: tuple[str, ...] = ()
    minimum: TLSVersion = TLSVersion.TLSv1_2
    maximum: TLSVersion = TLSVersion.TLSv1_2


# Network filters


class TcpProxy(NamedTuple):
    """Every connection goes to one cluster."""

    stat_prefix: str
    cluster: str
    idle_timeout: float = 3600.0  # both ways idle
    max_connect_attempts: int = 1


class Echo(NamedTuple):
    """What comes in goes out."""


class DirectResponse(NamedTuple):
    """The connection gets these bytes and is closed."""

    body: bytes = b""


class Reply(NamedTuple):
    """A route's own answer."""

    status: int
    body: bytes = b""


class Route(NamedTuple):
    """A prefix of the path, and the cluster it goes to or the answer it gets."""

    prefix: str
    action: str | Reply
    timeout: float = 15.0  # of the whole answer of a cluster; 0: none


class VirtualHost(NamedTuple):
    """Routes for some domains: exact ones, `*.suffix`, `prefix.*`, or `*`."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]


class HttpManager(NamedTuple):
    """HTTP/1.1 by routes. Where `gate` names a cluster, the routes come from there, once, before anything serves."""

    stat_prefix: str
    hosts: tuple[VirtualHost, ...] = ()
    gate: str | None = None
    server_name: str = "envoy"
    max_request_headers: int = 60 << 10  # bytes
    request_headers_timeout: float = 60.0  # Envoy: none
    stream_idle_timeout: float = 300.0
    request_timeout: float = 0.0
    idle_timeout: float = 3600.0  # of a connection without a request


NetworkFilter = TcpProxy | Echo | DirectResponse | HttpManager


# Listeners


class Match(NamedTuple):
    """Which connections a chain is for; what is empty matches all. Only the most specific chain counts, as in Envoy."""

    server_names: tuple[str, ...] = ()  # exact or `*.suffix`, lower case
    transport_protocol: str = ""  # `tls`, `raw_buffer`
    application_protocols: tuple[str, ...] = ()


class FilterChain(NamedTuple):
    """What happens to a connection that matches."""

    filter: NetworkFilter
    name: str = ""
    match: Match = Match()
    tls: DownstreamTls | None = None
    connect_timeout: float = 15.0  # of the handshake; Envoy: none


class Listener(NamedTuple):
    """One listener. One that does not bind (the gate's) only waits for its routes."""

    name: str
    addresses: tuple[Address, ...]  # the first one names its statistics
    chains: tuple[FilterChain, ...]
    default_chain: FilterChain | None = None
    stat_prefix: str = ""  # in place of the address
    bind_to_port: bool = True
    reuse_port: bool = True
    inspects_tls: bool = False  # with the listener filter tls_inspector, or chains that cannot do without it
    original_dst: bool = False  # with the listener filter original_dst
    inspection_timeout: float = 15.0  # listener_filters_timeout
    continue_on_timeout: bool = False
    backlog: int = 4096  # the kernel takes no more than net.core.somaxconn, which is Envoy's default
    inbound: bool = False  # traffic_direction
    buffer_limit: int = 1 << 20


# Clusters


class Cluster(NamedTuple):
    """Where connections go. `kind`: STATIC, STRICT_DNS or ORIGINAL_DST; endpoints are taken in turn."""

    name: str
    kind: str
    endpoints: tuple[Address, ...] = ()
    connect_timeout: float = 5.0
    tls: UpstreamTls | None = None
    dns_refresh_rate: float = 5.0
    dns_family: str = "AUTO"  # dns_lookup_family
    stat_name: str = ""  # alt_stat_name


class Admin(NamedTuple):
    """The console's address, and the exact paths or prefixes (ending in `*`) it is kept to; none: all."""

    address: Address
    allowed: tuple[str, ...] = ()


class Configuration(NamedTuple):
    """Everything in the bootstrap that the sidecar heeds. `tree` is the document itself, for /config_dump."""

    listeners: tuple[Listener, ...]
    clusters: tuple[Cluster, ...]
    admin: Admin | None = None
    node_id: str = ""
    node_cluster: str = ""
    log_format: str | None = None  # application_log_config.log_format.text_format
    stats_flush_interval: float = 5.0
    tree: Mapping[str, object] = MappingProxyType({})
