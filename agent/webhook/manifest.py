"""The objects of Kubernetes that run and register the webhook, as `agent webhook --manifest` prints them."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.injection.edits import JsonValue
from agent.injection.planning import SYSTEM_NAMESPACES

Object = dict[str, JsonValue]

CERTIFICATES = "/etc/webhook"
"""Where the secret is mounted."""

_USER = 65532
_INJECTION = "istio-injection"
_INJECT = "sidecar.istio.io/inject"
_NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"
_TIMEOUT = 5  # seconds that the API server waits for a response
_DRAIN_DELAY = 5  # seconds until all nodes have noticed that a pod is not ready any more


@dataclass(frozen=True, slots=True)
class Deployed:
    """How the webhook is deployed; `arguments` are the options of the injection, as on a command line."""

    name: str
    namespace: str
    image: str
    secret: str
    failure_policy: str
    port: int
    health_port: int
    arguments: Sequence[str] = ()

    @property
    def labels(self) -> Object:
        """The labels by which its pods are selected."""
        return {"app.kubernetes.io/name": self.name}

    def metadata(self, *, namespaced: bool = True) -> Object:
        """Return the metadata of one of its objects."""
        where: Object = {"namespace": self.namespace} if namespaced else {}
        return {"name": self.name, **where, "labels": self.labels}


def objects(deployed: Deployed) -> list[Object]:
    """Return the objects, in an order in which they can be applied."""
    return [
        _namespace(deployed),
        _object("v1", "ServiceAccount", deployed.metadata()),
        _role(deployed),
        _role_binding(deployed),
        _deployment(deployed),
        _service(deployed),
        _disruption_budget(deployed),
        configuration(deployed),
    ]


def configuration(deployed: Deployed) -> Object:
    """Return the registration: pods of labelled namespaces, and pods that are labelled themselves."""
    webhooks: JsonValue = [
        _webhook(deployed, "namespace", _one_of(_INJECTION, "enabled"), _none_of(_INJECT, "false")),
        _webhook(deployed, "object", {"key": _INJECTION, "operator": "DoesNotExist"}, _one_of(_INJECT, "true")),
    ]
    metadata = deployed.metadata(namespaced=False)
    made = _object("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", metadata)
    return {**made, "webhooks": webhooks}


def _object(version: str, kind: str, metadata: Object) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _namespace(deployed: Deployed) -> Object:
    labels: JsonValue = {"pod-security.kubernetes.io/enforce": "restricted"}
    return _object("v1", "Namespace", {"name": deployed.namespace, "labels": labels})


def _role(deployed: Deployed) -> Object:
    """Return the role for the registration: that one configuration, and nothing else."""
    made = _object("rbac.authorization.k8s.io/v1", "ClusterRole", deployed.metadata(namespaced=False))
    rule: Object = {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": [deployed.name],
        "verbs": ["get", "patch"],
    }
    return {**made, "rules": [rule]}


def _role_binding(deployed: Deployed) -> Object:
    made = _object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", deployed.metadata(namespaced=False))
    subject: Object = {"kind": "ServiceAccount", "name": deployed.name, "namespace": deployed.namespace}
    role: Object = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": deployed.name}
    return {**made, "roleRef": role, "subjects": [subject]}


def _deployment(deployed: Deployed) -> Object:
    template: Object = {
        "metadata": {
            "labels": deployed.labels,
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(deployed.health_port),
                "prometheus.io/path": "/metrics",
            },
        },
        "spec": _pod(deployed),
    }
    spec: Object = {
        "replicas": 2,
        "selector": {"matchLabels": deployed.labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": template,
    }
    return {**_object("apps/v1", "Deployment", deployed.metadata()), "spec": spec}


def _pod(deployed: Deployed) -> Object:
    term: Object = {
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": deployed.labels},
        },
    }
    return {
        "serviceAccountName": deployed.name,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(deployed)],
        "volumes": [{"name": "certificates", "secret": {"secretName": deployed.secret, "defaultMode": 0o440}}],
    }


def _container(deployed: Deployed) -> Object:
    own = [
        f"--tls-certs={CERTIFICATES}",
        f"--port={deployed.port}",
        f"--health-port={deployed.health_port}",
        f"--register={deployed.name}",
        f"--drain-delay={_DRAIN_DELAY}s",
    ]
    return {
        "name": "webhook",
        "image": deployed.image,
        "args": ["webhook", *own, *deployed.arguments],
        "ports": [
            {"name": "https", "containerPort": deployed.port},
            {"name": "health", "containerPort": deployed.health_port},
        ],
        "readinessProbe": {**_probe("ready"), "periodSeconds": 2, "failureThreshold": 1},
        "livenessProbe": {**_probe("live"), "periodSeconds": 10, "timeoutSeconds": 5},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "certificates", "mountPath": CERTIFICATES, "readOnly": True}],
    }


def _probe(name: str) -> Object:
    return {"httpGet": {"path": f"/healthz/{name}", "port": "health"}}


def _service(deployed: Deployed) -> Object:
    port: Object = {"name": "https", "port": 443, "targetPort": "https"}
    spec: Object = {"selector": deployed.labels, "ports": [port]}
    return {**_object("v1", "Service", deployed.metadata()), "spec": spec}


def _disruption_budget(deployed: Deployed) -> Object:
    spec: Object = {"minAvailable": 1, "selector": {"matchLabels": deployed.labels}}
    return {**_object("policy/v1", "PodDisruptionBudget", deployed.metadata()), "spec": spec}


def _webhook(deployed: Deployed, kind: str, by_namespace: Object, by_object: Object) -> Object:
    """Return one of the webhooks; its own pods and the cluster's own are never led through it."""
    spared = _none_of(_NAME_OF_NAMESPACE, deployed.namespace, *sorted(SYSTEM_NAMESPACES - {deployed.namespace}))
    service: Object = {"name": deployed.name, "namespace": deployed.namespace, "path": "/inject", "port": 443}
    rule: Object = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "resources": ["pods"],
        "operations": ["CREATE"],
        "scope": "Namespaced",
    }
    return {
        "name": f"{kind}.{deployed.name}.{deployed.namespace}.svc",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": deployed.failure_policy,
        "reinvocationPolicy": "IfNeeded",
        "timeoutSeconds": _TIMEOUT,
        "clientConfig": {"service": service},
        "rules": [rule],
        "namespaceSelector": {"matchExpressions": [by_namespace, spared]},
        "objectSelector": {"matchExpressions": [by_object]},
    }


def _one_of(key: str, *values: str) -> Object:
    return {"key": key, "operator": "In", "values": [*values]}


def _none_of(key: str, *values: str) -> Object:
    return {"key": key, "operator": "NotIn", "values": [*values]}
