"""The control planes of a document and their addresses, in each form of source."""

import pytest

from agent.proxies.envoy import yaml_nodes
from agent.proxies.envoy.control_planes import find

CLUSTER = "{name: NAME, load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: ADDRESS}}]}]}}"
SOCKET = "{socket_address: {address: istiod.istio-system.svc, port_value: 15012}}"


def found(dynamic: str, *clusters: str) -> dict[str, str | None]:
    text = f"dynamic_resources: {dynamic}\nstatic_resources: {{clusters: [{', '.join(clusters)}]}}\n"
    root = yaml_nodes.read(text, "envoy.yaml", is_json=False, remedy=yaml_nodes.BOOTSTRAP)
    return find(root)


def cluster(name: str, address: str = SOCKET) -> str:
    return CLUSTER.replace("NAME", name).replace("ADDRESS", address)


ENVOY = "grpc_services: [{envoy_grpc: {cluster_name: plane}}]"


@pytest.mark.parametrize(
    "dynamic",
    [
        f"{{ads_config: {{api_type: GRPC, {ENVOY}}}}}",
        f"{{ads_config: {{api_type: DELTA_GRPC, {ENVOY}}}}}",
        f"{{lds_config: {{api_config_source: {{api_type: GRPC, {ENVOY}}}}}}}",
        "{cds_config: {api_config_source: {api_type: REST, cluster_names: [plane], refresh_delay: 5s}}}",
        "{adsConfig: {apiType: GRPC, grpcServices: [{envoyGrpc: {clusterName: plane}}]}}",
    ],
)
def test_every_form_of_source_names_its_cluster_and_that_the_address(dynamic: str) -> None:
    assert found(dynamic, cluster("other"), cluster("plane")) == {"plane": "istiod.istio-system.svc:15012"}


def test_an_address_may_be_a_path() -> None:
    dynamic = f"{{ads_config: {{{ENVOY}}}}}"
    assert found(dynamic, cluster("plane", "{pipe: {path: ./etc/istio/proxy/XDS}}")) == {
        "plane": "./etc/istio/proxy/XDS"
    }


@pytest.mark.parametrize(
    "defined", [(), (cluster("other"),), ("{name: plane}",), (cluster("plane", "{envoy_internal_address: {}}"),)]
)
def test_a_cluster_without_an_address_here_has_none(defined: tuple[str, ...]) -> None:
    assert found(f"{{ads_config: {{{ENVOY}}}}}", *defined) == {"plane": None}


@pytest.mark.parametrize("target", ["istiod:15010", "dns:///istiod:15010", "dns:istiod:15010"])
def test_a_google_grpc_target_is_an_address_itself(target: str) -> None:
    dynamic = f"{{ads_config: {{grpc_services: [{{google_grpc: {{target_uri: '{target}'}}}}]}}}}"
    assert found(dynamic) == {target: "istiod:15010"}


def test_a_document_without_sources_has_none() -> None:
    assert found("{}", cluster("plane")) == {}
