"""`pilot-agent proxy` in the agent's own options."""

import json
from collections.abc import Mapping
from itertools import pairwise

import pytest

from agent.core.errors import UsageError
from agent.istio.proxy_command import Translation, as_json, translate
from tests.istio.machines import machine

POD = {"POD_NAME": "web-1", "POD_NAMESPACE": "shop", "INSTANCE_IP": "10.0.0.7"}
ENVOY = "/usr/local/bin/envoy"


def made(
    *words: str, environment: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
) -> Translation:
    there = {ENVOY: "", **(files or {})}
    return translate(words, {**POD, **(environment or {})}, machine(there, ["10.0.0.7"]))


def value(translation: Translation, option: str) -> str | None:
    return next((behind for name, behind in pairwise(translation.options) if name == option), None)


def values(translation: Translation, option: str) -> list[str]:
    return [behind for name, behind in pairwise(translation.options) if name == option]


def test_nothing_given_is_a_sidecar_with_a_bootstrap_of_its_own() -> None:
    translation = made()
    assert translation.options == [
        "--proxy-bin", ENVOY, "--stop-deadline", "25s", "--drain-direction", "inbound", "--status-port", "15020",
        "--http-actions",
    ]  # fmt: skip
    assert translation.arguments == ["-l", "warning"]
    assert translation.document is not None
    assert translation.document["node"]["id"] == "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local"
    assert translation.notes == []


def test_a_router_drains_all_its_listeners() -> None:
    assert "--drain-direction" not in made("router").options
    document = made("router").document
    assert document is not None
    assert document["node"]["id"].startswith("router~")


@pytest.mark.parametrize("words", [("ingress",), ("sidecar", "router")])
def test_another_role_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="the role is one of sidecar and router"):
        made(*words)


def test_a_program_that_is_not_there_is_looked_for_in_the_path() -> None:
    assert value(made("--binaryPath=/e", files={"/e": ""}), "--proxy-bin") == "/e"
    translation = made("--binaryPath=/missing")
    assert value(translation, "--proxy-bin") == "envoy"
    assert translation.notes == ["there is no /missing: the proxy is envoy from PATH"]


def test_certificates_are_those_that_the_environment_names() -> None:
    secure = "--controlPlaneAuthPolicy=MUTUAL_TLS"
    assert values(made(secure), "--certs") == ["/etc/certs"]
    environment = {"ISTIO_META_TLS_CLIENT_KEY": "/c/key.pem"}
    assert values(made(secure, environment=environment), "--certs") == ["/etc/certs", "/c"]


def test_without_tls_only_existing_files_are_waited_for() -> None:
    assert values(made(), "--certs") == []
    assert values(made(files={"/etc/certs/key.pem": ""}), "--certs") == ["/etc/certs"]


def test_a_custom_file_is_used_as_it_is_with_the_node_as_arguments() -> None:
    translation = made("--customConfigFile=/c.yaml", "--serviceCluster=web")
    assert value(translation, "--config") == "/c.yaml"
    assert translation.document is None
    assert translation.arguments == [
        "--service-node", "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local", "--service-cluster", "web",
        "-l", "warning",
    ]  # fmt: skip


def test_a_template_is_filled_in() -> None:
    translation = made("--templateFile=/t", files={"/t": "node: {id: '${node_id}'}"})
    assert translation.document == {"node": {"id": "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local"}}
    with pytest.raises(UsageError, match="cannot read the bootstrap template /missing: there is no such file"):
        made("--templateFile=/missing")


def test_the_variable_wins_over_a_custom_file_and_that_over_a_template() -> None:
    files = {"/b": "node: {id: b}", "/t": "node: {id: t}"}
    words = ("--templateFile=/t", "--customConfigFile=/c.yaml")
    assert made(*words, environment={"ISTIO_BOOTSTRAP": "/b"}, files=files).document == {"node": {"id": "b"}}
    assert value(made(*words, files=files), "--config") == "/c.yaml"


def test_an_override_is_a_file_to_merge() -> None:
    assert value(made(environment={"ISTIO_BOOTSTRAP_OVERRIDE": "/o.json"}), "--config-override") == "/o.json"


def test_times() -> None:
    translation = made("--drainDuration=1m0s", "--parentShutdownDuration", "90s")
    assert (value(translation, "--drain-time"), value(translation, "--drain-deadline")) == ("60s", "90s")
    assert "--drain-deadline" not in made("--drainDuration=10s").options
    environment = {"PROXY_CONFIG": "{drainDuration: 7s, controlPlaneAuthPolicy: NONE}"}
    assert value(made(environment=environment), "--drain-time") == "7s"


@pytest.mark.parametrize(
    "words",
    [("--parentShutdownDuration=45s",), ("--drainDuration=2m", "--parentShutdownDuration=2m"), ("--drainDuration=0s",)],
)
def test_times_that_contradict_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"cannot use --(drain|parentShutdown)Duration: it is not"):
        made(*words)


@pytest.mark.parametrize(
    ("environment", "deadline"),
    [
        ({}, "25s"),
        ({"TERMINATION_DRAIN_DURATION_SECONDS": "20"}, "20s"),
        ({"TERMINATION_DRAIN_DURATION_SECONDS": "0"}, "0.001s"),
        ({"PROXY_CONFIG": "{terminationDrainDuration: 7s, controlPlaneAuthPolicy: NONE}"}, "7s"),
    ],
)
def test_the_deadline_of_a_stop(environment: Mapping[str, str], deadline: str) -> None:
    assert value(made(environment=environment), "--stop-deadline") == deadline


def test_a_deadline_that_is_no_number_is_noted() -> None:
    translation = made(environment={"TERMINATION_DRAIN_DURATION_SECONDS": "NaN"})
    assert value(translation, "--stop-deadline") == "25s"
    assert translation.notes == ["TERMINATION_DRAIN_DURATION_SECONDS is ignored: it is not a number of seconds"]


def test_a_minimum_of_the_drain_needs_its_switch() -> None:
    assert "--min-drain" not in made(environment={"MINIMUM_DRAIN_DURATION": "9s"}).options
    switch = {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true"}
    assert value(made(environment=switch), "--min-drain") == "5s"
    assert value(made(environment={**switch, "MINIMUM_DRAIN_DURATION": "9s"}), "--min-drain") == "9s"


def test_application_probes_are_passed_on() -> None:
    probers = '{"/app-health/web/livez": {"httpGet": {"port": 80}}}'
    translation = made(environment={"ISTIO_KUBE_APP_PROBERS": probers})
    assert (value(translation, "--app-probers"), value(translation, "--app-address")) == (probers, "10.0.0.7")
    legacy = {"ISTIO_KUBE_APP_PROBERS": probers, "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION": "true"}
    assert "--app-address" not in made(environment=legacy).options


@pytest.mark.parametrize(
    ("annotations", "url"),
    [
        ('{"scrape": "true", "port": "8080", "path": "/m"}', "http://localhost:8080/m"),
        ('{"scrape": "true"}', "http://localhost:80/metrics"),
        ('{"scrape": "false", "port": "8080"}', None),
        ("{}", None),
    ],
)
def test_metrics_of_the_application(annotations: str, url: str | None) -> None:
    assert value(made(environment={"ISTIO_PROMETHEUS_ANNOTATIONS": annotations}), "--app-metrics") == url


def test_the_agents_own_port_is_not_scraped() -> None:
    annotations = '{"scrape": "true", "port": "15020", "path": "/stats/prometheus"}'
    translation = made(environment={"ISTIO_PROMETHEUS_ANNOTATIONS": annotations})
    assert "--app-metrics" not in translation.options
    [note] = translation.notes
    assert "port 15020 is the proxy's own, as after a second injection" in note


def test_further_targets_are_noted() -> None:
    annotations = '{"scrape": "true", "port": "8080", "targets": [{"port": "9090"}]}'
    translation = made(environment={"ISTIO_PROMETHEUS_ANNOTATIONS": annotations})
    assert value(translation, "--app-metrics") == "http://localhost:8080/metrics"
    assert [note.split(":")[0] for note in translation.notes] == [
        "the targets of ISTIO_PROMETHEUS_ANNOTATIONS are left out"
    ]


def test_logs() -> None:
    translation = made("--log_output_level=default:debug", "--log_as_json")
    assert (value(translation, "--log-level"), value(translation, "--log-format")) == ("debug", "json")
    translation = made("--proxyLogLevel=info,http:debug", "--proxyComponentLogLevel=misc:error")
    assert translation.arguments == ["-l", "info", "--component-log-level", "http:debug,misc:error"]


@pytest.mark.parametrize(
    ("words", "environment", "workers"),
    [
        (("--concurrency=3",), {"ISTIO_CPU_LIMIT": "2"}, ["--concurrency", "3"]),
        (("--concurrency=0",), {"ISTIO_CPU_LIMIT": "1500m"}, ["--concurrency", "2"]),
        ((), {"PROXY_CONFIG": "{concurrency: 5, controlPlaneAuthPolicy: NONE}"}, ["--concurrency", "5"]),
        ((), {}, []),
    ],
)
def test_workers(words: tuple[str, ...], environment: Mapping[str, str], workers: list[str]) -> None:
    assert made(*words, environment=environment).arguments == ["-l", "warning", *workers]


def test_one_line_says_which_certificates_are_not_served() -> None:
    environment = {"PILOT_CERT_PROVIDER": "istiod", "CA_ADDR": "istiod:15012", "PROXY_CONFIG": "{tracing: {}, sds: {}}"}
    notes = made(environment=environment).notes
    assert len(notes) == 2
    assert notes[0].startswith("certificates are read from files only: PILOT_CERT_PROVIDER, CA_ADDR asks for ones ")
    assert notes[1] == "no effect here: sds of ProxyConfig"


def test_the_document_is_json_text() -> None:
    document = made().document
    assert document is not None
    assert json.loads(as_json(document)) == document


def test_an_annotation_without_effect_is_noted() -> None:
    files = {"/etc/istio/pod/annotations": 'sidecar.istio.io/statsFlushInterval="10s"\n'}
    assert made(files=files).notes == [
        (
            "no effect here: the annotations sidecar.istio.io/statsFlushInterval;"
            " set the values in ISTIO_BOOTSTRAP_OVERRIDE"
        )
    ]
