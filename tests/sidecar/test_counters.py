import ssl

import pytest

from agent.sidecar.counters import (
    ClusterCounters,
    Group,
    HttpCounters,
    InspectorCounters,
    ListenerCounters,
    ListenerHttpCounters,
    TcpCounters,
    TlsCounters,
    WorkerCounters,
    listener_scope,
)
from agent.sidecar.model import Listener, Pipe, SocketAddress
from agent.stats.writer import Counter, Gauge, Writer
from tests.sidecar.wires import counted


@pytest.mark.parametrize(
    ("kind", "counter", "gauge"),
    [
        (ListenerCounters, "downstream_cx_total", "downstream_pre_cx_active"),
        (WorkerCounters, "downstream_cx_total", "downstream_cx_active"),
        (InspectorCounters, "sni_found", None),
        (TcpCounters, "idle_timeout", None),
        (HttpCounters, "downstream_rq_2xx", "downstream_rq_active"),
        (ListenerHttpCounters, "downstream_rq_completed", None),
        (ClusterCounters, "upstream_rq_timeout", "upstream_rq_pending_active"),
    ],
)
def test_a_group_registers_its_statistics_under_its_scope(kind: type[Group], counter: str, gauge: str | None) -> None:
    stats = Writer.private()
    group = kind(stats, "a.b.")
    snapshot = stats.read()
    assert snapshot.counters[f"a.b.{counter}"] == 0
    assert gauge is None or snapshot.gauges[f"a.b.{gauge}"] == 0
    assert not snapshot.counters.keys() & snapshot.gauges.keys()
    getattr(group, counter).add(3)
    assert stats.read().counters[f"a.b.{counter}"] == 3


def test_only_what_is_active_or_a_member_is_a_gauge() -> None:
    stats = Writer.private()
    for kind in (ListenerCounters, WorkerCounters, InspectorCounters, TcpCounters, HttpCounters, ClusterCounters):
        kind(stats, f"{kind.__name__}.")
    gauges = {name.rpartition(".")[2] for name in stats.read().gauges}
    assert {name for name in gauges if not name.endswith("_active")} == {"membership_healthy", "membership_total"}


def test_a_group_within_a_group_has_both() -> None:
    class Inner(Group):
        one: Counter

    class Outer(Inner):
        two: Gauge

    stats = Writer.private()
    outer = Outer(stats, "x.")
    outer.one.add()
    outer.two.set(5)
    assert counted(stats) == {"x.one": 1, "x.two": 5}


def test_two_groups_of_one_scope_count_together() -> None:
    stats = Writer.private()
    InspectorCounters(stats, "t.").sni_found.add()
    InspectorCounters(stats, "t.").sni_found.add()
    assert counted(stats) == {"t.sni_found": 2}


# Names of listeners


@pytest.mark.parametrize(
    ("listener", "scope"),
    [
        (Listener("l", (SocketAddress("127.0.0.1", 80), SocketAddress("::1", 80)), ()), "listener.127.0.0.1_80."),
        (Listener("l", (SocketAddress("::1", 443),), ()), "listener.[__1]_443."),
        (Listener("l", (Pipe("/run/a:b"),), ()), "listener./run/a_b."),
        (Listener("l", (SocketAddress("::1", 443),), (), stat_prefix="in:1"), "listener.in_1."),
    ],
)
def test_a_listener_s_statistics_are_named_after_its_prefix_or_first_address(listener: Listener, scope: str) -> None:
    assert listener_scope(listener) == scope


# Clusters


def test_a_response_is_counted_by_status_and_class_within_and_without() -> None:
    stats = Writer.private()
    cluster = ClusterCounters(stats, "cluster.c.")
    for status in (200, 200, 404, 999):
        cluster.answered(status)
    found = counted(stats, "cluster.c.")
    names = {"upstream_rq_200": 2, "upstream_rq_2xx": 2, "upstream_rq_404": 1, "upstream_rq_4xx": 1}
    names |= {"upstream_rq_999": 1, "upstream_rq_9xx": 1, "upstream_rq_completed": 4}
    assert found == names | {f"external.{name}": value for name, value in names.items()}


@pytest.mark.parametrize(
    ("by_us", "busy", "names"),
    [
        (True, False, {"local"}),
        (False, False, {"remote"}),
        (True, True, {"local", "with_active_rq", "local_with_active_rq"}),
        (False, True, {"remote", "with_active_rq", "remote_with_active_rq"}),
    ],
)
def test_the_end_of_a_connection_is_counted_by_who_and_when(by_us: bool, busy: bool, names: set[str]) -> None:
    stats = Writer.private()
    cluster = ClusterCounters(stats, "c.")
    cluster.upstream_cx_active.set(3)
    cluster.closed(by_us=by_us, busy=busy)
    expected = {"upstream_cx_active": 2, "upstream_cx_destroy": 1}
    assert counted(stats, "c.") == expected | {f"upstream_cx_destroy_{name}": 1 for name in names}


# TLS


class Secure:
    """What is asked of an SSL socket after its handshake."""

    def __init__(self, peer: bytes | None = None, *, reused: bool = False, cipher: str | None = "TLS_X") -> None:
        self.session_reused = reused
        self._peer = peer
        self._cipher = cipher

    def getpeercert(self, *, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._peer

    def version(self) -> str:
        return "TLSv1.3"

    def cipher(self) -> tuple[str, str, int] | None:
        return None if self._cipher is None else (self._cipher, "TLSv1.3", 128)


ALWAYS = {"handshake": 1, "versions.TLSv1.3": 1}


@pytest.mark.parametrize(
    ("secure", "found"),
    [
        (Secure(b"der"), {"ciphers.TLS_X": 1}),
        (Secure(None), {"ciphers.TLS_X": 1, "no_certificate": 1}),
        (Secure(b"der", reused=True), {"ciphers.TLS_X": 1, "session_reused": 1}),
        (Secure(b"der", cipher=None), {}),
    ],
)
def test_a_handshake_is_counted_with_what_was_agreed(secure: Secure, found: dict[str, int]) -> None:
    stats = Writer.private()
    TlsCounters(stats, "l.").shaken(secure)  # type: ignore[arg-type]
    assert counted(stats, "l.ssl.") == ALWAYS | found


def failure(kind: type[ssl.SSLError], reason: str | None) -> ssl.SSLError:
    made = kind(1, "told by the test")
    made.reason = reason  # type: ignore[assignment]
    return made


@pytest.mark.parametrize(
    ("error", "counter"),
    [
        (failure(ssl.SSLError, "PEER_DID_NOT_RETURN_A_CERTIFICATE"), "fail_verify_no_cert"),
        (failure(ssl.SSLCertVerificationError, "CERTIFICATE_VERIFY_FAILED"), "fail_verify_error"),
        (failure(ssl.SSLError, "WRONG_VERSION_NUMBER"), "connection_error"),
        (failure(ssl.SSLError, None), "connection_error"),
        (failure(ssl.SSLEOFError, "UNEXPECTED_EOF"), None),
        (failure(ssl.SSLSyscallError, None), None),
        (ConnectionResetError(), None),
        (ValueError(), None),
    ],
)
def test_a_failure_is_counted_by_its_category(error: Exception, counter: str | None) -> None:
    stats = Writer.private()
    TlsCounters(stats, "l.").failed(error)
    assert counted(stats, "l.ssl.") == ({counter: 1} if counter else {})


def test_a_named_counter_is_registered_once() -> None:
    stats = Writer.private()
    tls = TlsCounters(stats, "l.")
    assert tls.named("versions.TLSv1.2") is tls.named("versions.TLSv1.2")
    assert "l.ssl.versions.TLSv1.2" in stats.read().counters
