"""One listener: accept, inspection, choice of a filter chain, TLS handshake, filter."""

import socket
import ssl
from collections.abc import Sequence

from agent.sidecar.acceptor import Acceptor
from agent.sidecar.client import Client, Filter
from agent.sidecar.client_hello import RAW, Hello
from agent.sidecar.clusters import original_destination
from agent.sidecar.counters import (
    InspectorCounters,
    ListenerCounters,
    SecretUseCounters,
    TlsCounters,
    WorkerCounters,
    listener_scope,
)
from agent.sidecar.filter_chain_match import FilterChainMatcher
from agent.sidecar.handshake import Handshake
from agent.sidecar.model import FilterChain, Listener
from agent.sidecar.tls_inspector import HelloError, Inspection
from agent.sidecar.wire import SecureWire, Wire
from agent.stats.writer import Writer


class Chain:
    """A filter chain that is ready to serve, but for a TLS context whose secrets have not come: `context` is None."""

    __slots__ = ("context", "filter", "secret_use", "settings")

    def __init__(self, settings: FilterChain, filter_: Filter, context: ssl.SSLContext | None = None) -> None:
        self.settings = settings
        self.filter = filter_
        self.context = context
        self.secret_use: SecretUseCounters | None = None

    @property
    def is_secure(self) -> bool:
        """Return whether clients need TLS."""
        return self.settings.tls is not None

    def use(self, context: ssl.SSLContext) -> None:
        """Serve new connections by this context; established ones keep theirs."""
        self.context = context
        if self.secret_use is not None:
            self.secret_use.ssl_context_update_by_sds.add()


class Listening:
    """Accepts a listener's connections, and holds each until it ends.

    Raises ValueError if two filter chains match the same connections.
    """

    def __init__(self, settings: Listener, chains: Sequence[Chain], default: Chain | None, stats: Writer) -> None:
        scope = listener_scope(settings)
        self.settings = settings
        self.counters = ListenerCounters(stats, scope)
        self.worker = WorkerCounters(stats, f"{scope}worker_0.")
        self.inspector: InspectorCounters | None = None
        self.clients: set[Client] = set()
        self._matching = FilterChainMatcher([(chain.settings.match, chain) for chain in chains], default)
        if settings.inspects_tls or self._matching.needs_hello:
            self.inspector = InspectorCounters(stats, "tls_inspector.")
        secure = any(chain.is_secure for chain in (*chains, *([default] if default else ())))
        self.tls = TlsCounters(stats, scope) if secure else None
        self._doors: Acceptor | None = None

    def open(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on `sockets`, and own them from now on."""
        self._doors = Acceptor(sockets, self._accepted, self.counters.downstream_cx_overload_reject.add)

    def close(self) -> None:
        """Stop accepting; client connections stay open."""
        if self._doors is not None:
            self._doors.close()
            self._doors = None

    def abort(self) -> None:
        """Close every client connection at once."""
        for client in tuple(self.clients):
            client.session.abort()

    def _accepted(self, connected: socket.socket) -> None:
        arrival = _Arrival(self, connected)
        self.clients.add(arrival.client)
        arrival.begin()

    def find(self, hello: Hello) -> Chain | None:
        """Return the filter chain for a connection; if there is none, count that."""
        chain = self._matching.find(hello)
        if chain is None:
            self.counters.no_filter_chain_match.add()
        return chain


class _Arrival:
    """A connection from accept until its filter serves it."""

    __slots__ = ("_chain", "_connected", "_listening", "_step", "client")

    def __init__(self, listening: Listening, connected: socket.socket) -> None:
        self._listening = listening
        self._connected: socket.socket | None = connected
        self._step: Inspection | Handshake | None = None
        self._chain: Chain | None = None
        self.client = Client(self._left)
        self.client.session = self

    def begin(self) -> None:
        """Inspect the connection if the listener does so, then choose its filter chain."""
        listening, connected = self._listening, self._connected
        assert connected is not None
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if listening.settings.original_dst:
            self.client.original = original_destination(connected)
        if listening.inspector is None:
            self._matched(RAW)
            return
        listening.counters.downstream_pre_cx_active.add()
        self._step = Inspection(connected, self._inspected, within=listening.settings.inspection_timeout)

    def abort(self) -> None:
        """Close the connection at once."""
        if isinstance(self._step, Inspection):
            self._listening.counters.downstream_pre_cx_active.sub()
        if self._step is not None:
            self._step.cancel()
        self._close()

    def _close(self) -> None:
        if self._connected is not None:
            self._connected.close()
        self.client.leave()

    def _left(self, client: Client) -> None:
        self._listening.clients.discard(client)
        if self._chain is None:
            return
        counters, worker = self._listening.counters, self._listening.worker
        counters.downstream_cx_active.sub()
        counters.downstream_cx_destroy.add()
        worker.downstream_cx_active.sub()
        self._chain.filter.left(is_secure=self._chain.is_secure)

    def _inspected(self, result: Hello | OSError) -> None:
        self._step = None
        counters, settings = self._listening.counters, self._listening.settings
        counters.downstream_pre_cx_active.sub()
        if isinstance(result, Hello):
            self._count(result)
            self._matched(result)
        elif isinstance(result, TimeoutError):
            counters.downstream_pre_cx_timeout.add()
            if settings.continue_on_timeout:
                self._matched(RAW)
            else:
                self._close()
        else:
            self._count_failure(result)
            self._close()

    def _count_failure(self, error: OSError) -> None:
        counters, inspector = self._listening.counters, self._listening.inspector
        assert inspector is not None
        if isinstance(error, HelloError) and error.is_endless:
            inspector.client_hello_too_large.add()
        else:
            counters.downstream_listener_filter_remote_close.add()

    def _count(self, hello: Hello) -> None:
        inspector = self._listening.inspector
        assert inspector is not None
        if not hello.is_tls:
            inspector.tls_not_found.add()
            return
        inspector.tls_found.add()
        (inspector.sni_found if hello.server_name else inspector.sni_not_found).add()
        (inspector.alpn_found if hello.protocols else inspector.alpn_not_found).add()

    def _matched(self, hello: Hello) -> None:
        chain = self._listening.find(hello)
        if chain is None:
            self._close()
            return
        self._chain = chain
        self._listening.counters.downstream_cx_total.add()
        self._listening.counters.downstream_cx_active.add()
        self._listening.worker.downstream_cx_total.add()
        self._listening.worker.downstream_cx_active.add()
        chain.filter.arrived(is_secure=chain.is_secure)
        self._serve(chain)

    def _serve(self, chain: Chain) -> None:
        connected, self._connected = self._connected, None
        assert connected is not None
        if not chain.is_secure:
            self.client.wire = Wire(connected)
            chain.filter.serve(self.client)
            return
        if chain.context is None:
            self._refuse_without_secret(connected, chain)
            return
        assert self._listening.tls is not None
        try:
            self._step = Handshake(
                connected, chain.context, self._listening.tls, self._shaken, within=chain.settings.connect_timeout
            )
        except (OSError, ValueError):  # the client has closed already
            self._close()

    def _refuse_without_secret(self, connected: socket.socket, chain: Chain) -> None:
        connected.close()
        if chain.secret_use is not None:
            chain.secret_use.downstream_context_secrets_not_ready.add()
        self._close()

    def _shaken(self, result: SecureWire | OSError) -> None:
        self._step = None
        if isinstance(result, SecureWire):
            assert self._chain is not None
            self.client.wire = result
            self._chain.filter.serve(self.client)
            return
        if isinstance(result, TimeoutError):
            self._listening.counters.downstream_cx_transport_socket_connect_timeout.add()
        self._close()
