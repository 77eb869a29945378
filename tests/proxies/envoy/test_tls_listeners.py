from typing import Any

import pytest

from agent.handoff.socket_store import ListenAddress
from agent.proxies.envoy.tls_listeners import find
from agent.proxies.interface import TlsListener

TYPES = "type.googleapis.com/envoy.extensions"
PLACE = ListenAddress("tcp://127.0.0.1:443")

Tree = dict[str, Any]


def tls(*, file: str = "/dev/fd/7", **match: object) -> Tree:
    """Return a filter chain with a certificate."""
    common = {"tls_certificates": [{"certificate_chain": {"filename": file}, "private_key": {"filename": "/dev/fd/8"}}]}
    kind = f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"
    return {"transport_socket": {"typed_config": {"@type": kind, "common_tls_context": common}}, **_match(match)}


def plain(**match: object) -> Tree:
    return {"filters": [], **_match(match)}


def _match(match: Tree) -> Tree:
    return {"filter_chain_match": match} if match else {}


def address(host: str = "127.0.0.1", port: object = 443, **more: object) -> Tree:
    return {"socket_address": {"address": host, "port_value": port, **more}}


def listener(*chains: Tree, **more: object) -> Tree:
    return {"address": address(), "filter_chains": list(chains), **more}


def filters(*kinds: str) -> list[Tree]:
    return [{"typed_config": {"@type": f"{TYPES}.filters.listener.{kind.lower()}.v3.{kind}"}} for kind in kinds]


def test_a_chain_behind_a_certificate_of_the_epoch_is_found() -> None:
    assert find([listener(tls())]) == [TlsListener(PLACE, None)]


def test_each_chain_is_reached_by_a_name_of_its_own() -> None:
    chains = [tls(server_names=["a.example", "b.example"]), tls(server_names=["*.c.example"]), tls()]
    found = find([listener(*chains, listener_filters=filters("TlsInspector", "HttpInspector"))])
    assert [each.server_name for each in found] == ["a.example", "proof.c.example", None]


def test_the_first_chain_of_each_listener_comes_before_the_others() -> None:
    first, second = [listener(tls(server_names=[f"{name}1"]), tls(server_names=[f"{name}2"])) for name in "ab"]
    assert [each.server_name for each in find([first, second])] == ["a1", "b1", "a2", "b2"]


def test_each_address_of_a_listener_counts() -> None:
    more = [{"address": address("::", 443)}, {"address": {"pipe": {"path": "/run/in", "mode": 384}}}]
    found = find([listener(tls(), additional_addresses=more)])
    assert [each.place.address for each in found] == [PLACE.address, "tcp://[::]:443", "unix:///run/in"]


def test_plain_chains_are_no_hindrance_where_a_handshake_does_not_come_to_them() -> None:
    permissive = [tls(transport_protocol="tls"), plain(transport_protocol="raw_buffer")]
    assert find([listener(*permissive)]) == [TlsListener(PLACE, None)]


def test_a_default_chain_counts_like_any_other() -> None:
    assert find([listener(default_filter_chain=tls())]) == [TlsListener(PLACE, None)]
    assert find([listener(tls(server_names=["a"]), default_filter_chain=plain())]) == []


def test_criteria_that_are_there_and_empty_are_none() -> None:
    assert find([listener(tls(server_names=[], prefix_ranges=[]))]) == [TlsListener(PLACE, None)]


NOT_OURS = [
    tls(file="/etc/certs/tls.crt"),
    tls(file=""),
    tls(prefix_ranges=[{}]),
    tls(application_protocols=["h2"]),
    tls(transport_protocol="raw_buffer"),
]


@pytest.mark.parametrize("chain", [*NOT_OURS, plain(), {"transport_socket": {"typed_config": {"@type": "other"}}}])
def test_what_cannot_be_compared_or_may_be_plain_is_left_out(chain: Tree) -> None:
    assert find([listener(chain)]) == []


@pytest.mark.parametrize("chain", [plain(), plain(transport_protocol="tls"), plain(server_names=["x"])])
def test_a_listener_that_may_take_a_handshake_for_data_is_left_out_as_a_whole(chain: Tree) -> None:
    assert find([listener(tls(), chain)]) == []


def test_certificates_by_sds_are_not_known() -> None:
    chain = tls()
    chain["transport_socket"]["typed_config"]["common_tls_context"] = {"tls_certificate_sds_secret_configs": [{}]}
    assert find([listener(chain)]) == []


@pytest.mark.parametrize(
    "more",
    [
        {"bind_to_port": False},
        {"use_original_dst": True},
        {"listener_filters": filters("TlsInspector", "ProxyProtocol")},
        {"listener_filters": filters("OriginalDst")},
        {"listener_filters": [{"name": "by discovery", "config_discovery": {}}]},
        {"address": address(port=0)},
        {"address": address(protocol="UDP")},
        {"address": address(network_namespace_filepath="/run/netns/other")},
        {"address": address(host="proxy.example")},
        {"address": {"envoy_internal_address": {"server_listener_name": "x"}}},
        {"address": {}},
    ],
    ids=str,
)
def test_a_listener_that_cannot_be_reached_from_here_is_left_out(more: Tree) -> None:
    assert find([listener(tls()) | more]) == []


def test_a_shell_of_a_listener_is_nothing() -> None:
    assert find([{}, {"filter_chains": [{}]}]) == []


@pytest.mark.parametrize(
    ("names", "found"), [(["agent_secret_0"], 1), (["agent_secret_0", "own"], 0), (["own"], 0), ([], 0)]
)
def test_certificates_that_the_agent_delivers_are_the_epochs_own(names: list[str], found: int) -> None:
    chain = tls(file="/elsewhere")
    common = chain["transport_socket"]["typed_config"]["common_tls_context"]
    common["tls_certificate_sds_secret_configs"] = [{"name": name} for name in names]
    assert len(find([listener(chain)])) == found
