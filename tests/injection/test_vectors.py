"""The fifteen vectors of an injection. Each also: again is the same, and a removal restores each byte."""

import json

import pytest
import yaml

from agent.injection.annotations import STATUS
from agent.injection.objects import InjectionRefused
from agent.injection.options import Certificates, InjectionOptions, Native
from tests.injection.vectors import (
    CRON_JOB,
    DEPLOYMENT,
    ISTIO,
    LIST,
    POD,
    SEVERAL,
    container,
    inject,
    notes,
    pod,
    uninject,
    variable,
)

SECRET = InjectionOptions(certificates=Certificates(secret="web-tls"))
CLASSIC = InjectionOptions(native=Native.OFF)


def checked(text: str, options: InjectionOptions | None = None) -> str:
    """Return the injected text, after what holds for every one of them."""
    injected = inject(text, options)
    assert injected != text
    assert inject(injected, options) == injected
    assert uninject(injected) == text
    return injected


def names(text: str, key: str) -> list[str]:
    return [each["name"] for each in pod(text)[key]]


def test_1_probes_are_rewritten_and_comments_stay() -> None:
    injected = checked(DEPLOYMENT)
    assert json.loads(variable(injected, "ISTIO_KUBE_APP_PROBERS")) == {
        "/app-health/web/livez": {"tcpSocket": {"port": 9090}},
        "/app-health/web/readyz": {"httpGet": {"path": "/ready", "port": 8080}},
    }
    web = container(injected, "web")
    assert web["startupProbe"] == {"exec": {"command": ["cat", "/ready"]}}
    assert web["readinessProbe"] == {"httpGet": {"path": "/app-health/web/readyz", "port": 15020}, "periodSeconds": 3}
    assert web["livenessProbe"] == {"httpGet": {"path": "/app-health/web/livez", "port": 15020}, "failureThreshold": 2}
    comments = [line.partition("#")[2] for line in DEPLOYMENT.splitlines() if "#" in line]
    lines = [line for line in injected.splitlines() if STATUS not in line]
    assert [line.partition("#")[2] for line in lines if "#" in line] == comments


def test_1_all_other_lines_stay() -> None:
    kept = [line for line in DEPLOYMENT.splitlines() if not any(word in line for word in ("path:", "port:", "Socket:"))]
    lines = iter(inject(DEPLOYMENT).splitlines())
    assert all(line in lines for line in kept), "in the same order"


def test_2_missing_metadata_are_made_above_the_specification() -> None:
    injected = checked(CRON_JOB)
    assert "      template:\n        metadata:\n          annotations:\n            kubectl" in injected
    assert (
        "\n        spec:\n          restartPolicy: Never\n          initContainers:\n          - name: istio-init\n"
        in injected
    )


def test_3_only_pod_templates_in_a_list_change() -> None:
    injected = checked(LIST)
    service, stateful_set, inner = yaml.safe_load(injected)["items"]
    before = yaml.safe_load(LIST)["items"]
    assert (service, inner) == (before[0], before[2])
    assert stateful_set["spec"]["template"]["spec"]["containers"] == [{"name": "db", "image": "db"}]
    assert "initContainers" in stateful_set["spec"]["template"]["spec"]


def test_4_separators_and_other_kinds_stay() -> None:
    injected = checked(SEVERAL)
    before, after = SEVERAL.split("apiVersion: v1\n")
    assert injected.startswith(before)
    assert injected.endswith(after[after.index("---") :])


@pytest.mark.parametrize("other", [CLASSIC, SECRET, InjectionOptions(image="proxy:2", status_port=15029)])
def test_5_other_options_replace_the_sidecar(other: InjectionOptions) -> None:
    for text in (DEPLOYMENT, CRON_JOB, LIST, SEVERAL):
        assert inject(inject(text, other)) == inject(text)
        assert inject(inject(text), other) == inject(text, other)


def test_6_the_sidecar_of_another_injector_is_refused() -> None:
    with pytest.raises(InjectionRefused, match="status cannot be used: another injector has written it"):
        inject(ISTIO)
    with pytest.raises(InjectionRefused, match="another injector"):
        uninject(ISTIO)


def test_6_unless_it_is_adopted() -> None:
    injected = inject(ISTIO, InjectionOptions(adopt=True))
    assert names(injected, "initContainers") == ["istio-init", "istio-proxy"]
    assert "istio/proxyv2" not in injected
    assert "workload-socket" not in injected
    assert json.loads(variable(injected, "ISTIO_KUBE_APP_PROBERS")) == {
        "/app-health/a/livez": {"tcpSocket": {"port": 80}}
    }
    assert json.loads(variable(injected, "ISTIO_PROMETHEUS_ANNOTATIONS")) == {"scrape": "true", "port": "8080"}
    assert container(uninject(injected), "a")["livenessProbe"] == {"tcpSocket": {"port": 80}}


def test_7_the_network_of_a_node_is_no_pods() -> None:
    text = POD.replace("spec:\n", "spec:\n  hostNetwork: true\n")
    assert inject(text) == text
    assert notes(text) == ["app.yaml, document 1: Pod p is not injected: it uses the network of its node (hostNetwork)"]


def test_8_the_order_of_containers() -> None:
    mine = "  initContainers:\n  # about mine\n  - name: mine\n    image: x\n"
    text = POD.replace("spec:\n", f"spec:\n{mine}  - name: side\n    image: x\n    restartPolicy: Always\n")
    assert names(checked(text), "initContainers") == ["istio-init", "istio-proxy", "mine", "side"]
    assert "  # about mine\n  - name: mine\n" in inject(text)
    classic = checked(text, CLASSIC)
    assert names(classic, "initContainers") == ["mine", "side", "istio-init"]
    assert names(classic, "containers") == ["a", "istio-proxy"]


def test_9_the_user_of_the_proxy_is_refused() -> None:
    text = POD + "    securityContext:\n      runAsUser: 1337\n"
    message = r"Pod p: spec\.containers\.0\.securityContext\.runAsUser is 1337, the proxy's own: the traffic of a would"
    with pytest.raises(InjectionRefused, match=message):
        inject(text)
    overridden = text.replace("1337", "1000").replace("spec:\n", "spec:\n  securityContext: {runAsUser: 1337}\n")
    checked(overridden)
    with pytest.raises(InjectionRefused, match=r"spec\.securityContext\.runAsUser is 1337"):
        inject(POD.replace("spec:\n", "spec:\n  securityContext: {runAsUser: 1337}\n"))


def test_10_the_group_and_the_token_are_kept() -> None:
    text = POD + "  automountServiceAccountToken: false\n  securityContext:\n    fsGroup: 2000\n"
    injected = checked(text, SECRET)
    assert pod(injected)["securityContext"] == {"fsGroup": 2000}
    assert pod(injected)["automountServiceAccountToken"] is False
    assert [note for note in notes(text, SECRET) if "--init-image" not in note] == [
        "app.yaml, document 1: Pod p: fsGroup is kept: the sidecar reads its certificates as a member of that group"
    ]


def test_11_line_endings_and_the_byte_order_mark_stay() -> None:
    text = "\ufeff" + DEPLOYMENT.replace("\n", "\r\n").removesuffix("\r\n")
    injected = checked(text)
    assert injected.startswith("\ufeff# of the shop\r\n")
    assert not injected.endswith("\n")
    assert injected.count("\n") == injected.count("\r\n")


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_12_json_stays_json(indent: int | str | None) -> None:
    tree = yaml.safe_load(DEPLOYMENT)
    tree["spec"]["template"]["metadata"]["annotations"] = None
    injected = checked(json.dumps(tree, indent=indent))
    assert STATUS in json.loads(injected)["spec"]["template"]["metadata"]["annotations"]


def test_12_flow_style_and_empty_values() -> None:
    flow = "{name: a, image: b, livenessProbe: { tcpSocket: {port: 80}, periodSeconds: 3 }}, {name: c, image: d}"
    text = (
        f"kind: Pod\nmetadata:\n  annotations:  # none\nspec:\n  volumes: [ ]\n  containers: [{flow}]\nx: |+\n  a\n\n\n"
    )
    injected = checked(text, CLASSIC)
    assert "\n  volumes: [{" in injected
    assert injected.endswith("\nx: |+\n  a\n\n\n")


def test_12_a_list_whose_last_item_is_a_block_scalar() -> None:
    text = POD + "    args:\n    - |+\n      a\n\n\n"
    assert container(checked(text, CLASSIC), "a")["args"] == ["a\n\n\n"]
    checked(POD + "    args:\n    - |\n      a\n# end\n", CLASSIC)


def test_13_prometheus_asks_the_agent() -> None:
    text = POD.replace("  name: p\n", "  name: p\n  annotations:\n    prometheus.io/port: '8080' # its own\n")
    injected = checked(text)
    assert json.loads(variable(injected, "ISTIO_PROMETHEUS_ANNOTATIONS")) == {"port": "8080"}
    assert 'prometheus.io/port: "15020" # its own\n' in injected
    assert yaml.safe_load(injected)["metadata"]["annotations"]["prometheus.io/path"] == "/stats/prometheus"


def test_13_what_must_not_be_scraped_is_not() -> None:
    text = POD.replace("  name: p\n", '  name: p\n  annotations: {prometheus.io/scrape: "false"}\n')
    annotations = yaml.safe_load(checked(text))["metadata"]["annotations"]
    assert {name: value for name, value in annotations.items() if "prometheus" in name} == {
        "prometheus.io/scrape": "false"
    }


def test_14_an_anchor_that_is_used_twice_is_refused() -> None:
    text = "# first\n" + POD.replace("spec:\n", "spec: &s\n") + "other: *s\n"
    with pytest.raises(InjectionRefused, match=r"Pod p .*: what is at line 6 is used more than once, by an anchor"):
        inject(text)
    merged = POD.replace("spec:\n", "x: &s\n").replace("x: &s", "x: &s") + "spec:\n  <<: *s\n"
    with pytest.raises(InjectionRefused, match=r"line 10 comes from a merge key"):
        inject(merged, CLASSIC)


def test_14_other_anchors_are_no_obstacle() -> None:
    text = POD.replace("image: b", "image: &i b") + "  - name: c\n    image: *i\n"
    assert container(checked(text), "c")["image"] == "b"
