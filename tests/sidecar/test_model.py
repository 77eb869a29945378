import pytest

from agent.sidecar.model import (
    Cluster,
    Configuration,
    DirectResponse,
    DownstreamTls,
    Echo,
    FilterChain,
    HttpManager,
    Listener,
    LoadedPem,
    Match,
    Pipe,
    Reply,
    Route,
    SecretSource,
    SocketAddress,
    TcpProxy,
    UpstreamTls,
)


@pytest.mark.parametrize(
    ("address", "shown", "place"),
    [
        (SocketAddress("127.0.0.1", 80), "127.0.0.1:80", "tcp://127.0.0.1:80"),
        (SocketAddress("::1", 80), "[::1]:80", "tcp://[::1]:80"),
        (SocketAddress("::", 0, dual_stack=True), "[::]:0", "tcp://[::]:0"),
        (SocketAddress("a.example", 65535), "a.example:65535", "tcp://a.example:65535"),
        (Pipe("/run/s"), "/run/s", "unix:///run/s"),
        (Pipe("@abstract", 0o600), "@abstract", "unix://@abstract"),
    ],
)
def test_an_address_is_shown_and_handed_over(address: SocketAddress | Pipe, shown: str, place: str) -> None:
    assert str(address) == shown
    assert address.place.address == place


def test_only_port_0_is_any_port() -> None:
    assert SocketAddress("127.0.0.1", 0).place.any_port
    assert not SocketAddress("127.0.0.1", 10).place.any_port
    assert not Pipe("/x").place.any_port


def test_defaults_are_those_of_the_documentation() -> None:
    """CONFIGURATION.md, or Envoy's API where it says nothing."""
    listener = Listener("l", (), ())
    assert (listener.inspection_timeout, listener.continue_on_timeout, listener.buffer_limit) == (
        15,
        False,
        1024 * 1024,
    )
    assert (listener.backlog, listener.bind_to_port, listener.reuse_port, listener.inbound) == (4096, True, True, False)
    assert (listener.inspects_tls, listener.original_dst, listener.default_chain) == (False, False, None)
    chain = FilterChain(Echo())
    assert (chain.connect_timeout, chain.match, chain.tls, chain.name) == (15, Match((), "", ()), None, "")
    manager = HttpManager("h")
    assert (manager.server_name, manager.max_request_headers, manager.gate) == ("envoy", 60 * 1024, None)
    assert (manager.request_headers_timeout, manager.stream_idle_timeout, manager.request_timeout) == (60, 300, 0)
    assert (manager.idle_timeout, manager.hosts) == (3600, ())
    assert TcpProxy("t", "c")[2:] == (3600, 1)
    cluster = Cluster("c", "STATIC")
    assert (cluster.connect_timeout, cluster.dns_refresh_rate, cluster.dns_family) == (5, 5, "AUTO")
    assert Route("/", "c").timeout == 15
    assert (Reply(404).body, DirectResponse().body) == (b"", b"")
    configuration = Configuration((), ())
    assert (configuration.stats_flush_interval, dict(configuration.tree), configuration.admin) == (5, {}, None)


def test_tls_is_1_2_or_1_3_towards_clients_and_1_2_towards_clusters() -> None:
    down, up = DownstreamTls(()), UpstreamTls()
    assert (down.minimum.name, down.maximum.name) == ("TLSv1_2", "TLSv1_3")
    assert (up.minimum.name, up.maximum.name) == ("TLSv1_2", "TLSv1_2")
    assert (down.require_client_certificate, down.trusted_ca, up.trusted_ca, up.sni) == (False, None, None, "")


def test_pem_text_is_shown_by_its_name_only() -> None:
    pem = LoadedPem("sds:s/private_key", "<inline>", b"PRIVATE")
    assert str(pem) == f"{pem}" == "sds:s/private_key"
    assert "PRIVATE" not in repr(pem)


def test_the_tls_settings_of_a_configuration_are_in_the_order_of_the_document() -> None:
    a, b = DownstreamTls((), require_client_certificate=True), DownstreamTls((), alpn=("x",))
    up = UpstreamTls(ca_secret=SecretSource("s", "c", 1.0))
    listener = Listener("l", (), (FilterChain(Echo(), tls=a), FilterChain(Echo())), FilterChain(Echo(), tls=b))
    assert listener.all_chains == (*listener.chains, listener.default_chain)
    clusters = (Cluster("c", "STATIC"), Cluster("d", "STATIC", tls=up))
    assert list(Configuration((listener,), clusters).tls) == [a, b, up]
    assert [tls.has_secrets for tls in (a, b, up)] == [False, False, True]


def test_intervals_of_a_secret_are_those_of_envoy() -> None:
    assert SecretSource("s", "c", 0.5)[2:] == (0.5, 1.0, 15.0)
