"""The clusters of the bootstrap."""

import pytest

from agent.istio import bootstrap_clusters
from agent.istio.discovery import ControlPlane
from agent.istio.pod import Family
from tests.istio.plans import FILES, found


def control_plane(plane: ControlPlane) -> dict[str, object]:
    return bootstrap_clusters.control_plane(plane, {"respect_dns_ttl": True}, "1s")


def test_without_files_the_control_plane_is_reached_in_plain_text() -> None:
    made = control_plane(ControlPlane("pilot", 15010))
    assert "transport_socket" not in made
    assert found(made, "cluster_type", "typed_config", "respect_dns_ttl") is True
    options = found(made, "typed_extension_protocol_options", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions")
    assert options["explicit_http_config"] == {"http2_protocol_options": {}}


def test_with_files_both_sides_show_certificates() -> None:
    made = control_plane(ControlPlane("istiod", 15012, FILES, (("DNS", "a"), ("URI", "spiffe://b"))))
    tls = found(made, "transport_socket", "typed_config")
    assert tls["sni"] == "istiod"
    common = tls["common_tls_context"]
    assert common["tls_certificates"] == [
        {"certificate_chain": {"filename": "/c/chain.pem"}, "private_key": {"filename": "/c/key.pem"}}
    ]
    assert common["validation_context"] == {
        "trusted_ca": {"filename": "/c/roots.pem"},
        "match_typed_subject_alt_names": [
            {"san_type": "DNS", "matcher": {"exact": "a"}},
            {"san_type": "URI", "matcher": {"exact": "spiffe://b"}},
        ],
    }


@pytest.mark.parametrize(
    ("family", "name"), [(Family.V4, "V4_PREFERRED"), (Family.V6, "V6_ONLY"), (Family.BOTH, "ALL")]
)
def test_names_are_looked_up_for_the_families_of_the_pod(family: Family, name: str) -> None:
    assert bootstrap_clusters.lookup_family(family) == name


def test_a_local_cluster_has_one_address() -> None:
    made = bootstrap_clusters.local("agent", "127.0.0.1", 15020)
    assert made["type"] == "STATIC"
    assert found(made, "load_assignment", "cluster_name") == "agent"
