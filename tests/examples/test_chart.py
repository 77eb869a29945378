"""The Helm chart with unusual values: odd names, empty lists, several certificates, other versions of Kubernetes."""

import json
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from agent import __version__
from agent.webhook.manifest import Deployed, objects
from tests.examples.manifests import APPLICATION, CHART, MONITORED, Example, Json, of_chart, run

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # of a service: RFC 1035
DIGEST = "sha256:" + "0123456789abcdef" * 4


def schema() -> Json:
    """Return the schema of the values."""
    found: Json = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


def defaults() -> Json:
    """Return the default values."""
    found: Json = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return found


def named(example: Example) -> list[str]:
    """Return the names of all objects."""
    return [each["metadata"]["name"] for each in example.objects]


def test_the_schema_accepts_the_default_values_and_knows_each() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    jsonschema.validate(defaults(), schema())
    assert defaults().keys() | {"global"} == schema()["properties"].keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"bogus": 1},
        {"image": {"tag": 1.10}},  # YAML has made 1.1 of it
        {"image": {"digest": "latest"}},
        {"certificates": [{"name": "a"}]},
        {"certificates": [{"name": "../a", "secretName": "a"}]},
        {"certificates": [{"name": "a", "issuerRef": {"name": "ca"}, "duration": "90d"}]},
        {"ports": [{"name": "status", "containerPort": 1}]},
        {"ports": [{"name": "a-name-of-16-chars", "containerPort": 1}]},
        {"service": {"extra": {"selector": {}}}},
        {"agent": {"stopDeadlineSeconds": "30s"}},
        {"tolerations": {}},
        {"labels": {"a": {}}},
        {"webhook": {"failurePolicy": "fail"}},
        {"webhook": {"replicas": 1}},
    ],
    ids=str,
)
def test_the_schema_refuses(wrong: Json) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**defaults(), **wrong}, schema())


def test_the_versions_are_those_of_the_agent() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == chart["version"] == __version__


@pytest.mark.long
def test_helm_finds_nothing_wrong() -> None:
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", CHART)


@pytest.mark.long
@pytest.mark.parametrize("release", ["a", "gateway.prod", "1st", "on", "proxy-agent", "r" * 53, "1." + "r" * 51])
def test_names_are_valid_whatever_the_release_is_called(release: str) -> None:
    certificates = [
        {"name": "a.example.com", "issuerRef": {"name": "ca"}},
        {"name": "a-example-com", "issuerRef": {"name": "ca"}},
    ]
    example = of_chart(release, {**MONITORED, "certificates": certificates})
    assert all(0 < len(name) <= 63 for name in named(example))
    assert LABEL.fullmatch(example.only("Service")["metadata"]["name"])
    assert example.only("Deployment")["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    kinds = [(each["kind"], each["metadata"]["name"]) for each in example.objects]
    assert len(set(kinds)) == len(kinds)
    secrets = [each["spec"]["secretName"] for each in example.all("Certificate")]
    assert len(set(secrets)) == 2
    assert all(isinstance(each["spec"]["issuerRef"]["name"], str) for each in example.all("Certificate"))


@pytest.mark.long
@pytest.mark.parametrize("override", ["on", "1", "null", "a.b", "x" * 80])
def test_names_are_strings_whatever_the_override_is(override: str) -> None:
    example = of_chart(values={"fullnameOverride": override, "nameOverride": override})
    assert LABEL.fullmatch(example.only("Service")["metadata"]["name"])
    for each in example.objects:
        assert all(isinstance(value, str) and len(value) <= 63 for value in each["metadata"]["labels"].values())


@pytest.mark.long
def test_labels_are_strings_and_never_change_the_selector() -> None:
    values = {
        "labels": {"team": 42, "build": 20261130, "share": 1.5, "on": True, "app.kubernetes.io/name": "other"},
        "podLabels": {"build": 7, "app.kubernetes.io/instance": "other"},
        "podAnnotations": {"prometheus.io/scrape": True},
        "podMonitor": {"enabled": True, "labels": {"release": 1}},
    }
    example = of_chart(values=values)
    wanted = {"team": "42", "build": "20261130", "share": "1.5", "on": "true", "app.kubernetes.io/name": "proxy-agent"}
    assert all(wanted.items() <= each["metadata"]["labels"].items() for each in example.objects)
    template = example.only("Deployment")["spec"]["template"]["metadata"]
    assert {**wanted, "build": "7", "app.kubernetes.io/instance": "gateway"} == template["labels"]
    assert template["annotations"] == {"prometheus.io/scrape": "true"}
    assert example.only("PodMonitor")["metadata"]["labels"]["release"] == "1"
    assert example.only("PodMonitor")["spec"]["selector"]["matchLabels"].items() <= template["labels"].items()


@pytest.mark.long
def test_each_certificate_is_a_directory_with_its_secret() -> None:
    certificates = [
        {
            "name": "a.example.com",
            "issuerRef": {"name": "ca"},
            "dnsNames": ["*.a.example.com"],
            "privateKey": {"size": 2048},
        },
        {"name": "b", "secretName": "old"},
        {"name": "c", "secretName": "new", "issuerRef": {"name": "ca", "kind": "Issuer"}},
    ]
    example = of_chart(values={"certificates": certificates})
    paths = [mount["mountPath"] for mount in example.agent()["volumeMounts"] if mount["name"].startswith("certificate")]
    assert paths == ["/etc/certs/a.example.com", "/etc/certs/b", "/etc/certs/c"]
    secrets = [each["secret"]["secretName"] for each in example.pod()["volumes"] if "secret" in each]
    assert secrets == ["gateway-proxy-agent-a.example.com", "old", "new"]
    first, second = example.all("Certificate")
    assert (first["spec"]["secretName"], second["spec"]["secretName"]) == (secrets[0], "new")
    assert first["spec"]["dnsNames"] == ["*.a.example.com"]
    assert first["spec"]["privateKey"] == {"size": 2048}
    service = example.only("Service")["metadata"]
    assert second["spec"]["dnsNames"][0] == f"{service['name']}.{service['namespace']}.svc"


@pytest.mark.long
def test_empty_values_leave_nothing_behind() -> None:
    values: Json = {name: [] for name, value in defaults().items() if isinstance(value, list)}
    values |= {
        "podDisruptionBudget": None,
        "resources": None,
        "serviceAccount": {"create": False},
        "service": {"enabled": False},
    }
    values |= {"agent": {"kubernetesEvents": False}, "existingConfigMap": "mine"}
    example = of_chart(values=values)
    assert [each["kind"] for each in example.objects] == ["Deployment"]
    pod = example.pod()
    assert pod["serviceAccountName"] == "default"
    assert pod["automountServiceAccountToken"] is False
    assert "--" not in example.agent()["args"]
    assert [volume["name"] for volume in pod["volumes"]] == ["config", "run"]
    assert pod["volumes"][0]["configMap"]["name"] == "mine"


@pytest.mark.long
@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ({}, f"proxy-agent-envoy:{__version__}"),
        ({"repository": "localhost:5000/a/b", "tag": "2.10"}, "localhost:5000/a/b:2.10"),
        ({"tag": "2.10", "digest": DIGEST}, f"proxy-agent-envoy@{DIGEST}"),
    ],
)
def test_an_image_has_its_digest_or_its_tag(image: Json, wanted: str) -> None:
    assert of_chart(values={"image": image}).agent()["image"] == wanted


@pytest.mark.long
def test_lists_and_options_arrive_as_they_are_written() -> None:
    toleration = {"key": "edge", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3_000_000}
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    values: Json = {
        "tolerations": [toleration],
        "topologySpreadConstraints": [spread],
        "nodeSelector": {"arch": "amd64", "edge": True},
        "agent": {"args": ["--rotate-window=02:00-04:00", "--memory-limit", 20261130], "stopDeadlineSeconds": 600},
        "ports": [{"name": "https", "containerPort": 8443, "service": 443}, {"name": "admin", "containerPort": 9901}],
        "service": {"type": "LoadBalancer", "extra": {"externalTrafficPolicy": "Local"}},
    }
    example = of_chart(values=values)
    pod = example.pod()
    assert pod["tolerations"] == [toleration]
    assert pod["topologySpreadConstraints"] == [spread]
    assert pod["nodeSelector"] == {"arch": "amd64", "edge": "true"}
    assert pod["terminationGracePeriodSeconds"] == 615
    arguments = example.agent()["args"]
    assert arguments[arguments.index("--memory-limit") + 1] == "20261130"
    service: dict[str, Any] = example.only("Service")["spec"]
    assert service["externalTrafficPolicy"] == "Local"
    assert [port["name"] for port in service["ports"]] == ["https"]


@pytest.mark.long
@pytest.mark.parametrize("version", ["1.28.15", "v1.28.9-eks-036c24b"])
def test_an_application_needs_native_sidecars(version: str) -> None:
    values = {"containers": [APPLICATION]}
    with pytest.raises(AssertionError, match="native sidecars are on by default since"):
        of_chart(values=values, arguments=["--kube-version", version])
    assert of_chart(arguments=["--kube-version", version]).objects


@pytest.mark.long
@pytest.mark.parametrize("version", ["1.29.0", "v1.29.3-gke.100", "1.37.1"])
def test_an_application_follows_the_agent(version: str) -> None:
    example = of_chart(values={"containers": [APPLICATION]}, arguments=["--kube-version", version])
    (agent,) = example.pod()["initContainers"]
    assert (agent["name"], agent["restartPolicy"]) == ("agent", "Always")
    assert example.pod()["containers"] == [APPLICATION]


@pytest.mark.long
def test_a_cluster_that_is_too_old_is_refused() -> None:
    with pytest.raises(AssertionError, match="kubeVersion"):
        of_chart(arguments=["--kube-version", "1.24.17"])


@pytest.mark.long
@pytest.mark.parametrize("text", ["a: 1", "  indented: 1\n", "\ta: |\n  <&>{{ .Values }}\n\n", ""])
def test_the_bootstrap_is_passed_on_unchanged(text: str) -> None:
    assert of_chart(values={"config": text}).only("ConfigMap")["data"]["envoy.yaml"] == text


@pytest.mark.long
def test_the_webhook_is_that_of_the_manifest() -> None:
    values = {"webhook": {"enabled": True, "args": ["--profile=tls", "--cpu", 1], "failurePolicy": "Ignore"}}
    example = of_chart(values=values)
    name, namespace = "gateway-proxy-agent-webhook", "web"
    deployed = Deployed(
        name, namespace, f"proxy-agent-envoy:{__version__}", f"{name}-tls", "Ignore", 9443, 15020,
        ("--profile=tls", "--cpu", "1"),
    )  # fmt: skip
    for wanted in objects(deployed)[1:]:
        found = [each for each in example.all(str(wanted["kind"])) if each["metadata"]["name"] == name]
        assert found == [wanted]
    (certificate,) = (each for each in example.all("Certificate") if each["metadata"]["name"] == name)
    assert certificate["spec"]["dnsNames"] == [f"{name}.{namespace}.svc"]
    assert certificate["spec"]["secretName"] == f"{name}-tls"
    assert not of_chart().all("MutatingWebhookConfiguration")
