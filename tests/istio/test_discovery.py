"""The control plane of a proxy."""

import pytest

from agent.core.errors import UsageError
from agent.istio.discovery import ControlPlane, Files


def test_an_address_has_a_host_and_a_port() -> None:
    plane = ControlPlane.parse("istiod.istio-system.svc:15012")
    assert (plane.host, plane.port, plane.is_secure_by_default) == ("istiod.istio-system.svc", 15012, True)
    plane = ControlPlane.parse("[fd00::1]:15010")
    assert (plane.host, plane.port, plane.is_secure_by_default) == ("fd00::1", 15010, False)


@pytest.mark.parametrize("address", ["", "istiod", ":15010", "istiod:", "istiod:0", "istiod:65536", "istiod:x", "a:٣"])
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"cannot use the discovery address .*: it is not of the form host:port"):
        ControlPlane.parse(address)


@pytest.mark.parametrize(
    ("address", "identity", "domain", "names"),
    [
        ("istio-pilot:15011", "", "", ("URI", "spiffe://cluster.local/ns/shop/sa/istio-pilot-service-account")),
        ("istio-pilot.mesh:15011", "", "td", ("URI", "spiffe://td/ns/mesh/sa/istio-pilot-service-account")),
        ("istio-pilot.mesh.svc:15011", "", "td", ("URI", "spiffe://td/ns/mesh/sa/istio-pilot-service-account")),
        ("istio-pilot:15011", "my-pilot", "td", ("URI", "spiffe://td/my-pilot")),
        ("istiod.mesh.svc:15012", "", "", ("DNS", "istiod.mesh.svc")),
        ("istiod.mesh.svc:15012", "x", "", ("URI", "spiffe://cluster.local/x")),
    ],
)
def test_its_certificate_must_have_a_name(address: str, identity: str, domain: str, names: tuple[str, str]) -> None:
    assert ControlPlane.parse(address).names_by(identity, domain, "shop") == (names,)


def test_the_files_have_names_by_default() -> None:
    assert Files.named({}, "CLIENT").all == (
        "/etc/certs/cert-chain.pem", "/etc/certs/key.pem", "/etc/certs/root-cert.pem",
    )  # fmt: skip


def test_variables_name_the_files_of_each_side() -> None:
    environment = {"ISTIO_META_TLS_CLIENT_KEY": "/c/key", "ISTIO_META_TLS_SERVER_ROOT_CERT": "/s/root"}
    assert Files.named(environment, "CLIENT").key == "/c/key"
    assert Files.named(environment, "SERVER").roots == "/s/root"
    assert Files.named(environment, "SERVER").key == "/etc/certs/key.pem"
