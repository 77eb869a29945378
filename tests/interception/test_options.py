"""Options, checked before anything is changed."""

from ipaddress import ip_network

import pytest

from agent.core.errors import UsageError
from agent.interception.options import Mode, Options, parse


def read(**texts: str) -> Options:
    return parse({name.replace("_", "-"): text for name, text in texts.items()}, {}, ())


def test_nothing_given_intercepts_everything() -> None:
    assert parse({}, {}, ("10.0.0.1",)) == Options(dns_servers=("10.0.0.1",))


def test_every_option_is_read() -> None:
    made = read(
        envoy_port="1", inbound_capture_port="2", inbound_tunnel_port="0", proxy_uid="7,8", proxy_gid="9",
        inbound_interception_mode="TPROXY", inbound_ports="80, 443,80", local_exclude_ports="22",
        outbound_ports="8443", local_outbound_ports_exclude="3306", service_cidr="10.0.0.0/8,fd00::/8",
        service_exclude_cidr="10.9.0.0/16", exclude_interfaces="net1", kube_virt_interfaces="vm+,eth0.100",
        outbound_owner_groups="3000", outbound_owner_groups_exclude="2000", inbound_tproxy_mark="0x10",
        inbound_tproxy_route_table="200",
    )  # fmt: skip
    assert made == Options(
        proxy_port=1, inbound_port=2, tunnel_port=0, uids=(7, 8), gids=(9,), mode=Mode.TPROXY, inbound=(80, 443),
        inbound_excluded=(22,), outbound=(8443,), outbound_excluded=(3306,),
        networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")), networks_excluded=(ip_network("10.9.0.0/16"),),
        interfaces_excluded=("net1",), virtual_interfaces=("vm+", "eth0.100"), groups=(3000,), groups_excluded=(2000,),
        dns_servers=(), mark=16, route_table=200,
    )  # fmt: skip


def test_groups_are_the_users_by_default() -> None:
    assert read(proxy_uid="7,8").gids == (7, 8)


def test_an_empty_text_is_nothing_and_a_star_is_all() -> None:
    made = read(inbound_ports="", service_cidr="", outbound_owner_groups="")
    assert (made.inbound, made.networks, made.groups) == ((), (), ())
    made = read(inbound_ports="*", service_cidr="*", outbound_owner_groups="*")
    assert (made.inbound, made.networks, made.groups) == (None, None, None)


def test_switches() -> None:
    made = parse({}, {"redirect-dns": True, "drop-invalid": True}, ("10.0.0.1", "fd00::1"))
    assert (made.dns, made.dns_servers, made.drop_invalid) == (True, ("10.0.0.1", "fd00::1"), True)
    made = parse({}, {"capture-all-dns": True}, ("10.0.0.1",))
    assert (made.dns, made.dns_servers) == (True, None)


def test_bits_outside_of_a_network_are_dropped_with_a_warning() -> None:
    made = read(service_exclude_cidr="10.9.8.7/16,fd00::1/64,10.0.0.1")
    assert [str(each) for each in made.networks_excluded] == ["10.9.0.0/16", "fd00::/64", "10.0.0.1/32"]
    assert [warning.split(":")[0] for warning in made.warnings] == [
        "--service-exclude-cidr 10.9.8.7/16 is 10.9.0.0/16", "--service-exclude-cidr fd00",
    ]  # fmt: skip


_BAD = {
    "envoy-port": ["0", "65536", "x"],
    "inbound-tunnel-port": ["-1"],
    "inbound-ports": ["80:90", "0", "*,80", "٣"],
    "local-exclude-ports": ["*", "http"],
    "outbound-ports": ["*"],
    "local-outbound-ports-exclude": ["70000"],
    "service-cidr": ["*,10.0.0.0/8", "10.0.0.0/33", "shop"],
    "service-exclude-cidr": ["*"],
    "exclude-interfaces": ["a-very-long-name0", "a b"],
    "kube-virt-interfaces": ["a/b"],
    "proxy-uid": ["istio-proxy", "0", "1337,0"],
    "proxy-gid": ["4294967295"],
    "inbound-interception-mode": ["tproxy", "REDIRECTED"],
    "inbound-tproxy-mark": ["0", "4294967295"],
    "inbound-tproxy-route-table": ["main"],
    "outbound-owner-groups": ["*,1", ",".join(map(str, range(1, 66)))],
    "outbound-owner-groups-exclude": ["x"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in _BAD.items() for text in texts])
def test_a_bad_item_is_refused_with_its_option(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot use --{name} "):
        parse({name: text}, {}, ())


def test_the_proxys_two_ports_differ() -> None:
    with pytest.raises(UsageError, match="cannot use --inbound-capture-port 15001: --envoy-port is the same"):
        read(inbound_capture_port="15001")
