"""The statistics, in groups, under Envoy's names.

Each group is registered once, so that serving needs no lookup by name. An attribute's name is the end of the
statistic's name. Statistics of features that the sidecar lacks (HTTP/2, buffers, priorities) are not registered.
"""

import ssl

from agent.sidecar.model import Listener
from agent.stats.writer import Counter, Gauge, Writer

_VERIFICATION = "CERTIFICATE_VERIFY_FAILED"
_NO_CERTIFICATE = "PEER_DID_NOT_RETURN_A_CERTIFICATE"


class Group:
    """Counters and gauges as annotated attributes; dataclasses would cost each start 8 ms more."""

    def __init__(self, stats: Writer, scope: str) -> None:
        """Register every attribute under `scope`, which ends in a dot."""
        for group in type(self).__mro__[:-1]:
            for name, kind in group.__annotations__.items():
                full = f"{scope}{name}"
                setattr(self, name, stats.gauge(full) if kind is Gauge else stats.counter(full))


class ListenerCounters(Group):
    """Statistics under `listener.<address>.`."""

    downstream_cx_total: Counter
    downstream_cx_destroy: Counter
    downstream_cx_active: Gauge
    downstream_cx_overflow: Counter
    downstream_cx_overload_reject: Counter
    downstream_cx_transport_socket_connect_timeout: Counter
    downstream_listener_filter_error: Counter
    downstream_listener_filter_remote_close: Counter
    downstream_pre_cx_active: Gauge
    downstream_pre_cx_timeout: Counter
    no_filter_chain_match: Counter


class WorkerCounters(Group):
    """Statistics under `listener.<address>.worker_0.`."""

    downstream_cx_total: Counter
    downstream_cx_active: Gauge


class InspectorCounters(Group):
    """Statistics under `tls_inspector.`, for all listeners together."""

    alpn_found: Counter
    alpn_not_found: Counter
    client_hello_too_large: Counter
    sni_found: Counter
    sni_not_found: Counter
    tls_found: Counter
    tls_not_found: Counter


class _TlsCounters(Group):
    connection_error: Counter
    fail_verify_cert_hash: Counter
    fail_verify_error: Counter
    fail_verify_no_cert: Counter
    fail_verify_san: Counter
    handshake: Counter
    no_certificate: Counter
    session_reused: Counter


class TlsCounters:
    """Statistics under `….ssl.`, with one counter for each cipher and version that occurs."""

    def __init__(self, stats: Writer, scope: str) -> None:
        self.all = _TlsCounters(stats, f"{scope}ssl.")
        self._stats = stats
        self._scope = f"{scope}ssl."
        self._named: dict[str, Counter] = {}

    def shaken(self, secure: ssl.SSLSocket) -> None:
        """Count a successful handshake."""
        self.all.handshake.add()
        if secure.session_reused:
            self.all.session_reused.add()
        if secure.getpeercert(binary_form=True) is None:
            self.all.no_certificate.add()
        self.named(f"versions.{secure.version()}").add()
        cipher = secure.cipher()
        if cipher is not None:
            self.named(f"ciphers.{cipher[0]}").add()

    def failed(self, error: Exception) -> None:
        """Count a TLS error, during a handshake or later, by Envoy's categories.

        Network errors are not counted.
        """
        if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLSyscallError):
            return
        if error.reason == _NO_CERTIFICATE:
            self.all.fail_verify_no_cert.add()
        elif error.reason == _VERIFICATION:
            self.all.fail_verify_error.add()
        else:
            self.all.connection_error.add()

    def named(self, name: str) -> Counter:
        """Return the counter with a name such as `versions.TLSv1.3` or `ciphers.…`."""
        found = self._named.get(name)
        if found is None:
            found = self._named[name] = self._stats.counter(f"{self._scope}{name}")
        return found


class SecretUseCounters(Group):
    """Statistics under `….server_ssl_socket_factory.` and `….client_ssl_socket_factory.`, where TLS has secrets."""

    downstream_context_secrets_not_ready: Counter
    ssl_context_update_by_sds: Counter
    upstream_context_secrets_not_ready: Counter


class TcpCounters(Group):
    """Statistics under `tcp.<stat_prefix>.`."""

    downstream_cx_total: Counter
    downstream_cx_no_route: Counter
    downstream_cx_rx_bytes_total: Counter
    downstream_cx_tx_bytes_total: Counter
    downstream_flow_control_paused_reading_total: Counter
    downstream_flow_control_resumed_reading_total: Counter
    idle_timeout: Counter


class HttpCounters(Group):
    """Statistics under `http.<stat_prefix>.`."""

    downstream_cx_active: Gauge
    downstream_cx_destroy: Counter
    downstream_cx_destroy_active_rq: Counter
    downstream_cx_destroy_local: Counter
    downstream_cx_destroy_local_active_rq: Counter
    downstream_cx_destroy_remote: Counter
    downstream_cx_destroy_remote_active_rq: Counter
    downstream_cx_drain_close: Counter
    downstream_cx_http1_active: Gauge
    downstream_cx_http1_total: Counter
    downstream_cx_idle_timeout: Counter
    downstream_cx_protocol_error: Counter
    downstream_cx_rx_bytes_total: Counter
    downstream_cx_ssl_active: Gauge
    downstream_cx_ssl_total: Counter
    downstream_cx_total: Counter
    downstream_cx_tx_bytes_total: Counter
    downstream_rq_1xx: Counter
    downstream_rq_2xx: Counter
    downstream_rq_3xx: Counter
    downstream_rq_4xx: Counter
    downstream_rq_5xx: Counter
    downstream_rq_active: Gauge
    downstream_rq_completed: Counter
    downstream_rq_header_timeout: Counter
    downstream_rq_http1_total: Counter
    downstream_rq_idle_timeout: Counter
    downstream_rq_non_relative_path: Counter
    downstream_rq_response_before_rq_complete: Counter
    downstream_rq_rx_reset: Counter
    downstream_rq_timeout: Counter
    downstream_rq_total: Counter
    downstream_rq_tx_reset: Counter
    downstream_rq_ws_on_non_ws_route: Counter
    no_cluster: Counter
    no_route: Counter
    rq_direct_response: Counter
    rq_reset_after_downstream_response_started: Counter
    rq_total: Counter


class ListenerHttpCounters(Group):
    """Statistics under `listener.<address>.http.<stat_prefix>.`."""

    downstream_rq_1xx: Counter
    downstream_rq_2xx: Counter
    downstream_rq_3xx: Counter
    downstream_rq_4xx: Counter
    downstream_rq_5xx: Counter
    downstream_rq_completed: Counter


class _ClusterCounters(Group):
    membership_change: Counter
    membership_healthy: Gauge
    membership_total: Gauge
    update_attempt: Counter
    update_empty: Counter
    update_failure: Counter
    update_no_rebuild: Counter
    update_success: Counter
    upstream_cx_active: Gauge
    upstream_cx_connect_attempts_exceeded: Counter
    upstream_cx_connect_fail: Counter
    upstream_cx_connect_timeout: Counter
    upstream_cx_destroy: Counter
    upstream_cx_destroy_local: Counter
    upstream_cx_destroy_local_with_active_rq: Counter
    upstream_cx_destroy_remote: Counter
    upstream_cx_destroy_remote_with_active_rq: Counter
    upstream_cx_destroy_with_active_rq: Counter
    upstream_cx_http1_total: Counter
    upstream_cx_idle_timeout: Counter
    upstream_cx_none_healthy: Counter
    upstream_cx_protocol_error: Counter
    upstream_cx_rx_bytes_total: Counter
    upstream_cx_total: Counter
    upstream_cx_tx_bytes_total: Counter
    upstream_flow_control_paused_reading_total: Counter
    upstream_flow_control_resumed_reading_total: Counter
    upstream_rq_active: Gauge
    upstream_rq_cancelled: Counter
    upstream_rq_completed: Counter
    upstream_rq_pending_active: Gauge
    upstream_rq_pending_failure_eject: Counter
    upstream_rq_pending_total: Counter
    upstream_rq_retry: Counter
    upstream_rq_retry_success: Counter
    upstream_rq_rx_reset: Counter
    upstream_rq_timeout: Counter
    upstream_rq_total: Counter
    upstream_rq_tx_reset: Counter


class ClusterCounters(_ClusterCounters):
    """Statistics under `cluster.<name>.`, with one counter for each status that occurs."""

    def __init__(self, stats: Writer, scope: str) -> None:
        super().__init__(stats, scope)
        self._stats = stats
        self._scope = scope
        self._named: dict[int, tuple[Counter, ...]] = {}

    def answered(self, status: int) -> None:
        """Count a response, from an endpoint or generated in its place."""
        found = self._named.get(status)
        if found is None:
            names = (f"upstream_rq_{status}", f"upstream_rq_{status // 100}xx", "upstream_rq_completed")
            scopes = (self._scope, f"{self._scope}external.")
            found = self._named[status] = tuple(self._stats.counter(s + name) for s in scopes for name in names)
        for counter in found:
            counter.add()

    def closed(self, *, by_us: bool, busy: bool) -> None:
        """Count the end of a connection that `upstream_cx_total` has counted."""
        self.upstream_cx_active.sub()
        self.upstream_cx_destroy.add()
        (self.upstream_cx_destroy_local if by_us else self.upstream_cx_destroy_remote).add()
        if busy:
            self.upstream_cx_destroy_with_active_rq.add()
            local, remote = (
                self.upstream_cx_destroy_local_with_active_rq,
                self.upstream_cx_destroy_remote_with_active_rq,
            )
            (local if by_us else remote).add()


def listener_scope(listener: Listener) -> str:
    """Return the prefix of a listener's statistics in Envoy's form: `listener.[__1]_443.`."""
    name = listener.stat_prefix or str(listener.addresses[0])
    return f"listener.{name.replace(':', '_')}."
