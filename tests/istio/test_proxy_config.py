"""ProxyConfig from its three sources."""

import pytest

from agent.core.errors import UsageError
from agent.istio import proxy_config
from agent.istio.proxy_config import StatsMatcher


def test_later_sources_win_key_by_key() -> None:
    mesh = "defaultConfig: {discoveryAddress: a:1, drainDuration: 10s, statusPort: 1}\ntrustDomain: td\n"
    variable = '{"drainDuration": "20s", "serviceCluster": "web"}'
    annotations = {"proxy.istio.io/config": "serviceCluster: shop\n", "status.sidecar.istio.io/port": "15022"}
    config = proxy_config.read(mesh, variable, annotations)
    assert config.discovery_address == "a:1"
    assert config.drain_duration == 20.0
    assert config.service_cluster == "shop"
    assert config.status_port == 15022


def test_an_annotation_names_the_control_plane() -> None:
    annotations = {"sidecar.istio.io/discoveryAddress": "b:2", "proxy.istio.io/config": "discoveryAddress: c:3"}
    assert proxy_config.read(None, "discoveryAddress: a:1", annotations).discovery_address == "b:2"


def test_metadata_and_runtime_values_are_merged() -> None:
    variable = "proxyMetadata: {ISTIO_META_A: '1', ISTIO_META_B: 2}\nruntime_values: {x: 1}\n"
    annotations = {"proxy.istio.io/config": "proxy_metadata: {ISTIO_META_B: '3'}\nruntimeValues: {y: true}\n"}
    config = proxy_config.read(None, variable, annotations)
    assert config.metadata == {"ISTIO_META_A": "1", "ISTIO_META_B": "3"}
    assert config.runtime_values == {"x": "1", "y": "true"}


def test_every_taken_key_is_read() -> None:
    text = """
        binaryPath: /e
        terminationDrainDuration: 7s
        proxyAdminPort: 15001
        concurrency: 0
        controlPlaneAuthPolicy: MUTUAL_TLS
        statsdUdpAddress: s:9125
        tracing: {zipkin: {address: z:9411}}
        proxyStatsMatcher: {inclusionPrefixes: [p], inclusionSuffixes: [s], inclusionRegexps: [r]}
        extraStatTags: [dest]
        customConfigFile: /c
        proxyBootstrapTemplatePath: /t
        meshId: m
        interceptionMode: TPROXY
        gatewayTopology: {}
        holdApplicationUntilProxyStarts: true
    """
    config = proxy_config.read(None, text, {})
    assert (config.binary_path, config.termination_drain_duration, config.admin_port) == ("/e", 7.0, 15001)
    assert (config.concurrency, config.auth_policy, config.statsd_address) == (0, "MUTUAL_TLS", "s:9125")
    assert (config.zipkin_address, config.stats) == ("z:9411", StatsMatcher(("p",), ("s",), ("r",)))
    assert (config.extra_tags, config.custom_config_file, config.template_path) == (("dest",), "/c", "/t")
    assert (config.mesh_id, config.interception_mode) == ("m", "TPROXY")
    assert config.ignored == ("gatewayTopology", "holdApplicationUntilProxyStarts")


def test_nothing_given_is_nothing_known() -> None:
    config = proxy_config.read(None, None, {})
    assert (config.discovery_address, config.drain_duration, config.metadata, config.mapping) == (None, None, {}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drainDuration: soon", "cannot use drainDuration of ProxyConfig: 'soon' is not a duration"),
        ("statusPort: 70000", "cannot use statusPort of ProxyConfig: '70000' is not a port"),
        ("controlPlaneAuthPolicy: MTLS", "cannot use controlPlaneAuthPolicy of ProxyConfig: it is not one of"),
        ("proxyMetadata: [a]", "cannot use proxyMetadata of ProxyConfig: it is not a mapping"),
        (
            "tracing: {zipkin: {address: [1]}}",
            "cannot use address of zipkin of tracing of ProxyConfig: it is not a text",
        ),
        ("- a", "cannot read PROXY_CONFIG: it is not a mapping"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        proxy_config.read(None, text, {})


def test_a_bad_annotation_is_named() -> None:
    with pytest.raises(UsageError, match=r"cannot read the annotation proxy\.istio\.io/config, line 1"):
        proxy_config.read(None, None, {"proxy.istio.io/config": "a: ["})


def test_the_flag_of_the_policy_takes_its_two_words_only() -> None:
    assert [proxy_config.auth_policy(word) for word in ("NONE", "MUTUAL_TLS")] == ["NONE", "MUTUAL_TLS"]
    with pytest.raises(UsageError, match="'mutual': it is neither NONE nor MUTUAL_TLS"):
        proxy_config.auth_policy("mutual")
