"""Admission reviews as an API server sends them, and what it does with the responses."""

import base64
import copy
import json
from typing import Any

import jsonpatch

Json = dict[str, Any]

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
POD: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "web-7d4-", "labels": None},
    "spec": {
        "containers": [
            {
                "name": "app",
                "image": "app:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                "livenessProbe": {"tcpSocket": {"port": 8080}},
            }
        ],
    },
}
"""A pod as a ReplicaSet creates it: without a name and a namespace."""


def pod(*, spec: Json | None = None, metadata: Json | None = None) -> Json:
    """Return the pod with more fields."""
    made = copy.deepcopy(POD)
    made["spec"] |= spec or {}
    made["metadata"] |= metadata or {}
    return made


def request(document: object, **fields: object) -> Json:
    """Return the request of a review of an object."""
    return {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": document,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **fields,
    }


def review(document: object = POD, version: str = "admission.k8s.io/v1", **fields: Any) -> bytes:  # noqa: ANN401
    """Return a review of an object; `fields` are of its request."""
    whole = {"kind": "AdmissionReview", "apiVersion": version, "request": request(document, **fields)}
    return json.dumps(whole).encode()


def response(body: bytes) -> Json:
    """Return the response in a review, after the checks of an API server."""
    whole = json.loads(body)
    assert (whole["apiVersion"], whole["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    found: Json = whole["response"]
    assert found["uid"] == UID
    assert ("patch" in found) == (found.get("patchType") == "JSONPatch")
    return found


def admitted(document: Json, body: bytes) -> Json:
    """Return the object as it is admitted."""
    found = response(body)
    assert found["allowed"] is True
    patch = json.loads(base64.b64decode(found.get("patch", "W10="), validate=True))
    changed: Json = jsonpatch.apply_patch(document, patch)
    return changed
