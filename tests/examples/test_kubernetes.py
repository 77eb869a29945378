"""The examples for Kubernetes match its schemas, and every command line of the agent in them is valid."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.cli.run import agent as command
from agent.cli.settings import running
from agent.cli.webhook import webhook
from agent.control_client import commands
from agent.inputs.settings import Settings
from tests.examples.manifests import (
    DIRECTORY,
    FROM_FILES,
    KUSTOMIZE,
    RENDERED,
    Example,
    Json,
    of_files,
    of_kustomization,
)

USER = 1337
VERSIONS = ("1.25", "1.29", "1.30", "1.33", "1.37")
NOT_BUILT_IN = {"Certificate", "PodMonitor", "PrometheusRule"}


def executed(tree: object) -> Iterator[list[str]]:
    """Return the commands that the kubelet executes: in probes and in both hooks."""
    if isinstance(tree, dict):
        if "exec" in tree:
            yield tree["exec"]["command"]
        for value in tree.values():
            yield from executed(value)


@pytest.fixture(
    params=[
        *(pytest.param(name) for name in FROM_FILES),
        *(pytest.param(name, marks=pytest.mark.long) for name in RENDERED),
    ]
)
def example(request: pytest.FixtureRequest) -> Example:
    """One of the examples; those that helm and kubectl render only in the long run."""
    return {**FROM_FILES, **RENDERED}[request.param]()


@pytest.fixture
def settings(example: Example, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the agent's settings in an example, from its command line and its environment."""
    container = example.agent()
    known = {option.envvar for option in command.params}
    for variable in container["env"]:
        assert variable["name"] in known, "the agent reads it"
        monkeypatch.setenv(variable["name"], variable["value"])
    words = list(container["args"])
    ours = words[: words.index("--")] if "--" in words else words
    context = command.make_context("agent", ours)
    assert not context.args
    return running(context.params, context.obj)


def test_there_are_examples() -> None:
    assert list(FROM_FILES) == ["classic-sidecar", "native-sidecar", "base"]


def test_they_fit_the_schemas(example: Example) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    native = any(each.get("restartPolicy") for each in example.pod().get("initContainers", []))
    for version in VERSIONS[1:] if native else VERSIONS:
        for each in example.objects:
            if each["kind"] not in NOT_BUILT_IN:
                kubernetes.validate(each, version, strict=True)


def test_a_misspelt_field_would_not_fit(example: Example) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    example.pod()["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes.ValidationError, match="livenessprobe"):
        kubernetes.validate(example.only("Deployment"), kubernetes.latest_version(), strict=True)


def test_a_native_sidecar_says_the_versions_that_it_needs() -> None:
    text = (DIRECTORY / "native-sidecar.yaml").read_text(encoding="utf-8")
    (app,) = (each for each in FROM_FILES["native-sidecar"]().containers() if each["name"] == "app")
    assert "sleep" in app["lifecycle"]["preStop"], "on by default since 1.30"
    assert "\n# Kubernetes 1.30 and later." in text


def test_what_the_kubelet_executes_is_understood(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [words for words in executed(example.agent()) if words[0] == "agent"]
    assert ours
    for _, name, *arguments in ours:
        assert commands.run(name, [*arguments, "--help"]) == 0, capsys.readouterr().err
        assert f"Usage: agent {name}" in capsys.readouterr().out


def test_a_pod_ends_in_peace(example: Example, settings: Settings) -> None:
    policy = settings.policy
    assert 0 < policy.drain_delay < policy.stop_timeout
    assert example.pod()["terminationGracePeriodSeconds"] > policy.stop_timeout + policy.end_timeout
    hooks = example.agent().get("lifecycle", {})
    assert ("preStop" in hooks) == (len(example.containers()) > 1), "beside an application, which ends at the same time"
    if hooks:
        assert hooks["preStop"]["exec"]["command"] == ["agent", "drain"]


def test_the_application_answers_until_the_agent_is_done(example: Example, settings: Settings) -> None:
    for app in (each for each in example.containers() if each["name"] == "app"):
        (hook,) = app["lifecycle"]["preStop"].values()
        span = hook["seconds"] if "seconds" in hook else int(hook["command"][1])
        assert settings.policy.stop_timeout + settings.policy.end_timeout <= span
        assert span < example.pod()["terminationGracePeriodSeconds"]


def test_the_account_may_do_what_the_events_want_and_nothing_else(example: Example, settings: Settings) -> None:
    assert settings.kubernetes_events
    role = example.only("Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}]
    binding = example.only("RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    account = example.only("ServiceAccount")["metadata"]["name"]
    assert subject["name"] == account == example.pod()["serviceAccountName"]


def test_probes_ask_where_the_agent_answers(example: Example, settings: Settings) -> None:
    container = example.agent()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["status"] == settings.status_port
    probes = {name: container[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")}
    assert {ports.get(probe["port"], probe["port"]) for probe in probes.values()} == {settings.status_port}
    assert probes["readinessProbe"]["path"] == "/healthz/ready"
    assert probes["livenessProbe"]["path"] == "/healthz/live"
    assert {port["targetPort"] for port in example.only("Service")["spec"]["ports"]} <= ports.keys()


def test_the_proxy_listens_at_the_port_of_the_service(example: Example, settings: Settings) -> None:
    (port,) = (port["containerPort"] for port in example.agent()["ports"] if port["name"] == "https")
    if settings.config is None:
        assert settings.listen.endswith(f":{port}")
        return
    sockets = re.findall(r"port_value: (\d+)", bootstrap(example))
    assert str(port) == sockets[0]


def bootstrap(example: Example) -> str:
    """Return the bootstrap in the ConfigMap that the pod mounts."""
    if example.name == "base":
        return (DIRECTORY / "kustomize/base/envoy.yaml").read_text(encoding="utf-8")
    (name,) = (each["configMap"]["name"] for each in example.pod()["volumes"] if "configMap" in each)
    (found,) = (each for each in example.all("ConfigMap") if each["metadata"]["name"] == name)
    text: str = found["data"]["envoy.yaml"]
    return text


def test_the_agent_finds_its_files_and_writes_to_memory_only(example: Example, settings: Settings) -> None:
    mounts = {Path(mount["mountPath"]): mount for mount in example.agent()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in example.pod()["volumes"]}
    assert not [mount for mount in mounts.values() if "subPath" in mount], "it would never change"
    read_only = {path for path, mount in mounts.items() if mount.get("readOnly")}
    files = {settings.config} if settings.config else set(settings.certificates)
    if settings.config:
        files |= {Path(each) for each in re.findall(r"filename: ([^}]+)", bootstrap(example))}
        assert len(files) == 3
    assert all(any(file.is_relative_to(path) for path in read_only) for file in files)
    writable = [path for path in mounts if path not in read_only]
    assert [settings.run_directory.is_relative_to(path) for path in writable] == [True]
    assert volumes[mounts[writable[0]]["name"]]["emptyDir"]["medium"] == "Memory"


def test_a_certificate_is_written_where_the_pod_reads_it(example: Example) -> None:
    secrets = {each["secret"]["secretName"] for each in example.pod()["volumes"] if "secret" in each}
    written = {each["spec"]["secretName"] for each in example.all("Certificate")}
    assert written <= secrets
    if "gateway" in example.name or example.name in {"base", "example"}:
        assert written == secrets
        assert len(written) == 1


def test_nothing_has_rights(example: Example) -> None:
    everybody = example.pod()["securityContext"]
    assert everybody["runAsNonRoot"]
    assert {everybody[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {USER}
    for container in example.containers():
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_no_service_sets_an_option(example: Example) -> None:
    assert example.pod()["enableServiceLinks"] is False


def test_selectors_select_the_pods(example: Example) -> None:
    labels = example.only("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors: list[Json] = [example.only("Service")["spec"]["selector"]]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        selectors += [each["spec"]["selector"]["matchLabels"] for each in example.all(kind)]
    assert all(selector and selector.items() <= labels for selector in selectors)


@pytest.mark.long
@pytest.mark.parametrize("name", RENDERED)
def test_prometheus_and_grafana_find_everything(name: str) -> None:
    example = RENDERED[name]()
    (endpoint,) = example.only("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "status", "path": "/metrics"}
    prometheus = DIRECTORY.parent / "prometheus"
    assert example.only("PrometheusRule")["spec"] == yaml.safe_load((prometheus / "rules.yaml").read_text())
    (panels,) = (each for each in example.all("ConfigMap") if "proxy-agent.json" in each["data"])
    assert panels["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(panels["data"]["proxy-agent.json"]) == json.loads((prometheus / "dashboard.json").read_text())


def test_the_kustomization_of_the_webhook_fits_the_schemas_and_its_options_are_valid() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    example = of_files("webhook", [KUSTOMIZE / "webhook/webhook.yaml"])
    for version in VERSIONS:
        for each in example.objects:
            kubernetes.validate(each, version, strict=True)
    (container,) = example.containers()
    assert webhook.make_context("webhook", container["args"][1:]).params["register"] == "proxy-agent-webhook"


@pytest.mark.long
def test_the_kustomization_of_the_webhook_builds() -> None:
    example = of_kustomization("webhook")
    (volume,) = example.pod()["volumes"]
    assert volume["secret"]["secretName"] == example.only("Certificate")["spec"]["secretName"]
    service = example.only("Service")["metadata"]
    assert example.only("Certificate")["spec"]["dnsNames"] == [f"{service['name']}.{service['namespace']}.svc"]
