"""The TCP proxy filter: connects every client to one cluster."""

from agent.sidecar.client import Client
from agent.sidecar.clusters import Upstream
from agent.sidecar.connect import Dial
from agent.sidecar.counters import TcpCounters
from agent.sidecar.model import TcpProxy
from agent.sidecar.tcp_relay import Relay
from agent.sidecar.wire import Wire
from agent.stats.writer import Counter


class TcpProxying:
    """Connects clients to one cluster. `limit`: the most bytes that one read may return."""

    def __init__(self, settings: TcpProxy, upstream: Upstream, counters: TcpCounters, limit: int) -> None:
        self.settings = settings
        self.upstream = upstream
        self.counters = counters
        self.limit = limit
        cluster = upstream.counters
        self.up: tuple[Counter, ...] = (counters.downstream_cx_rx_bytes_total, cluster.upstream_cx_tx_bytes_total)
        self.down: tuple[Counter, ...] = (counters.downstream_cx_tx_bytes_total, cluster.upstream_cx_rx_bytes_total)
        self.pauses = (
            counters.downstream_flow_control_paused_reading_total,
            counters.downstream_flow_control_resumed_reading_total,
        )

    def arrived(self, *, is_secure: bool) -> None:  # noqa: ARG002  # TCP has no separate statistics for TLS
        """Count a new connection."""
        self.counters.downstream_cx_total.add()

    def left(self, *, is_secure: bool) -> None:
        """Do nothing: no statistic counts the end of a connection."""

    def serve(self, client: Client) -> None:
        """Connect the client to an endpoint."""
        _Reaching(self, client).begin()


class _Reaching:
    """A client whose upstream is being connected; until then the client is not read."""

    __slots__ = ("_attempts", "_client", "_dial", "_proxying")

    def __init__(self, proxying: TcpProxying, client: Client) -> None:
        self._proxying = proxying
        self._client = client
        self._attempts = 0
        self._dial: Dial | None = None
        client.session = self

    def begin(self) -> None:
        """Connect to the next endpoint."""
        upstream = self._proxying.upstream
        address = upstream.choose(self._client.original)
        if address is None:
            self._leave()
            return
        counters = upstream.counters
        counters.upstream_rq_pending_total.add()
        counters.upstream_rq_pending_active.add()
        counters.upstream_cx_total.add()
        counters.upstream_cx_active.add()
        self._attempts += 1
        self._dial = Dial(address, upstream.transport, self._dialled, within=upstream.settings.connect_timeout)

    def abort(self) -> None:
        """Close the connection at once."""
        counters = self._proxying.upstream.counters
        if self._dial is not None:
            self._dial.cancel()
            counters.upstream_rq_pending_active.sub()
            counters.closed(by_us=True, busy=False)
        self._leave()

    def _leave(self) -> None:
        self._client.wire.close()
        self._client.leave()

    def _dialled(self, result: Wire | OSError) -> None:
        self._dial = None
        counters = self._proxying.upstream.counters
        counters.upstream_rq_pending_active.sub()
        if isinstance(result, OSError):
            self._failed(result)
            return
        counters.upstream_rq_total.add()
        counters.upstream_rq_active.add()
        self._relay(result)

    def _failed(self, error: OSError) -> None:
        counters = self._proxying.upstream.counters
        counters.closed(by_us=isinstance(error, TimeoutError), busy=False)
        counters.upstream_cx_connect_fail.add()
        counters.upstream_rq_pending_failure_eject.add()
        if isinstance(error, TimeoutError):
            counters.upstream_cx_connect_timeout.add()
        if self._attempts < self._proxying.settings.max_connect_attempts:
            self.begin()
        else:
            counters.upstream_cx_connect_attempts_exceeded.add()
            self._leave()

    def _relay(self, wire: Wire) -> None:
        proxying, client = self._proxying, self._client
        counters = proxying.upstream.counters

        def over(_: Relay, idle: bool, upstream_first: bool) -> None:
            if idle:
                proxying.counters.idle_timeout.add()
            counters.upstream_rq_active.sub()
            counters.closed(by_us=not upstream_first, busy=True)
            client.leave()

        client.session = Relay(
            client.wire,
            wire,
            limit=proxying.limit,
            idle=proxying.settings.idle_timeout,
            counters=(proxying.up, proxying.down),
            pauses=proxying.pauses,
            over=over,
        )
