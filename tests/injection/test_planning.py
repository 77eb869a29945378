"""Which objects are injected, which are skipped with a note, and which are refused."""

from typing import Any

import pytest

from agent.injection import planning
from agent.injection.draft import applied
from agent.injection.objects import InjectionRefused
from agent.injection.options import IMAGES, InjectionOptions, Mode, Native, Profile
from agent.injection.planning import Injection

OPTIONS = InjectionOptions(init_image="init:1")


def pod(spec: dict[str, Any] | None = None, **metadata: object) -> dict[str, Any]:
    containers = [{"name": "a", "image": "b"}]
    return {"kind": "Pod", "metadata": {"name": "p", **metadata}, "spec": {"containers": containers, **(spec or {})}}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (pod({"hostNetwork": True}), "it uses the network of its node (hostNetwork)"),
        (pod({"hostUsers": False}), "it has users of its own (hostUsers: false), and the sidecar's user must be known"),
        (pod({"os": {"name": "windows"}}), "its operating system is Windows"),
        (pod(labels={"sidecar.istio.io/inject": "false"}), "sidecar.istio.io/inject is false"),
    ],
)
def test_some_pods_are_skipped(document: dict[str, Any], reason: str) -> None:
    assert planning.inject(document, OPTIONS) == Injection(notes=(f"Pod p is not injected: {reason}",))


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"])
def test_the_clusters_own_namespaces_are_skipped(namespace: str) -> None:
    assert not planning.inject(pod(namespace=namespace), OPTIONS).edits
    assert not planning.inject(pod(), OPTIONS, namespace=namespace).edits
    assert planning.inject(pod(namespace="shop"), OPTIONS, namespace=namespace).edits, "its own one counts"


def test_an_object_without_a_template_is_none() -> None:
    note = Injection(notes=("Service has no pod template",))
    assert planning.inject({"kind": "Service"}, OPTIONS) == planning.uninject({"kind": "Service"}) == note
    assert planning.uninject(pod()) == Injection(notes=("Pod p is not injected",))


@pytest.mark.parametrize("native", [Native.ON, Native.OFF])
def test_mounts_that_the_api_server_adds_between_two_calls_stay(native: Native) -> None:
    options = InjectionOptions(init_image="init:1", native=native)
    once: Any = applied(pod(), planning.inject(pod(), options).edits)
    token = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    once["spec"]["volumes"].append({"name": token["name"], "projected": {}})
    for container in (*once["spec"]["initContainers"], *once["spec"]["containers"]):
        container.setdefault("volumeMounts", []).append(token)
    twice: Any = applied(once, planning.inject(once, options).edits)
    for key in ("initContainers", "containers"):
        assert [each["volumeMounts"] for each in twice["spec"][key]] == [
            each["volumeMounts"] for each in once["spec"][key]
        ]
    once["spec"]["volumes"].pop()
    without: Any = applied(once, planning.inject(once, options).edits)
    assert token not in without["spec"]["initContainers"][0].get("volumeMounts", [])


def test_a_plan_of_an_injected_object_replaces_the_sidecar() -> None:
    once = applied(pod(), planning.inject(pod(), OPTIONS).edits)
    assert applied(once, planning.inject(once, OPTIONS).edits) == once
    other = InjectionOptions(init_image="init:2", native=Native.OFF)
    assert applied(once, planning.inject(once, other).edits) == applied(pod(), planning.inject(pod(), other).edits)
    assert applied(once, planning.cleaned(once, adopt=False).edits) == pod()


@pytest.mark.parametrize("name", ["istio-init", "istio-proxy", "agent"])
@pytest.mark.parametrize("key", ["initContainers", "containers"])
def test_a_container_with_a_name_of_ours_is_refused(name: str, key: str) -> None:
    document = pod({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]})
    document["spec"][key].insert(0, {"name": name, "image": "x"})
    with pytest.raises(InjectionRefused, match=rf"Pod p: spec\.{key}\.0 is {name}, the name of the agent's own"):
        planning.inject(document, OPTIONS)
    plan = planning.inject(document, InjectionOptions(init_image="i", adopt=True))
    assert plan.notes == (f"Pod p: the container {name} is replaced",)
    images = [each["image"] for each in applied(document, plan.edits)["spec"][key] if each["name"] == name]  # type: ignore[call-overload, index, union-attr]
    assert "x" not in images


def test_a_volume_with_a_name_of_ours_is_refused() -> None:
    document = pod({"volumes": [{"name": "agent-run"}]})
    with pytest.raises(InjectionRefused, match=r"spec\.volumes\.0 is agent-run"):
        planning.inject(document, InjectionOptions(adopt=True))


@pytest.mark.parametrize("field", ["runAsUser", "runAsGroup"])
def test_the_proxys_own_user_is_refused(field: str) -> None:
    document = pod({"initContainers": [{"name": "once", "securityContext": {field: 1337}}]})
    assert planning.inject(document, OPTIONS).edits, "it has ended when the application runs"
    document["spec"]["initContainers"][0]["restartPolicy"] = "Always"
    with pytest.raises(InjectionRefused, match=rf"spec\.initContainers\.0\.securityContext\.{field} is 1337"):
        planning.inject(document, OPTIONS)
    assert planning.inject(document, InjectionOptions(interception=Mode.NONE)).edits


def test_an_empty_list_of_containers_is_refused() -> None:
    with pytest.raises(InjectionRefused, match=r"spec\.containers has no items"):
        planning.inject(pod({"containers": []}), OPTIONS)


def test_warnings() -> None:
    assert planning.inject(pod(), InjectionOptions(profile=Profile.TLS)).notes == (
        "Pod p: no certificates are mounted at /etc/certs; name their source by --cert-source",
    )
    annotations = {"sidecar.istio.io/proxyMemoryLimit": "256Mi"}
    assert planning.inject(pod(annotations=annotations), InjectionOptions()).notes == (
        "Pod p: the memory limit 256Mi is less than 384Mi, and two epochs run during a restart",
        f"Pod p: istio-init needs iptables or nft, and {IMAGES['mesh']} has neither; name an image by --init-image",
    )
