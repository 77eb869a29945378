"""The containers and volumes that are added: valid for Kubernetes, and understood by the agent."""

import json
from typing import Any

import pytest

from agent.cli.run import agent as command
from agent.cli.settings import running
from agent.core import app_probes
from agent.injection.objects import PodTemplate
from agent.injection.options import Certificates, InjectionOptions, Mode, Native, Profile, Resources
from agent.injection.template import Additions, additions, workload
from agent.interception import options as interception
from agent.istio import go_flags
from agent.istio.proxy_command import translate
from tests.istio.machines import machine

PORTS = [{"name": "http", "containerPort": 8080}]


def pod(**metadata: object) -> PodTemplate:
    spec = {"containers": [{"name": "a", "ports": PORTS}, {"name": "b"}]}
    document: dict[str, Any] = {"kind": "Pod", "metadata": {"name": "p", **metadata}, "spec": spec}
    return PodTemplate(document, "shop")


def made(options: InjectionOptions, **metrics: str) -> Additions:
    probers: dict[str, Any] = {"/app-health/a/livez": {"tcpSocket": {"port": 80}}}
    return additions(pod(), options, probers, metrics)


def environment(sidecar: Any) -> dict[str, str]:  # noqa: ANN401  # JSON
    """Return the variables as a kubelet would set them."""
    fields = {"POD_NAME": "p", "POD_NAMESPACE": "shop", "INSTANCE_IP": "10.0.0.7", "INSTANCE_IPS": "10.0.0.7"}
    given = {**fields, "HOST_IP": "10.0.0.1", "SERVICE_ACCOUNT": "web", "ISTIO_CPU_LIMIT": "2"}
    return {each["name"]: each.get("value", given.get(each["name"])) for each in sidecar["env"]}


def test_the_sidecar_of_a_mesh_is_understood_by_the_agent() -> None:
    sidecar: Any = made(InjectionOptions(discovery_address="plane:15012", log_level="info"), scrape="true").sidecar
    variables = environment(sidecar)
    words = [word.replace("$(POD_NAMESPACE)", "shop") for word in sidecar["args"]]
    assert words[0] == "proxy"
    translation = translate(words[1:], variables, machine({}, ["10.0.0.7"]))
    assert translation.notes == []
    assert translation.document is not None
    assert translation.document["node"]["id"] == "sidecar~10.0.0.7~p.shop~shop.svc.cluster.local"
    assert "plane" in json.dumps(translation.document)
    assert translation.options[:2] == ["--proxy-bin", "envoy"]
    options = command.make_context("agent", list(translation.options)).params
    assert options["status_port"] == 15020
    assert app_probes.parse(options["app_probers"])
    assert {each["name"] for each in sidecar["ports"]} == {"http-envoy-prom", "http-status"}


def test_what_is_known_of_the_pod_is_metadata_of_the_node() -> None:
    variables = environment(made(InjectionOptions(cluster_id="one")).sidecar)
    assert variables["ISTIO_META_CLUSTER_ID"] == "one"
    assert variables["ISTIO_META_APP_CONTAINERS"] == "a,b"
    assert json.loads(variables["ISTIO_META_POD_PORTS"]) == PORTS
    assert variables["ISTIO_META_WORKLOAD_NAME"] == "p"
    assert "ISTIO_META_OWNER" not in variables


def test_an_override_of_the_bootstrap_is_mounted() -> None:
    sidecar: Any = made(InjectionOptions(bootstrap_override="more")).sidecar
    assert environment(sidecar)["ISTIO_BOOTSTRAP_OVERRIDE"] == "/etc/istio/custom-bootstrap/custom_bootstrap.json"
    assert {"name": "agent-bootstrap", "mountPath": "/etc/istio/custom-bootstrap", "readOnly": True} in sidecar[
        "volumeMounts"
    ]


def test_the_sidecar_of_tls_is_understood_by_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    options = InjectionOptions(
        profile=Profile.TLS, listen_port=443, forward="127.0.0.1:80", certificates=Certificates(driver="d")
    )
    sidecar: Any = made(options, scrape="true", port="9090").sidecar
    for name, value in environment(sidecar).items():
        monkeypatch.setenv(name, value)
    context = command.make_context("agent", list(sidecar["args"]))
    settings = running(context.params, ())
    assert (settings.listen, settings.forward) == ("tcp://0.0.0.0:443", "tcp://127.0.0.1:80")
    assert str(settings.run_directory) == "/run/proxy-agent/0"
    assert "--app-metrics=http://localhost:9090/metrics" in sidecar["args"]


def test_the_interception_is_understood_by_istio_iptables() -> None:
    texts = {"local-exclude-ports": "22", "outbound-ports": "81", "service-exclude-cidr": "10.0.0.0/8"}
    init: Any = made(InjectionOptions(interception=Mode.TPROXY, interception_texts=texts, init_image="init:1")).init
    assert (init["image"], init["args"][0]) == ("init:1", "istio-iptables")
    own = init["securityContext"]
    assert (own["runAsUser"], own["runAsNonRoot"]) == (0, False), "whatever the pod says"
    assert own["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
    names = {"p": "envoy-port", "z": "inbound-capture-port", "u": "proxy-uid", "m": "inbound-interception-mode"}
    names |= {"i": "service-cidr", "x": "service-exclude-cidr", "b": "inbound-ports", "d": "local-exclude-ports"}
    names |= {"q": "outbound-ports"}
    line = go_flags.parse(init["args"][1:], dict.fromkeys(names.values(), go_flags.Kind.TEXT), names)
    assert not line.unknown
    parsed = interception.parse({name: str(value) for name, value in line.values.items()}, {}, ())
    assert parsed == interception.Options(
        mode=interception.Mode.TPROXY, inbound_excluded=(15090, 15021, 15020, 22), outbound=(81,),
        networks_excluded=parsed.networks_excluded, dns_servers=(),
    )  # fmt: skip
    assert [str(each) for each in parsed.networks_excluded] == ["10.0.0.0/8"]


def test_no_interception_no_init_container() -> None:
    assert made(InjectionOptions(interception=Mode.NONE)).init is None
    assert made(InjectionOptions(profile=Profile.TLS)).init is None


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("native", [Native.ON, Native.OFF])
def test_the_sidecar_has_no_rights(profile: Profile, native: Native) -> None:
    sidecar: Any = made(InjectionOptions(profile=profile, native=native)).sidecar
    own = sidecar["securityContext"]
    assert (own["runAsUser"], own["runAsGroup"], own["runAsNonRoot"]) == (1337, 1337, True)
    assert (own["capabilities"], own["readOnlyRootFilesystem"]) == ({"drop": ["ALL"]}, True)
    assert sidecar.get("restartPolicy") == ("Always" if native is Native.ON else None)


def test_a_transparent_proxy_has_one_right() -> None:
    sidecar: Any = made(InjectionOptions(interception=Mode.TPROXY)).sidecar
    assert sidecar["securityContext"]["capabilities"]["add"] == ["NET_ADMIN"]
    assert (sidecar["securityContext"]["runAsUser"], sidecar["securityContext"]["runAsGroup"]) == (0, 1337)


def test_without_a_limit_there_is_none_to_read() -> None:
    sidecar = made(InjectionOptions(resources=Resources("", "", "", ""))).sidecar
    assert (sidecar["resources"], "ISTIO_CPU_LIMIT" in environment(sidecar)) == ({}, False)


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({}, "p"),
        ({"name": None, "generateName": "web-"}, "web"),
        ({"ownerReferences": [{"kind": "Job", "name": "nightly-1"}]}, "nightly-1"),
        (
            {"ownerReferences": [{"kind": "ReplicaSet", "name": "web-7c9d"}], "labels": {"pod-template-hash": "7c9d"}},
            "web",
        ),
    ],
)
def test_the_workload_of_a_pod(metadata: dict[str, Any], name: str) -> None:
    assert workload(pod(**metadata)) == name
