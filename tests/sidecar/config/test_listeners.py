import pytest

from agent.sidecar.config.listeners import LISTENER, listener
from agent.sidecar.model import Echo, FilterChain, Listener, Match, Pipe, SocketAddress
from tests.sidecar.config.messages import Read, read, typed

ECHO = typed("filters.network.echo.v3.Echo")
INSPECTOR = typed("filters.listener.tls_inspector.v3.TlsInspector")
ORIGINAL = typed("filters.listener.original_dst.v3.OriginalDst")


def at(host: str = "127.0.0.1", port: int = 80, **more: object) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port, **more}}


def chain(*, match: object = None, **more: object) -> dict[str, object]:
    return {"filter_chain_match": match, "filters": [ECHO], **more}


def made(**members: object) -> Read:
    return numbered(0, **members)


def numbered(number: int, **members: object) -> Read:
    given = {"name": "l", "address": at(), "filter_chains": [chain()], **members}
    return read(lambda m: listener(m, number), given, LISTENER)


HERE = (SocketAddress("127.0.0.1", 80),)


def test_a_name_an_address_and_a_chain_are_enough() -> None:
    assert made() == (Listener("l", HERE, (FilterChain(Echo()),)), "")
    value = made().value
    assert (value.default_chain, value.stat_prefix, value.bind_to_port, value.reuse_port) == (None, "", True, True)
    assert (value.inspects_tls, value.original_dst, value.inspection_timeout) == (False, False, 15.0)
    assert (value.continue_on_timeout, value.backlog, value.inbound, value.buffer_limit) == (
        False,
        4096,
        False,
        1048576,
    )


def test_every_field_is_read() -> None:
    found = made(
        address=at("::", 1, ipv4_compat=True),
        additional_addresses=[{"address": at("127.0.0.1", 2)}, {"address": at("127.0.0.1", 3)}],
        stat_prefix="s",
        default_filter_chain=chain(name="d", transport_socket_connect_timeout="3s"),
        listener_filters=[INSPECTOR, ORIGINAL],
        listener_filters_timeout="0.5s",
        continue_on_listener_filters_timeout=True,
        per_connection_buffer_limit_bytes=1,
        bind_to_port=False,
        enable_reuse_port=False,
        tcp_backlog_size=7,
        traffic_direction="INBOUND",
        drain_type="DEFAULT",
        ignore_global_conn_limit=True,
    )
    addresses = (SocketAddress("::", 1, True), SocketAddress("127.0.0.1", 2), SocketAddress("127.0.0.1", 3))
    default = FilterChain(Echo(), "d", connect_timeout=3.0)
    expected = Listener(
        "l", addresses, (FilterChain(Echo()),), default, "s", False, False, True, True, 0.5, True, 7, True, 1
    )  # fmt: skip
    assert found == (expected, "")


@pytest.mark.parametrize("name", [None, ""])
def test_a_listener_without_a_name_is_named_after_its_place(name: object) -> None:
    assert numbered(3, name=name).value.name == "unnamed_3"


def test_a_default_chain_is_enough() -> None:
    assert made(filter_chains=[], default_filter_chain=chain()).why == ""
    assert made(filter_chains=[]).why == "m.filter_chains: it is missing"
    assert made(filter_chains=None).why == "m.filter_chains: it is missing"


@pytest.mark.parametrize(
    ("direction", "inbound"), [("INBOUND", True), (1, True), ("OUTBOUND", False), (2, False), (0, False)]
)
def test_a_direction_is_inbound_or_not(direction: object, inbound: bool) -> None:
    assert made(traffic_direction=direction) == (made().value._replace(inbound=inbound), "")


@pytest.mark.parametrize(("given", "backlog"), [(0, 0), (2147483647, 2147483647), (4294967295, 2147483647)])
def test_a_backlog_is_that_of_listen(given: int, backlog: int) -> None:
    assert made(tcp_backlog_size=given).value.backlog == backlog


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"address": None}, "address"),
        ({"drain_type": "MODIFY_ONLY"}, "drain_type"),
        ({"per_connection_buffer_limit_bytes": 0}, "per_connection_buffer_limit_bytes"),
        ({"listener_filters_timeout": "-1s"}, "listener_filters_timeout"),
        ({"ignore_global_conn_limit": "maybe"}, "ignore_global_conn_limit"),
        (
            {"listener_filters": [typed("filters.listener.proxy_protocol.v3.ProxyProtocol")]},
            "listener_filters[0].typed_config",
        ),
        ({"listener_filters": [{"typed_config": INSPECTOR["typed_config"]}]}, "listener_filters[0].name"),
        ({"address": at("127.0.0.1", 1, ipv4_compat=True)}, "address"),
        ({"additional_addresses": [{"address": {"pipe": {"path": "/x"}}}]}, "additional_addresses"),
        ({"additional_addresses": [{}]}, "additional_addresses[0].address"),
        ({"default_filter_chain": chain(match={})}, "default_filter_chain.filter_chain_match"),
        ({"udp_listener_config": {}}, "udp_listener_config"),
        ({"traffic_direction": 9}, "traffic_direction"),
    ],
)
def test_a_listener_that_cannot_be_is_told(members: dict[str, object], field: str) -> None:
    why = made(**members).why
    assert why.startswith(f"m.{field}")
    assert "; m." not in why


def test_paths_may_be_several() -> None:
    found = made(address={"pipe": {"path": "/x"}}, additional_addresses=[{"address": {"pipe": {"path": "@y"}}}])
    assert found.value.addresses == (Pipe("/x"), Pipe("@y"))
    assert found.why == ""


# Filter chains


@pytest.mark.parametrize(("filters", "is_good"), [([], False), ([ECHO], True), ([ECHO, ECHO], False)])
def test_a_chain_has_one_filter(filters: list[object], is_good: bool) -> None:
    value, why = made(filter_chains=[{"filters": filters}])
    assert value.chains == (FilterChain(Echo()),)
    assert (why == "") is is_good
    assert is_good or why.startswith("m.filter_chains[0].filters: ")


def matched(**match: object) -> tuple[Match, str]:
    value, why = made(filter_chains=[chain(match=match)])
    return value.chains[0].match, why.removeprefix("m.filter_chains[0].filter_chain_match.")


def test_a_match_is_read() -> None:
    found = matched(
        server_names=["A.Example", "*.B.example"], transport_protocol="tls", application_protocols=["h2", "X"]
    )
    assert found == (Match(("a.example", "*.b.example"), "tls", ("h2", "X")), "")
    assert matched() == (Match(), "")


@pytest.mark.parametrize("name", ["", "*", "*.", "a.*", "*.*.a", "a*.b", "**.a", "*a"])
def test_a_server_name_has_a_star_only_before_its_first_dot(name: str) -> None:
    assert matched(server_names=[name])[1].startswith(f"server_names: {name!r}")


@pytest.mark.parametrize(
    ("transport", "is_good"), [("", True), ("tls", True), ("raw_buffer", True), ("quic", False), ("TLS", False)]
)
def test_a_transport_is_tls_or_none(transport: str, is_good: bool) -> None:
    why = matched(transport_protocol=transport)[1]
    assert (why == "") is is_good
    assert is_good or why.startswith("transport_protocol: ")


def test_a_protocol_has_a_name() -> None:
    assert matched(application_protocols=["h2", ""])[1].startswith("application_protocols: ")


@pytest.mark.parametrize(
    ("match", "inspects"),
    [
        ({}, False),
        ({"transport_protocol": "raw_buffer"}, False),
        ({"transport_protocol": "tls"}, True),
        ({"server_names": ["a"]}, True),
        ({"application_protocols": ["h2"]}, True),
    ],
)
def test_clients_are_inspected_where_a_chain_wants_it(match: dict[str, object], inspects: bool) -> None:
    assert made(filter_chains=[chain(match=match)]).value.inspects_tls is inspects
    assert made(filter_chains=[chain(match=match)], listener_filters=[INSPECTOR]).value.inspects_tls is True


def test_each_listener_filter_does_its_own() -> None:
    value = made(listener_filters=[ORIGINAL]).value
    assert (value.original_dst, value.inspects_tls) == (True, False)
    value = made(listener_filters=[INSPECTOR]).value
    assert (value.original_dst, value.inspects_tls) == (False, True)


SAME = "m.filter_chains[1].filter_chain_match: it matches the same connections as filter_chains[0]"


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({}, {}, True),
        ({"server_names": ["a"]}, {"server_names": ["b", "A"]}, True),
        ({"server_names": ["a"]}, {"server_names": ["b"]}, False),
        ({"server_names": ["a"]}, {}, False),
        ({"server_names": ["a"]}, {"server_names": ["*.a"]}, False),
        ({"server_names": ["a"]}, {"server_names": ["a"], "transport_protocol": "tls"}, False),
        ({"application_protocols": ["x", "y"]}, {"application_protocols": ["y"]}, True),
        ({"application_protocols": ["x"]}, {"application_protocols": ["X"]}, False),
        ({"transport_protocol": "tls"}, {"transport_protocol": "raw_buffer"}, False),
    ],
)
def test_two_chains_must_not_match_the_same(first: object, second: object, is_same: bool) -> None:
    assert made(filter_chains=[chain(match=first), chain(match=second)]).why == (SAME if is_same else "")


def test_the_third_of_three_same_chains_is_told_with_its_first() -> None:
    names = [{"server_names": ["x"]}, {"server_names": ["a", "b"]}, {"server_names": ["b", "a"]}]
    why = made(filter_chains=[chain(match=each) for each in names]).why
    assert why == "m.filter_chains[2].filter_chain_match: it matches the same connections as filter_chains[1]"


def test_tls_and_the_time_of_its_handshake_are_read() -> None:
    pair = {"certificate_chain": {"filename": "/c"}, "private_key": {"filename": "/k"}}
    kind = "transport_sockets.tls.v3.DownstreamTlsContext"
    tls = typed(kind, common_tls_context={"tls_certificates": [pair]})
    value, why = made(filter_chains=[chain(transport_socket=tls, transport_socket_connect_timeout="0s", name="n")])
    assert why == ""
    assert value.chains[0].tls.certificates == (("/c", "/k"),)
    assert (value.chains[0].connect_timeout, value.chains[0].name) == (0.0, "n")
