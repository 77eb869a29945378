"""The rules, compared with ones that were applied and driven with connections."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.interception.options import Mode, Options
from agent.interception.rules import DROP, INBOUND, OUTPUT, REDIRECT, Family, Rule, rules

_GOLDEN = Path(__file__).with_name("golden.yaml")
_NETWORKS = {"networks", "networks_excluded"}


def cases() -> Iterator[Any]:
    for case in yaml.safe_load_all(_GOLDEN.read_text(encoding="utf-8")):
        for family, key in ((Family.V4, "ipv4"), (Family.V6, "ipv6")):
            if key in case:
                yield pytest.param(options(case["options"]), family, case[key], id=f"{case['case']}, {family}")


def options(given: dict[str, Any]) -> Options:
    return Options(**{name: _field(name, value) for name, value in given.items()})


def _field(name: str, value: Any) -> Any:  # noqa: ANN401  # of any field
    if name == "mode":
        return Mode(value)
    if not isinstance(value, list):
        return value
    return tuple(ip_network(each) if name in _NETWORKS else each for each in value)


def texts(made: Options, family: Family = Family.V4, chain: str | None = None, table: str = "nat") -> list[str]:
    return [rule.text for rule in rules(made, family) if rule.table == table and chain in {None, rule.chain}]


@pytest.mark.parametrize(("made", "family", "wanted"), [*cases()])
def test_the_rules_of_a_case(made: Options, family: Family, wanted: list[str]) -> None:
    assert [f"{rule.table} {rule}" for rule in rules(made, family)] == wanted


def test_nothing_is_intercepted_in_the_mode_none() -> None:
    assert rules(Options(mode=Mode.NONE), Family.V4) == []


def test_a_built_in_chain_gets_one_jump_in_each_table() -> None:
    everything = Options(
        dns=True, drop_invalid=True, virtual_interfaces=("veth9",), interfaces_excluded=("net1",), groups=(1, 2)
    )
    for made in (everything, Options(mode=Mode.TPROXY, dns=True, virtual_interfaces=("veth9",))):
        jumps = [(rule.table, rule.chain, rule.text) for rule in rules(made, Family.V6) if rule.is_jump]
        assert len({(table, chain, DROP in text) for table, chain, text in jumps}) == len(jumps)
        assert all(text.endswith((INBOUND, OUTPUT, DROP)) for _, _, text in jumps)


def test_the_proxys_calls_to_its_own_pod_are_captured_beside_dns_without_a_tunnel() -> None:
    own = next(text for text in texts(Options(dns=True, tunnel_port=0)) if "--uid-owner" in text)
    assert own == "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 53 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"


def test_traffic_of_virtual_machines_is_outbound_by_network() -> None:
    made = Options(virtual_interfaces=("vm+",), networks=(ip_network("10.0.0.0/8"),), inbound=())
    assert texts(made, chain=INBOUND) == ["-d 10.0.0.0/8 -i vm+ -p tcp -j ISTIO_REDIRECT", "-i vm+ -j RETURN"]
    assert texts(made, Family.V6, INBOUND) == ["-i vm+ -j RETURN"]


def test_with_tproxy_and_virtual_machines_inbound_ones_are_not_redirected() -> None:
    made = Options(mode=Mode.TPROXY, virtual_interfaces=("vm0",))
    assert texts(made, chain=INBOUND) == ["-i vm0 -p tcp -j ISTIO_REDIRECT", "-i vm0 -j RETURN"]


def test_some_ports_by_tproxy() -> None:
    made = Options(mode=Mode.TPROXY, inbound=(80, 443), inbound_excluded=(22,), interfaces_excluded=("net1",))
    found = texts(made, chain=INBOUND, table="mangle")
    assert found[0] == "-i net1 -j RETURN"
    assert "-p tcp -m tcp --dport 22 -j RETURN" not in found, "a port that is not in the list needs no exclusion"
    assert found[-2:] == [
        "-p tcp -m tcp --dport 443 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
        "-p tcp -m tcp --dport 443 -j ISTIO_TPROXY",
    ]
    assert texts(Options(mode=Mode.TPROXY, inbound=()), table="mangle") == []


def test_no_group_at_all_sends_nothing_to_the_proxy() -> None:
    found = texts(Options(groups=()), chain=OUTPUT)
    assert "-j RETURN" in found
    assert found.index("-j RETURN") < found.index(f"-j {REDIRECT}")


def test_a_rule_is_printed_as_it_is_saved() -> None:
    assert str(Rule("nat", "OUTPUT", "-j X")) == "-A OUTPUT -j X"
    assert [str(family) for family in Family] == ["IPv4", "IPv6"]
