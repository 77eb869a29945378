"""The admin interfaces of both proxies, compared: the same configuration, the same traffic, the same requests."""

import dataclasses

import pytest

from tests.system.bootstrap import TYPES, Json, Secured, address, http, listener, tls_chain
from tests.system.certificates import Mint, authority
from tests.system.eventually import eventually
from tests.system.observations import AGAIN, Difference, Documented, Observed, differences, idle, observed, unexplained
from tests.system.proxies import KINDS, Console, Proxy, needed, running
from tests.system.room import Room
from tests.system.wire import Target, connect, exchange, tls_context

QUESTIONS = (
    ("GET", "/"),
    ("GET", "/ready"),
    ("GET", "/ready?anything=1"),
    ("HEAD", "/ready"),
    ("POST", "/ready"),
    ("PUT", "/ready"),
    ("GET", "/server_info"),
    ("GET", "/stats"),
    ("GET", "/stats?usedonly"),
    ("GET", "/stats?filter=^http.http.downstream_(rq|cx)_total$"),
    ("GET", "/stats?format=json"),
    ("GET", "/stats?format=json&usedonly&filter=downstream_cx_total"),
    ("GET", "/stats?format=text&filter=server.live"),
    ("GET", "/stats?format=prometheus&usedonly"),
    ("GET", "/stats?format=nonsense"),
    ("GET", "/stats?filter=("),
    ("GET", "/stats/prometheus"),
    ("POST", "/stats?filter=server.live"),
    ("HEAD", "/stats"),
    ("GET", "/listeners"),
    ("GET", "/listeners?format=json"),
    ("GET", "/listeners?format=text"),
    ("GET", "/certs"),
    ("POST", "/certs"),
    ("HEAD", "/certs"),
    ("GET", "/config_dump"),
    ("GET", "/init_dump"),
    ("GET", "/hot_restart_version"),
    ("GET", "/nothing"),
    ("POST", "/nothing"),
    ("HEAD", "/nothing"),
    ("GET", "/ready/"),
    ("GET", "/readyness"),
    ("GET", "/healthcheck/fail"),
    ("GET", "/healthcheck/ok"),
    ("HEAD", "/healthcheck/ok"),
    ("PUT", "/healthcheck/ok"),
    ("GET", "/drain_listeners"),
    ("GET", "/quitquitquit"),
    ("POST", "/healthcheck/fail"),
    ("GET", "/ready"),
    ("HEAD", "/ready"),
    ("GET", "/server_info"),
    ("GET", "/stats?filter=^server.(live|state)$"),
    ("POST", "/healthcheck/ok"),
    ("GET", "/ready"),
    ("GET", "/stats?filter=^server.(live|state)$"),
)

STATS = r"GET /stats\S* "
DOCUMENTED = (
    Documented(
        r"GET /server_info \$\.(version|node\..*)|GET /config_dump \$\.configs\[Bootstrap\w*\]\.bootstrap\.node\..*",
        "it is another program: its own version, and no extensions to list",
    ),
    Documented(r"GET /server_info \$\.command_line_options\..*", "flags it does not have", absent=True),
    Documented(r"GET /stats\?filter=\( line 0", "another library of regular expressions"),
    Documented(STATS + r"(# TYPE )?(envoy_)?runtime[._].*", "it has no runtime layers", absent=True),
    Documented(
        STATS + r"(\S+\.(worker_0|main_thread)\.\S+|(# TYPE )?envoy_\S*(worker|thread_local_cluster_manager)\S*)",
        "it has one worker",
        absent=True,
    ),
    Documented(
        STATS
        + r"\S*ssl[._](curves|sigalgs|certificate)\S*|"
        + STATS
        + r"# TYPE \S*ssl_(curves|sigalgs|certificate)\S*",
        "Python's ssl does not tell",
        absent=True,
    ),
    Documented(
        STATS + r"(# TYPE )?\S*http\S*downstream_cx_destroy_(local|remote)\S*",
        "it closes after a last answer; Envoy leaves that to the client for a second",
    ),
    Documented(
        STATS + r"(# TYPE )?(envoy_)?server[._]days_until_first_cert_expiring({.*})?",
        "each certificate's days are told by /certs",
        absent=True,
    ),
    Documented(
        r"GET /stats\S*usedonly\S* (# TYPE )?(envoy_)?"
        r"(listener_manager[._]total_listeners_draining|server[._]hot_restart_epoch)({.*})?",
        "a gauge that never moved is not left out with usedonly",
    ),
    Documented(
        r"GET /stats\?filter=\^server\.\(live\|state\)\$ server\.state",
        "it tells a new state at once, Envoy with the next flush",
    ),
    Documented(r"GET /stats\S* \$\.stats\[\d+\]\.histograms.*", "it keeps no histograms", absent=True),
    Documented(r"[A-Z]+ \S+ header server", "its console does not name itself", absent=True),
    Documented(
        STATS
        + r"(# TYPE )?(\S*(_ms|_time|_per_cx|_per_socket_event|_delay|interval_delay)|\S+_(bucket|sum|count))({.*})?",
        "it keeps no histograms",
        absent=True,
    ),
)
KEPT = (
    *(f"listener.ADDRESS.downstream_cx_{what}" for what in ("total", "active", "destroy")),
    *(f"listener.ADDRESS.downstream_pre_cx_{what}" for what in ("active", "timeout")),
    "listener.ADDRESS.no_filter_chain_match",
    *(f"listener.TLS.ssl.{what}" for what in ("handshake", "connection_error", "no_certificate")),
    *(f"listener.TLS.ssl.fail_verify_{what}" for what in ("no_cert", "error")),
    *(
        f"http.http.downstream_rq_{what}"
        for what in ("total", "active", "completed", "1xx", "2xx", "3xx", "4xx", "5xx")
    ),
    *(f"http.http.downstream_cx_{what}" for what in ("total", "active", "destroy", "rx_bytes_total", "tx_bytes_total")),
    *(f"tcp.raw.downstream_cx_{what}" for what in ("total", "rx_bytes_total", "tx_bytes_total", "no_route")),
    *(f"cluster.origin.upstream_cx_{what}" for what in ("total", "active", "connect_fail", "connect_timeout")),
    *(f"cluster.origin.upstream_cx_{what}" for what in ("rx_bytes_total", "tx_bytes_total")),
    *(f"cluster.origin.membership_{what}" for what in ("total", "healthy")),
    *(f"server.{what}" for what in ("live", "state", "uptime", "concurrency", "hot_restart_epoch")),
    *(f"listener_manager.{what}" for what in ("listener_added", "total_listeners_active", "workers_started")),
)


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return needed(request.param)


class Place:
    """A configuration with every feature that the admin interfaces show: TLS, TCP through a cluster, HTTP."""

    def __init__(self, room: Room, name: str = "plain") -> None:
        self.room, self.name = room, name
        self.console = Console(room.port())
        self.tls, self.raw, self.plain = (Target("127.0.0.1", room.port(), tls=number == 0) for number in range(3))
        self._files()

    def _files(self) -> None:
        leaf, here = Mint().leaf("proxy.test", "10.0.0.1", "spiffe://test/proxy"), self.room.directory
        self.secured = Secured(here / "chain.pem", here / "key.pem", trusted=here / "ca.pem")
        for name, content in (("chain", leaf.chain_pem), ("key", leaf.key_pem), ("ca", authority().pem)):
            (here / f"{name}.pem").write_bytes(content)

    def tree(self) -> Json:
        """Return the bootstrap."""
        to_origin = {
            "@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "raw",
            "cluster": "origin",
        }
        endpoint = {"endpoint": {"address": address("127.0.0.1", self.plain.port)}}
        origin = {
            "name": "origin",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        chain = tls_chain(self.secured, "ok\n")
        chain["transport_socket"]["typed_config"]["require_client_certificate"] = False
        listeners = [
            listener("tls", "127.0.0.1", self.tls.port, [chain]),
            listener("raw", "127.0.0.1", self.raw.port, [{"filters": [{"name": "tcp", "typed_config": to_origin}]}]),
            listener(self.name, "127.0.0.1", self.plain.port, [{"filters": [http("ok\n")]}]),
        ]
        return {"static_resources": {"listeners": listeners, "clusters": [origin]}}

    def traffic(self, requests: int = 3) -> None:
        """Make some requests of each kind, and disconnect."""
        context = tls_context()
        for target in (self.plain, self.tls, self.raw):
            with connect(target, context) as sock:
                for number in range(requests):
                    exchange(sock, last=number == requests - 1)

    def told(self, proxy: Proxy, requests: int = 3) -> Observed:
        """Run a proxy, make the traffic, send all requests."""
        with running(self.room, proxy, self.tree(), console=self.console) as alone:
            self.traffic(requests)
            eventually(lambda: settled(alone.console), what="all connections are counted as gone")
            told: Observed = {}
            for number, (method, path) in enumerate(QUESTIONS):
                again = AGAIN if (method, path) in QUESTIONS[:number] else ""
                told |= {again + key: value for key, value in observed(alone.console, method, path).items()}
            return told


def settled(console: Console) -> bool:
    """Return whether no client and no upstream is connected, and every request is counted as complete."""
    numbers = console.numbers()
    active = [name for name, value in numbers.items() if name.endswith("cx_active") and "admin" not in name and value]
    return not active and numbers["http.http.downstream_rq_completed"] == numbers["http.http.downstream_rq_total"]


@pytest.fixture
def place(room: Room) -> Place:
    return Place(room)


def test_all_answers_are_envoys_but_for_what_is_documented(place: Place, proxy: Proxy) -> None:
    theirs = place.told(needed("envoy"))
    found = [difference for difference in differences(place.told(proxy), theirs) if not is_unmoved(difference)]
    if proxy.name == "envoy":
        assert found == []
        return
    only_documented(found)
    assert [entry.pattern for entry in idle(found, DOCUMENTED)] == []


def only_documented(found: list[Difference]) -> None:
    """Fail with every difference that the table does not explain."""
    if undocumented := unexplained(found, DOCUMENTED):
        pytest.fail("\n".join(map(str, ["not documented:", *undocumented])))


def is_unmoved(difference: Difference) -> bool:
    """Return whether a statistic is at 0 in Envoy and missing in the other, or the line that declares its type."""
    in_statistics = "GET /stats" in difference.key or "POST /stats" in difference.key
    return in_statistics and difference.ours is None and (difference.theirs == "0" or "# TYPE" in difference.key)


def test_a_difference_is_seen(place: Place, room: Room) -> None:
    theirs = place.told(needed("envoy"))
    place.name = "another"
    found = differences(place.told(needed("envoy"), requests=4), theirs)
    keys = {difference.key for difference in unexplained(found, DOCUMENTED)}
    assert {
        "GET /listeners line 2",
        "GET /listeners?format=json $.listener_statuses[2].name",
        "GET /stats http.http.downstream_rq_total",
        "GET /stats?format=json http.http.downstream_rq_total",
        "GET /stats?filter=^http.http.downstream_(rq|cx)_total$ http.http.downstream_rq_total",
        'GET /stats/prometheus envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="http"}',
        "GET /config_dump $.configs[ListenersConfigDump].static_listeners[2].listener.name",
    } <= keys
    assert not any(key.startswith(("GET /certs", "GET /server_info", "GET /ready")) for key in keys)


def test_the_statistics_that_are_promised_are_kept(place: Place, proxy: Proxy) -> None:
    with running(place.room, proxy, place.tree(), console=place.console) as alone:
        place.traffic()
        eventually(lambda: settled(alone.console))
        kept = alone.console.numbers()
        assert "server.uptime" in kept
    addresses = {"TLS": [place.tls.port], "ADDRESS": [place.tls.port, place.raw.port, place.plain.port]}
    wanted = {
        name.replace(word, f"127.0.0.1_{port}")
        for name in KEPT
        for word, ports in addresses.items()
        for port in ports
        if word in name or not any(f".{other}." in name for other in addresses)
    }
    assert sorted(wanted - kept.keys()) == []


def test_who_may_be_restarted_hot_says_so_as_envoy_does(place: Place, proxy: Proxy) -> None:
    def told(kind: Proxy) -> Observed:
        hot = dataclasses.replace(kind, arguments=(*kind.arguments[:-1], "--base-id", "7", "--restart-epoch", "0"))
        with running(place.room, hot, place.tree(), ["--drain-time-s", "5"], place.console) as alone:
            told: Observed = {}
            for path in ("/hot_restart_version", "/server_info", "/stats?filter=^server.hot_restart"):
                told |= observed(alone.console, "GET", path)
        (place.room.shm / "envoy_shared_memory_70").unlink(missing_ok=True)  # Envoy omits it
        return told

    found = differences(told(proxy), told(needed("envoy")))
    only_documented(found)
