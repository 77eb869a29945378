"""Generates objects of Kubernetes with pod templates, valid for its schemas, and options of an injection."""

import random
from typing import Any

from hypothesis import strategies as st

from agent.injection.options import Certificates, InjectionOptions, Mode, Native, Profile, Resources
from tests.injection.layouts import Layout

Json = dict[str, Any]

_NAMES = st.sampled_from(["web", "db-1", "a", "worker", "cache"])
_PORTS = st.integers(1, 65535).filter(lambda port: port != 15020)
_SECONDS = st.fixed_dictionaries(
    {}, optional={"timeoutSeconds": st.integers(1, 60), "periodSeconds": st.integers(1, 99)}
)


def _maybe(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=optional)


@st.composite
def actions(draw: st.DrawFn, *, named: bool, kinds: tuple[str, ...]) -> Json:
    """Return what a probe or a hook does."""
    kind = draw(st.sampled_from(kinds))
    port: Any = draw(st.just("http") if named and kind != "grpc" else _PORTS)
    if kind == "httpGet":
        more = _maybe(
            path=st.sampled_from(["/", "/ready?x=1", "/a b"]),
            scheme=st.sampled_from(["HTTP", "HTTPS"]),
            host=st.sampled_from(["localhost", "127.0.0.1"]),
            httpHeaders=st.just([{"name": "Host", "value": "a"}]),
        )
        return {kind: _shuffled(draw, {"port": port, **draw(more)})}
    if kind == "tcpSocket":
        return {kind: _shuffled(draw, {"port": port, **draw(_maybe(host=st.just("localhost")))})}
    if kind == "grpc":
        return {kind: {"port": port, **draw(_maybe(service=st.just("a.b")))}}
    return {"exec": {"command": ["true"]}}


def _shuffled(draw: st.DrawFn, value: Json) -> Json:
    return dict(draw(st.permutations(list(value.items()))))


@st.composite
def containers(draw: st.DrawFn, name: str, *, restarts: bool | None = None) -> Json:
    """Return a container; `restarts`: whether an init container restarts always."""
    named = draw(st.booleans())
    made: Json = {"name": name, "image": draw(st.sampled_from(["a:1", "registry/x@sha256:00", "busybox"]))}
    if named:
        made["ports"] = [{"name": "http", "containerPort": draw(_PORTS)}]
    made |= draw(_maybe(
        args=st.lists(st.sampled_from(["--x", "a b", "", "yes", "0x1", "# no", "it's"]), min_size=1, max_size=3),
        env=st.just([{"name": "A", "value": "{}"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]),
        securityContext=st.sampled_from([{"runAsUser": 1000}, {"runAsNonRoot": True}]),
        resources=st.sampled_from([{}, {"limits": {"cpu": "1"}}]),
    ))  # fmt: skip
    if restarts:
        made["restartPolicy"] = "Always"
    if restarts is not False:
        probing = actions(named=named, kinds=("httpGet", "tcpSocket", "grpc", "exec"))
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            if draw(st.booleans()):
                made[probe] = _shuffled(draw, {**draw(probing), **draw(_SECONDS)})
        hooks = actions(named=named, kinds=("httpGet", "tcpSocket", "exec"))
        lifecycle = draw(_maybe(preStop=hooks, postStart=hooks))
        if lifecycle:
            made["lifecycle"] = lifecycle
    return _shuffled(draw, made)


@st.composite
def templates(draw: st.DrawFn, policy: str) -> Json:
    """Return a pod template."""
    names = draw(st.lists(_NAMES, min_size=1, max_size=3, unique=True))
    spec: Json = {"containers": [draw(containers(name)) for name in names], "restartPolicy": policy}
    inits = draw(st.lists(st.booleans(), max_size=2))
    has_inits = draw(st.booleans())
    if inits or has_inits:
        spec["initContainers"] = [
            draw(containers(f"init-{number}", restarts=each)) for number, each in enumerate(inits)
        ] or draw(st.sampled_from([[], None]))
    volume = {"name": "data", "emptyDir": {}}
    spec |= draw(_maybe(
        volumes=st.sampled_from([None, [], [volume], [volume, {"name": "x", "emptyDir": {"medium": "Memory"}}]]),
        securityContext=st.sampled_from([None, {}, {"fsGroup": 2000}, {"runAsUser": 1000}]),
        serviceAccountName=st.just("web"),
        automountServiceAccountToken=st.booleans(),
    ))  # fmt: skip
    annotations = _maybe(**{
        "prometheus.io/port": st.sampled_from(["8080", "15020"]),
        "prometheus.io/scrape": st.sampled_from(["true", "false"]),
        "note": st.sampled_from(["a", "it's \"x\"", "null", "#"]),
        "traffic.sidecar.istio.io/excludeOutboundPorts": st.just("3306"),
        "sidecar.istio.io/proxyMemoryLimit": st.just("512Mi"),
    })  # fmt: skip
    metadata = draw(_maybe(annotations=annotations | st.none(), labels=st.just({"app": "web"})))
    return {"metadata": metadata, "spec": _shuffled(draw, spec)}


@st.composite
def objects(draw: st.DrawFn) -> Json:
    """Return an object with a pod template."""
    kind = draw(st.sampled_from(["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"]))
    template = draw(templates("Never" if kind in {"Job", "CronJob"} else "Always"))
    metadata: Json = {"name": "object", **draw(_maybe(namespace=st.just("shop")))}
    if kind == "Pod":
        return {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {**metadata, **template["metadata"]},
            "spec": template["spec"],
        }
    if kind in {"Job", "CronJob"}:
        template = _without_metadata(draw, template)
        job = {"template": template}
        of_cron = {"schedule": "* * * * *", "jobTemplate": {"spec": job}}
        spec: Json = of_cron if kind == "CronJob" else job
        return {"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": spec}
    template["metadata"]["labels"] = {"app": "web"}
    spec = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
    if kind == "StatefulSet":
        spec["serviceName"] = "web"
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _without_metadata(draw: st.DrawFn, template: Json) -> Json:
    if template["metadata"] or draw(st.booleans()):
        return template
    return {**draw(st.sampled_from([{}, {"metadata": None}])), "spec": template["spec"]}


@st.composite
def files(draw: st.DrawFn) -> str:
    """Return a file of one to three documents."""
    layout = Layout(random.Random(draw(st.integers(0, 2**32))))
    parts = [layout.document(draw(objects())) for _ in range(draw(st.integers(1, 2)))]
    joined = parts[0]
    for part in parts[1:]:
        joined += "" if joined.endswith("\n") else "\n"
        joined += "--- # next\n" + part
    return ("\ufeff" if draw(st.integers(0, 9)) == 0 else "") + joined


options: st.SearchStrategy[InjectionOptions] = st.builds(
    InjectionOptions,
    profile=st.sampled_from(Profile),
    native=st.sampled_from([Native.ON, Native.OFF]),
    certificates=st.sampled_from(
        [None, Certificates(secret="{workload}-tls"), Certificates(driver="a.b", attributes={"c": "d"})]
    ),
    interception=st.sampled_from(Mode),
    hold_application=st.booleans(),
    rewrite_probes=st.booleans(),
    merge_metrics=st.booleans(),
    status_port=st.sampled_from([15020, 15022]),
    bootstrap_override=st.sampled_from(["", "override"]),
    resources=st.sampled_from([Resources(), Resources("", "64Mi", "", "256Mi")]),
)  # fmt: skip
