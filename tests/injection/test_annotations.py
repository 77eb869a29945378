"""Annotations change what a pod gets; one that cannot be used is refused, by its name."""

from typing import Any

import pytest

from agent.injection.annotations import asked, chosen
from agent.injection.objects import InjectionRefused, PodTemplate
from agent.injection.options import InjectionOptions, Mode, Native, Resources


def pod(annotations: dict[str, Any] | None = None, labels: dict[str, Any] | None = None) -> PodTemplate:
    """Return a pod with annotations and labels."""
    metadata: dict[str, Any] = {"name": "web", "annotations": annotations, "labels": labels}
    return PodTemplate({"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "a"}]}})


def read(annotations: dict[str, Any]) -> InjectionOptions:
    return chosen(pod(annotations), InjectionOptions())[0]


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("sidecar.istio.io/proxyImage", "proxy:2", {"image": "proxy:2"}),
        ("sidecar.istio.io/logLevel", "debug", {"log_level": "debug"}),
        ("sidecar.istio.io/logLevel", "warning,http:debug", {"log_level": "warning,http:debug"}),
        ("sidecar.istio.io/interceptionMode", "TPROXY", {"interception": Mode.TPROXY}),
        ("sidecar.istio.io/bootstrapOverride", "more", {"bootstrap_override": "more"}),
        ("sidecar.istio.io/nativeSidecar", "false", {"native": Native.OFF}),
        ("sidecar.istio.io/nativeSidecar", True, {"native": Native.ON}),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "false", {"rewrite_probes": False}),
        ("sidecar.istio.io/discoveryAddress", "istiod:15012", {}),
        ("sidecar.istio.io/proxyCPU", "1", {"resources": Resources("1", "", "", "")}),
        ("status.sidecar.istio.io/port", 15029, {"status_port": 15029}),
        ("proxy.istio.io/config", "statusPort: 15028", {"status_port": 15028}),
        ("proxy.istio.io/config", "{holdApplicationUntilProxyStarts: true}", {"hold_application": True}),
        ("proxy.istio.io/config", "interceptionMode: NONE", {"interception": Mode.NONE}),
        (
            "traffic.sidecar.istio.io/excludeInboundPorts",
            "22,23",
            {"interception_texts": {"local-exclude-ports": "22,23"}},
        ),
        ("traffic.sidecar.istio.io/excludeInterfaces", "net1", {"interception_texts": {"exclude-interfaces": "net1"}}),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "", {"interception_texts": {"service-cidr": ""}}),
    ],
)
def test_each_annotation_changes_an_option(name: str, text: object, changed: dict[str, Any]) -> None:
    assert read({name: text}) == InjectionOptions(**changed)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("sidecar.istio.io/proxyImage", "a b", "it is not the name of an image"),
        ("sidecar.istio.io/logLevel", "loud", "it is not one of trace, debug"),
        ("sidecar.istio.io/interceptionMode", "redirect", "it is not one of REDIRECT, TPROXY, NONE"),
        ("sidecar.istio.io/bootstrapOverride", "../x", "it is not the name of a ConfigMap"),
        ("sidecar.istio.io/nativeSidecar", "maybe", "not a boolean"),
        ("sidecar.istio.io/discoveryAddress", "istiod", "it is not of the form host:port"),
        ("sidecar.istio.io/proxyMemory", "much", "it is not a quantity"),
        ("sidecar.istio.io/logLevel", ["debug"], "it is not a text"),
        ("status.sidecar.istio.io/port", "0", "it is not a port"),
        ("proxy.istio.io/config", "drainDuration: soon", "cannot use drainDuration of ProxyConfig"),
        ("proxy.istio.io/config", "{", "it is neither JSON nor YAML"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "80:90", "80:90: it is not a port between 1 and 65535"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10/8/", "it is not a network"),
        ("traffic.sidecar.istio.io/kubevirtInterfaces", "a/b", "it is not the name of an interface"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(name: str, text: object, why: str) -> None:
    with pytest.raises(InjectionRefused) as refused:
        read({name: text})
    assert str(refused.value).startswith(f"cannot change Pod web: metadata.annotations.{name} cannot be used: ")
    assert why in str(refused.value)


def test_what_is_unclear_or_has_no_effect_is_noted() -> None:
    annotations = {
        "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.1.2.3/8",
        "sidecar.istio.io/userVolume": "{}",
        "sidecar.istio.io/statsInclusionPrefixes": "a",
        "other": "b",
    }
    masked, unknown = chosen(pod(annotations), InjectionOptions())[1]
    assert masked.startswith(
        "traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.1.2.3/8 is 10.0.0.0/8: the other bits"
    )
    assert unknown == "no effect here: the annotation sidecar.istio.io/userVolume"


@pytest.mark.parametrize(
    ("labels", "annotations", "wanted"),
    [
        (None, None, True), ("false", None, False), (False, None, False), ("true", "false", True),
        (None, "false", False), (None, False, False), ("false", "true", False), (None, "true", True),
    ],
)  # fmt: skip
def test_a_label_wins_over_an_annotation(labels: object, annotations: object, wanted: bool) -> None:
    name = "sidecar.istio.io/inject"
    assert asked(pod({name: annotations}, {name: labels})) == (wanted, [])


def test_another_word_is_ignored_and_noted() -> None:
    assert asked(pod(labels={"sidecar.istio.io/inject": "yes"})) == (
        True, ["the label sidecar.istio.io/inject is neither true nor false, and is ignored"],
    )  # fmt: skip
