"""What an injection adds to a pod: containers and volumes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.injection.edits import JsonValue
from agent.injection.objects import PodTemplate
from agent.injection.options import InjectionOptions, Profile, Resources
from agent.interception.options import Mode
from agent.istio import log_levels

INIT: Final = "istio-init"
NAMES: Final = {Profile.MESH: "istio-proxy", Profile.TLS: "agent"}
"""The names of the sidecar, by profile; those of a mesh are what istioctl and dashboards look for."""

VOLUMES: Final = ("agent-run", "agent-certs", "agent-podinfo", "agent-bootstrap")

USER: Final = 1337
_HEALTH, _PROMETHEUS, _HTTPS = 15021, 15090, 15443
_RUN_DIRECTORY = "/run/proxy-agent"
_BOOTSTRAP = "/etc/istio/custom-bootstrap"
_SECRET_MODE = 0o440
_INIT_RESOURCES = Resources("10m", "50Mi", "100m", "50Mi")
_DEFAULT_LEVEL = "warning"
_APPS = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"}

Json = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Additions:
    """What is added: each container and volume has the name that the status annotation records."""

    init: Json | None
    sidecar: Json
    volumes: list[Json]


def additions(
    pod: PodTemplate, options: InjectionOptions, probers: Mapping[str, JsonValue], metrics: Mapping[str, str]
) -> Additions:
    """Return the additions to a pod.

    `probers`: what the agent asks of the application, by request path; `metrics`: the pod's own annotations of
    Prometheus, without their prefix.
    """
    of_profile = _mesh(pod, options, probers, metrics) if options.profile is Profile.MESH else _tls(options, metrics)
    sidecar: Json = {
        "name": NAMES[options.profile],
        "image": options.sidecar_image,
        **({"restartPolicy": "Always"} if options.is_native else {}),
        **of_profile,
        "securityContext": _security(options),
        "resources": options.resources.as_json(),
        "volumeMounts": [*_mounts(options)],
    }
    return Additions(_init(options) if options.intercepts else None, sidecar, _volumes(pod, options))


# The mesh


def _mesh(
    pod: PodTemplate, options: InjectionOptions, probers: Mapping[str, JsonValue], metrics: Mapping[str, str]
) -> Json:
    level = options.log_level or _DEFAULT_LEVEL
    args: list[JsonValue] = [
        "proxy",
        "sidecar",
        "--binaryPath=envoy",
        f"--domain=$(POD_NAMESPACE).svc.{options.cluster_domain}",
        f"--statusPort={options.status_port}",
        f"--proxyLogLevel={level}",
        "--proxyComponentLogLevel=misc:error",
        "--log_output_level=default:info",
    ]
    ready: Json = {"httpGet": {"path": "/healthz/ready", "port": _HEALTH}}
    hooks: Json = {
        "preStop": _executed("pilot-agent", "request", f"--debug-port={options.status_port}", "POST", "drain")
    }
    holds = options.hold_application and not options.is_native
    if holds:
        hooks = {"postStart": _executed("pilot-agent", "wait"), **hooks}
    return {
        "args": args,
        "env": _environment(pod, options, probers, metrics),
        "ports": [
            {"name": "http-envoy-prom", "containerPort": _PROMETHEUS},
            {"name": "http-status", "containerPort": options.status_port},
        ],
        "startupProbe": {**ready, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600},
        "readinessProbe": {**ready, "periodSeconds": 15, "timeoutSeconds": 3, "failureThreshold": 4},
        "lifecycle": hooks,
    }


def _environment(
    pod: PodTemplate, options: InjectionOptions, probers: Mapping[str, JsonValue], metrics: Mapping[str, str]
) -> list[JsonValue]:
    fields = {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "INSTANCE_IP": "status.podIP",
        "INSTANCE_IPS": "status.podIPs",
        "HOST_IP": "status.hostIP",
        "SERVICE_ACCOUNT": "spec.serviceAccountName",
    }
    found: list[JsonValue] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()
    ]
    if options.resources.cpu_limit:
        limit: Json = {"resource": "limits.cpu", "divisor": "1"}
        found.append({"name": "ISTIO_CPU_LIMIT", "valueFrom": {"resourceFieldRef": limit}})
    values = {
        "AGENT_RUN_DIR": f"{_RUN_DIRECTORY}/0",
        "PROXY_CONFIG": _text({"discoveryAddress": options.discovery_address}) if options.discovery_address else "",
        "ISTIO_META_CLUSTER_ID": options.cluster_id,
        "ISTIO_META_APP_CONTAINERS": ",".join(each.text("name") for each in pod.containers),
        "ISTIO_META_POD_PORTS": _text([port for each in pod.containers for port in each.items("ports")]),
        "ISTIO_META_WORKLOAD_NAME": workload(pod),
        "ISTIO_META_OWNER": _owner(pod),
        "ISTIO_META_INTERCEPTION_MODE": options.interception.value,
        "ISTIO_BOOTSTRAP_OVERRIDE": f"{_BOOTSTRAP}/custom_bootstrap.json" if options.bootstrap_override else "",
        "ISTIO_KUBE_APP_PROBERS": _text({**probers}) if probers else "",
        "ISTIO_PROMETHEUS_ANNOTATIONS": _text({**metrics}) if metrics else "",
    }
    found += [{"name": name, "value": value} for name, value in values.items() if value]
    return found


def workload(pod: PodTemplate) -> str:
    """Return the name of the workload: the object's own, or that of a pod's controller."""
    if pod.kind != "Pod":
        return pod.name
    for owner in pod.owner_metadata.mappings("ownerReferences"):
        name = owner.text("name")
        digest = pod.metadata.mapping("labels").values.get("pod-template-hash")
        if owner.text("kind") == "ReplicaSet" and isinstance(digest, str):
            return name.removesuffix(f"-{digest}")
        return name
    return pod.name.removesuffix("-")


def _owner(pod: PodTemplate) -> str:
    if pod.kind not in _APPS:
        return ""
    name = f"{pod.kind.lower()}s/{pod.name}"
    return f"kubernetes://apis/apps/v1/namespaces/{pod.namespace or '$(POD_NAMESPACE)'}/{name}"


def _init(options: InjectionOptions) -> Json:
    """Return the container that intercepts the pod's connections before anything else runs."""
    texts = options.interception_texts
    own = ",".join(map(str, (_PROMETHEUS, _HEALTH, options.status_port)))
    excluded = texts.get("local-exclude-ports", "")
    args: list[JsonValue] = [
        "istio-iptables",
        "-p", "15001", "-z", "15006", "-u", str(USER),
        "-m", options.interception.value,
        "-i", texts.get("service-cidr", "*"), "-x", texts.get("service-exclude-cidr", ""),
        "-b", texts.get("inbound-ports", "*"), "-d", f"{own},{excluded}" if excluded else own,
    ]  # fmt: skip
    more = {"-q": "outbound-ports", "-o": "local-outbound-ports-exclude", "-c": "exclude-interfaces"}
    for flag, name in {**more, "-k": "kube-virt-interfaces"}.items():
        if texts.get(name):
            args += [flag, texts[name]]
    return {
        "name": INIT,
        "image": options.init_image or options.sidecar_image,
        "args": args,
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": False,  # iptables-legacy locks a file below /run
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": _INIT_RESOURCES.as_json(),
    }


# TLS in front of the application


def _tls(options: InjectionOptions, metrics: Mapping[str, str]) -> Json:
    args: list[JsonValue] = [
        "--certs=/etc/certs",
        f"--listen=0.0.0.0:{options.listen_port}",
        f"--forward={options.forward}",
        f"--status-port={options.status_port}",
        *(["--kubernetes-events"] if options.kubernetes_events else []),
        "--http-actions",
        "--drain-delay=5s",
        "--stop-deadline=30s",
    ]
    if metrics.get("scrape") == "true":
        path = metrics.get("path", "/metrics").removeprefix("/")
        args.append(f"--app-metrics=http://localhost:{metrics.get('port', '80')}/{path}")
    if options.log_level and (level := log_levels.agent_level(options.log_level)):
        args.append(f"--log-level={level}")
    started = _executed("agent", "wait", "--timeout=1s")
    startup: Json = {**started, "timeoutSeconds": 5, "periodSeconds": 1, "failureThreshold": 60}
    hooks: Json = {"preStop": _executed("agent", "drain")}
    if not options.is_native:
        hooks = {"postStart": _executed("agent", "wait", "--timeout=60s"), **hooks}
    ready: Json = {"httpGet": {"path": "/healthz/ready", "port": options.status_port}}
    live: Json = {"httpGet": {"path": "/healthz/live", "port": options.status_port}}
    return {
        "args": args,
        "env": [{"name": "AGENT_RUN_DIR", "value": f"{_RUN_DIRECTORY}/0"}],
        "ports": [
            {"name": "https", "containerPort": options.listen_port},
            {"name": "status", "containerPort": options.status_port},
        ],
        **({"startupProbe": startup} if options.is_native else {}),
        "readinessProbe": {**ready, "periodSeconds": 2, "failureThreshold": 1},
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 5},
        "lifecycle": hooks,
    }


# Both


def _executed(*words: str) -> Json:
    return {"exec": {"command": [*words]}}


def _security(options: InjectionOptions) -> Json:
    """Return the rights of the sidecar: none, but for TPROXY, whose listeners need one."""
    is_transparent = options.intercepts and options.interception is Mode.TPROXY
    capabilities: Json = {"drop": ["ALL"]}
    return {
        "runAsUser": 0 if is_transparent else USER,
        "runAsGroup": USER,
        "runAsNonRoot": not is_transparent,
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {**capabilities, "add": ["NET_ADMIN"]} if is_transparent else capabilities,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _mounts(options: InjectionOptions) -> list[Json]:
    run, certs, podinfo, bootstrap = VOLUMES
    found: list[Json] = [{"name": run, "mountPath": _RUN_DIRECTORY}]
    if options.certificates is not None:
        found.append({"name": certs, "mountPath": "/etc/certs", "readOnly": True})
    if options.profile is Profile.MESH:
        found.append({"name": podinfo, "mountPath": "/etc/istio/pod", "readOnly": True})
    if options.bootstrap_override:
        found.append({"name": bootstrap, "mountPath": _BOOTSTRAP, "readOnly": True})
    return found


def _volumes(pod: PodTemplate, options: InjectionOptions) -> list[Json]:
    run, certs, podinfo, bootstrap = VOLUMES
    found: list[Json] = [{"name": run, "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}]
    if (source := options.certificates) is not None:
        if source.secret:
            account = pod.spec.text("serviceAccountName") or "default"
            name = source.secret_of(account, workload(pod))
            found.append({"name": certs, "secret": {"secretName": name, "defaultMode": _SECRET_MODE}})
        else:
            csi: Json = {"driver": source.driver, "readOnly": True, "volumeAttributes": {**source.attributes}}
            found.append({"name": certs, "csi": csi})
    if options.profile is Profile.MESH:
        items: list[JsonValue] = [
            {"path": name, "fieldRef": {"fieldPath": f"metadata.{name}"}} for name in ("labels", "annotations")
        ]
        found.append({"name": podinfo, "downwardAPI": {"items": items}})
    if options.bootstrap_override:
        found.append({"name": bootstrap, "configMap": {"name": options.bootstrap_override}})
    return found


def _text(value: JsonValue) -> str:
    """Return JSON with sorted keys: the order in the pod must not matter."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
