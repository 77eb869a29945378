from dataclasses import replace
from typing import Any, cast

import pytest

from agent.webhook.manifest import Deployed, configuration, objects

DEPLOYED = Deployed("hook", "mesh", "agent:1", "hook-tls", "Fail", 9443, 15020, ("--profile=tls", "--adopt"))
VERSIONS = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
OBJECTS: dict[str, Any] = {str(each["kind"]): each for each in objects(DEPLOYED)}


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Return whether labels match a selector, by Kubernetes' rules."""
    for each in selector["matchExpressions"]:
        key, operator, values = each["key"], each["operator"], each.get("values", ())
        found = {
            "In": key in labels and labels[key] in values,
            "NotIn": key not in labels or labels[key] not in values,
            "DoesNotExist": key not in labels,
        }
        if not found[operator]:
            return False
    return True


def called(namespace: dict[str, str], pod: dict[str, str]) -> int:
    """Return how many of the webhooks are called for a pod, by its labels and those of its namespace."""
    webhooks = OBJECTS["MutatingWebhookConfiguration"]["webhooks"]
    return sum(
        matches(each["namespaceSelector"], namespace) and matches(each["objectSelector"], pod) for each in webhooks
    )


ENABLED = {"istio-injection": "enabled"}


@pytest.mark.parametrize(
    ("namespace", "pod", "count"),
    [
        (ENABLED, {}, 1),
        (ENABLED, {"sidecar.istio.io/inject": "true"}, 1),
        (ENABLED, {"sidecar.istio.io/inject": "false"}, 0),
        ({}, {}, 0),
        ({}, {"sidecar.istio.io/inject": "true"}, 1),
        ({"istio-injection": "disabled"}, {"sidecar.istio.io/inject": "true"}, 0),
        ({**ENABLED, "kubernetes.io/metadata.name": "mesh"}, {}, 0),
        ({"kubernetes.io/metadata.name": "mesh"}, {"sidecar.istio.io/inject": "true"}, 0),
        ({**ENABLED, "kubernetes.io/metadata.name": "kube-system"}, {}, 0),
        ({"kubernetes.io/metadata.name": "kube-system"}, {"sidecar.istio.io/inject": "true"}, 0),
    ],
)
def test_a_pod_is_led_through_one_webhook_or_none(namespace: dict[str, str], pod: dict[str, str], count: int) -> None:
    assert called(namespace, pod) == count


def test_the_webhooks_say_how_they_are_to_be_called() -> None:
    for each in OBJECTS["MutatingWebhookConfiguration"]["webhooks"]:
        assert {
            name: each[name] for name in ("sideEffects", "failurePolicy", "reinvocationPolicy", "timeoutSeconds")
        } == {
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "timeoutSeconds": 5,
        }
        assert each["admissionReviewVersions"] == ["v1"]
        assert len(each["name"].split(".")) >= 3
        assert "caBundle" not in each["clientConfig"]


def test_the_failure_policy_is_that_of_the_deployment() -> None:
    webhooks = cast("list[dict[str, Any]]", configuration(replace(DEPLOYED, failure_policy="Ignore"))["webhooks"])
    assert {each["failurePolicy"] for each in webhooks} == {"Ignore"}


def test_the_account_may_get_and_patch_its_own_configuration_and_nothing_else() -> None:
    (rule,) = OBJECTS["ClusterRole"]["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == (["hook"], ["get", "patch"])
    assert OBJECTS["MutatingWebhookConfiguration"]["metadata"]["name"] == "hook"
    assert OBJECTS["ClusterRoleBinding"]["roleRef"]["name"] == OBJECTS["ClusterRole"]["metadata"]["name"]
    (subject,) = OBJECTS["ClusterRoleBinding"]["subjects"]
    account = OBJECTS["ServiceAccount"]["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])


def test_two_replicas_are_selected_by_everything_that_selects_them() -> None:
    spec = OBJECTS["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["replicas"] == 2
    assert spec["selector"]["matchLabels"] == OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    client = OBJECTS["MutatingWebhookConfiguration"]["webhooks"][0]["clientConfig"]["service"]
    service = OBJECTS["Service"]
    assert (client["name"], client["namespace"]) == (service["metadata"]["name"], service["metadata"]["namespace"])
    assert client["port"] == service["spec"]["ports"][0]["port"]


def test_the_options_of_the_injection_are_passed_on() -> None:
    (container,) = OBJECTS["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "webhook"
    assert container["args"][-2:] == ["--profile=tls", "--adopt"]
    assert "--register=hook" in container["args"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_objects_fit_the_schemas(version: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    for each in objects(DEPLOYED):
        kubernetes.validate(each, version, strict=True)
