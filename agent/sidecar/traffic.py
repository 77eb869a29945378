"""The data plane: built from a configuration, warmed, started on sockets, drained, closed."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.errors import BadInput, MachineError
from agent.epoch.gate import wait_at_gate
from agent.sidecar.client import Filter
from agent.sidecar.clusters import Upstream
from agent.sidecar.contexts import check_files, server_context
from agent.sidecar.counters import HttpCounters, ListenerHttpCounters, SecretUseCounters, TcpCounters, listener_scope
from agent.sidecar.dns import Resolver
from agent.sidecar.draining import Draining
from agent.sidecar.echo_filters import DirectResponseFilter, EchoFilter
from agent.sidecar.http_manager import HttpConnectionManager
from agent.sidecar.http_pool import Pool
from agent.sidecar.listening import Chain, Listening
from agent.sidecar.model import (
    Configuration,
    DirectResponse,
    DownstreamTls,
    Echo,
    FilterChain,
    HttpManager,
    Listener,
    Pipe,
    TcpProxy,
    Tls,
)
from agent.sidecar.routing import Routing
from agent.sidecar.tcp_proxy import TcpProxying
from agent.stats.writer import Writer

if TYPE_CHECKING:
    from agent.sidecar.secret_contexts import SecretContexts

_AGAIN = 0.5  # seconds between attempts while the gate does not respond


class DataPlane:
    """Owns a configuration's listeners, filters, pools and clusters. `drain_time` in seconds."""

    def __init__(
        self, configuration: Configuration, stats: Writer, *, drain_time: float, drain_immediately: bool
    ) -> None:
        """Load all certificates and check all references.

        Raises `BadInput`, which names the listener or cluster.
        """
        self._unready: set[str] = set()  # names of clusters and gates that `warm` waits for
        self._node = (configuration.node_id, configuration.node_cluster)
        self._secrets: SecretContexts | None = None
        self._stats = stats
        self._draining = {inbound: Draining(drain_time, immediate=drain_immediately) for inbound in (True, False)}
        self._contexts: dict[DownstreamTls, ssl.SSLContext] = {}
        self._upstreams = {each.name: Upstream(each, stats) for each in configuration.clusters}
        self._pools = {name: Pool(upstream) for name, upstream in self._upstreams.items()}
        dns = [each for each in self._upstreams.values() if each.settings.kind == "STRICT_DNS"]
        self._resolving = {each.settings.name: Resolver(each) for each in dns}
        self._http_servings: list[HttpConnectionManager] = []
        self._listenings = {each.name: self._listening(each) for each in configuration.listeners}
        for upstream in self._upstreams.values():
            self._fetch_secrets(upstream)
        self._gates = [
            (listener.name, self._socket(chain.filter.gate, "a gate"))
            for listener in configuration.listeners
            for chain in listener.all_chains
            if isinstance(chain.filter, HttpManager) and chain.filter.gate is not None
        ]
        self._unready |= {*self._resolving, *(name for name, _ in self._gates)}

    @property
    def unready(self) -> frozenset[str]:
        """The names of clusters, secrets and gates that `warm` waits for."""
        return frozenset(self._unready) | (frozenset() if self._secrets is None else self._secrets.unready)

    @property
    def connections(self) -> int:
        """The number of open client connections."""
        return sum(len(listening.clients) for listening in self._listenings.values())

    async def warm(self) -> None:
        """Resolve every DNS cluster once and fetch every secret, then wait for the gates without a time limit."""
        fetching = [] if self._secrets is None else [self._secrets.fetch()]
        await asyncio.gather(*(self._resolve(name, each) for name, each in self._resolving.items()), *fetching)
        await asyncio.gather(*(self._pass_gate(name, path) for name, path in self._gates))

    def start(self, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        """Serve on each listener's sockets, which it owns from now on."""
        for name, given in sockets.items():
            self._listenings[name].open(given)

    def stop_accepting(self, *, inbound_only: bool = False) -> None:
        """Close the listening sockets at once; client connections stay open."""
        for listening in self._listenings.values():
            if listening.settings.inbound or not inbound_only:
                listening.close()

    def drain(self, *, inbound_only: bool = False) -> None:
        """Close HTTP connections after their next response, over the drain time ever more of them.

        Other connections stay open.
        """
        for inbound, draining in self._draining.items():
            if inbound or not inbound_only:
                draining.begin()

    def fail_health(self, failing: bool) -> None:
        """Close every HTTP connection after its next response while `failing` is set."""
        for draining in self._draining.values():
            draining.is_failing = failing

    def filled(self, tls: Tls) -> Tls | None:
        """Return TLS settings with the secrets in use; None if one has not come."""
        return tls if self._secrets is None else self._secrets.filled(tls)

    def texts(self) -> dict[str, str]:
        """Return the statistics that are texts."""
        return {} if self._secrets is None else self._secrets.texts()

    async def close(self) -> None:
        """Close all sockets, connections and tasks at once."""
        if self._secrets is not None:
            await self._secrets.close()
        for listening in self._listenings.values():
            listening.close()
            listening.abort()
        for resolving in self._resolving.values():
            await resolving.close()
        for serving in self._http_servings:
            await serving.ended()
        for pool in self._pools.values():
            pool.close()

    async def _resolve(self, name: str, resolving: Resolver) -> None:
        await resolving.first()
        self._unready.discard(name)

    def _socket(self, cluster: str, what: str) -> Path:
        """Return the socket of the agent behind this cluster."""
        settings = self._upstream(cluster).settings
        if len(settings.endpoints) == 1 and isinstance(settings.endpoints[0], Pipe) and settings.tls is None:
            path = settings.endpoints[0].path
            return Path(f"\0{path[1:]}" if path.startswith("@") else path)  # `@` names an abstract socket
        raise BadInput(
            f"cannot use cluster {cluster} as {what}: {what} is one Unix socket; name it as its only endpoint"
            f"{'' if settings.tls is None else ', without transport_socket'}"
        )

    def _fetch_secrets(self, upstream: Upstream) -> None:
        tls = upstream.settings.tls
        if tls is None or not tls.has_secrets:
            return
        try:
            self._by_secrets(tls, upstream.use)
        except BadInput as error:
            raise BadInput(f"cluster {upstream.settings.name}: {error}") from error

    def _by_secrets(self, tls: Tls, use: Callable[[ssl.SSLContext], None]) -> None:
        """Have `use` called with each context of these settings."""
        from agent.sidecar.secret_contexts import SecretContexts  # noqa: PLC0415  # for configurations with secrets

        if self._secrets is None:
            self._secrets = SecretContexts(self._stats, self._node, partial(self._socket, what="a source of secrets"))
        self._secrets.add(tls, use)

    async def _pass_gate(self, name: str, path: Path) -> None:
        while not await self._passes(path):  # noqa: ASYNC110  # no event signals that the gate listens
            await asyncio.sleep(_AGAIN)
        self._unready.discard(name)

    @staticmethod
    async def _passes(path: Path) -> bool:
        """Wait at the gate; return False if it does not respond, or with an error."""
        try:
            await wait_at_gate(path)
        except MachineError:  # the agent may be replaced at this moment: its successor opens the gate again
            return False
        return True

    def _listening(self, listener: Listener) -> Listening:
        try:
            chains = [self._chain(listener, chain) for chain in listener.chains]
            default = None if listener.default_chain is None else self._chain(listener, listener.default_chain)
            return Listening(listener, chains, default, self._stats)
        except (BadInput, ValueError) as error:
            raise BadInput(f"listener {listener.name}: {error}") from error

    def _chain(self, listener: Listener, chain: FilterChain) -> Chain:
        made = Chain(chain, self._filter(listener, chain))
        tls = chain.tls
        if tls is None:
            return made
        if isinstance(chain.filter, HttpManager):  # it supports HTTP/1.1 only: clients must not negotiate h2
            tls = tls._replace(alpn=tuple(each for each in tls.alpn if each != "h2"))
        if tls.has_secrets:
            check_files(tls)
            made.secret_use = SecretUseCounters(self._stats, f"{listener_scope(listener)}server_ssl_socket_factory.")
            self._by_secrets(tls, made.use)
        else:
            made.context = self._context(tls)
        return made

    def _context(self, tls: DownstreamTls) -> ssl.SSLContext:
        if tls not in self._contexts:
            self._contexts[tls] = server_context(tls)
        return self._contexts[tls]

    def _filter(self, listener: Listener, chain: FilterChain) -> Filter:
        match chain.filter:
            case TcpProxy() as settings:
                counters = TcpCounters(self._stats, f"tcp.{settings.stat_prefix}.")
                return TcpProxying(settings, self._upstream(settings.cluster), counters, listener.buffer_limit)
            case Echo():
                return EchoFilter(listener.buffer_limit)
            case DirectResponse() as settings:
                return DirectResponseFilter(settings)
            case HttpManager() as settings:
                return self._http(listener, settings)

    def _http(self, listener: Listener, settings: HttpManager) -> HttpConnectionManager:
        named = {r.action for host in settings.hosts for r in host.routes if isinstance(r.action, str)}
        pools = {name: self._pool(name) for name in sorted(named)}
        scope = f"http.{settings.stat_prefix}."
        serving = HttpConnectionManager(
            settings,
            Routing(settings.hosts),
            pools,
            HttpCounters(self._stats, scope),
            ListenerHttpCounters(self._stats, f"{listener_scope(listener)}{scope}"),
            self._draining[listener.inbound],
        )
        self._http_servings.append(serving)
        return serving

    def _upstream(self, name: str) -> Upstream:
        found = self._upstreams.get(name)
        if found is None:
            raise BadInput(f"cannot find cluster {name}: there is no cluster of this name")
        return found

    def _pool(self, name: str) -> Pool:
        self._upstream(name)
        return self._pools[name]
