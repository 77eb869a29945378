"""The script of nftables; a system test applies it."""

from ipaddress import ip_network

import pytest

from agent.core.errors import UsageError
from agent.interception import nftables
from agent.interception.options import Mode, Options


def rules_of(options: Options, chain: str) -> list[str]:
    """Return the rules of a chain, behind the line with its hook."""
    body = nftables.script(options).split(f"  chain {chain} {{\n")[1].split("  }\n")[0]
    return [line.strip() for line in body.splitlines()][1:]


def test_a_table_replaces_itself_in_one_transaction() -> None:
    script = nftables.script(Options())
    assert script.startswith(nftables.removal())
    assert script.count("table inet proxy_agent {") == 1
    assert nftables.script(Options(mode=Mode.NONE)) == nftables.removal()


def test_the_rules_by_default() -> None:
    assert rules_of(Options(), "inbound") == ["tcp dport 15008 return", "meta l4proto tcp redirect to :15006"]
    assert rules_of(Options(), "outbound") == [
        'oifname "lo" ip saddr 127.0.0.6 return',
        'oifname "lo" ip6 saddr ::6 return',
        'oifname "lo" ip daddr != 127.0.0.1 tcp dport != { 15008 } meta skuid { 1337 } redirect to :15006',
        'oifname "lo" ip6 daddr != ::1 tcp dport != { 15008 } meta skuid { 1337 } redirect to :15006',
        "meta skuid { 1337 } return",
        "meta skgid { 1337 } return",
        'oifname "lo" return',
        "ip daddr 127.0.0.1 return",
        "ip6 daddr ::1 return",
        "meta l4proto tcp redirect to :15001",
    ]


def test_inbound_ports_and_interfaces() -> None:
    made = Options(inbound=(80, 443), interfaces_excluded=("net1",), virtual_interfaces=("vm+",), tunnel_port=0)
    assert rules_of(made, "inbound") == [
        'iifname { "net1" } return',
        'iifname { "vm*" } meta l4proto tcp redirect to :15001',
        'iifname { "vm*" } return',
        "tcp dport { 80, 443 } redirect to :15006",
    ]
    made = Options(inbound_excluded=(22,), virtual_interfaces=("a", "b"), networks=(ip_network("fd00::/8"),))
    assert rules_of(made, "inbound") == [
        'iifname { "a", "b" } ip6 daddr { fd00::/8 } meta l4proto tcp redirect to :15001',
        'iifname { "a", "b" } return',
        "tcp dport 15008 return",
        "tcp dport { 22 } return",
        "meta l4proto tcp redirect to :15006",
    ]


def test_outbound_destinations() -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    made = Options(
        networks=networks, networks_excluded=(ip_network("10.9.0.0/16"),), outbound=(8443,), outbound_excluded=(3306,),
        groups=(5,), groups_excluded=(6,),
    )  # fmt: skip
    found = rules_of(made, "outbound")
    assert found[0] == "meta l4proto { tcp, udp } th dport { 3306 } return"
    assert found[-8:] == [
        "meta skgid { 6 } return",
        "meta skgid != { 5 } return",
        "ip daddr 127.0.0.1 return",
        "ip6 daddr ::1 return",
        "ip daddr { 10.9.0.0/16 } return",
        "tcp dport { 8443 } redirect to :15001",
        "ip daddr { 10.0.0.0/8 } meta l4proto tcp redirect to :15001",
        "ip6 daddr { fd00::/8 } meta l4proto tcp redirect to :15001",
    ]
    assert rules_of(Options(networks=()), "outbound")[-1] == "ip6 daddr ::1 return"
    assert "return" in rules_of(Options(groups=()), "outbound")


def test_loopback_is_not_left_out_where_a_network_includes_it() -> None:
    assert 'oifname "lo" return' not in rules_of(Options(networks=(ip_network("127.0.0.0/8"),)), "outbound")


def test_queries_to_name_servers() -> None:
    found = rules_of(Options(dns=True, dns_servers=("10.96.0.10", "fd00::a"), tunnel_port=0), "outbound")
    assert 'oifname "lo" tcp dport != 53 return' in found
    assert "ip daddr 10.96.0.10 udp dport 53 redirect to :15053" in found
    assert "ip6 daddr fd00::a tcp dport 53 redirect to :15053" in found
    assert any("tcp dport != { 53 } meta skuid" in rule for rule in found)
    assert rules_of(Options(dns=True), "dns_in") == ["udp sport 53 ct zone set 1"]
    assert rules_of(Options(dns=True), "dns_out")[-1] == "udp dport 53 ct zone set 2"


def test_invalid_packets_are_dropped_on_request() -> None:
    assert rules_of(Options(drop_invalid=True), "invalid") == ["ct state invalid drop"]
    assert "invalid" not in nftables.script(Options())


def test_tproxy_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot use --backend nftables with TPROXY; use another backend"):
        nftables.script(Options(mode=Mode.TPROXY))
