"""Where the sidecar stands in a pod, by its options."""

from typing import Any

import pytest

from agent.injection.addition import Addition
from agent.injection.draft import Draft
from agent.injection.objects import PodTemplate
from agent.injection.options import Certificates, InjectionOptions, Mode, Native, Profile


def added(options: InjectionOptions, annotations: dict[str, str] | None = None, **spec: object) -> dict[str, Any]:
    """Return a pod with the sidecar."""
    document: dict[str, Any] = {
        "kind": "Pod",
        "metadata": {"name": "p", "annotations": annotations},
        "spec": {"containers": [{"name": "a"}], **spec},
    }
    draft = Draft(document)
    addition = Addition(draft, PodTemplate(draft.document), options)
    addition.check()
    addition.add()
    return draft.document


def names(document: dict[str, Any], key: str) -> list[str]:
    return [each["name"] for each in document["spec"].get(key, [])]


@pytest.mark.parametrize(
    ("options", "inits", "containers"),
    [
        (InjectionOptions(), ["istio-init", "istio-proxy", "i"], ["a"]),
        (InjectionOptions(native=Native.OFF), ["i", "istio-init"], ["a", "istio-proxy"]),
        (InjectionOptions(native=Native.OFF, hold_application=True), ["i", "istio-init"], ["istio-proxy", "a"]),
        (InjectionOptions(interception=Mode.NONE), ["istio-proxy", "i"], ["a"]),
        (InjectionOptions(native=Native.OFF, interception=Mode.NONE), ["i"], ["a", "istio-proxy"]),
        (InjectionOptions(profile=Profile.TLS), ["agent", "i"], ["a"]),
        (InjectionOptions(profile=Profile.TLS, native=Native.OFF), ["i"], ["agent", "a"]),
    ],
)
def test_the_order_of_containers(options: InjectionOptions, inits: list[str], containers: list[str]) -> None:
    document = added(options, initContainers=[{"name": "i"}])
    assert (names(document, "initContainers"), names(document, "containers")) == (inits, containers)
    assert document["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "a"


def test_a_sidecar_that_holds_is_before_all_others() -> None:
    options = InjectionOptions(profile=Profile.TLS, native=Native.OFF)
    assert names(added(options, containers=[{"name": "a"}, {"name": "b"}]), "containers") == ["agent", "a", "b"]


def test_a_secret_is_readable_by_its_group() -> None:
    options = InjectionOptions(certificates=Certificates(secret="{workload}-tls"))
    document = added(options)
    assert document["spec"]["securityContext"] == {"fsGroup": 1337}
    (secret,) = (each["secret"] for each in document["spec"]["volumes"] if "secret" in each)
    assert secret == {"secretName": "p-tls", "defaultMode": 0o440}
    assert added(options, securityContext={"fsGroup": 5})["spec"]["securityContext"] == {"fsGroup": 5}


def test_other_sources_need_no_group() -> None:
    for source in (None, Certificates(driver="d")):
        assert "securityContext" not in added(InjectionOptions(certificates=source))["spec"]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"port": "8080", "scrape": "true"}, '{"port":"8080","scrape":"true"}'), ({"path": "/m"}, '{"path":"/m"}'),
        ({"port": "15020", "scrape": "true"}, None), ({"port": "8080", "scrape": "false"}, None), ({}, None),
    ],
)  # fmt: skip
def test_the_agent_asks_the_application_for_metrics_and_never_itself(given: dict[str, str], asked: str | None) -> None:
    document = added(InjectionOptions(), {f"prometheus.io/{name}": value for name, value in given.items()})
    (sidecar,) = (each for each in document["spec"]["initContainers"] if each["name"] == "istio-proxy")
    variables = {each["name"]: each.get("value") for each in sidecar["env"]}
    assert variables.get("ISTIO_PROMETHEUS_ANNOTATIONS") == asked


def test_metrics_are_not_merged_on_request() -> None:
    annotations = added(InjectionOptions(merge_metrics=False))["metadata"]["annotations"]
    assert not [name for name in annotations if name.startswith("prometheus")]


def test_a_profile_without_interception_leaves_probes_alone() -> None:
    probe = {"tcpSocket": {"port": 80}}
    document = added(InjectionOptions(profile=Profile.TLS), containers=[{"name": "a", "livenessProbe": probe}])
    assert document["spec"]["containers"] == [{"name": "a", "livenessProbe": probe}]
