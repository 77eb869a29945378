"""Admission reviews of Kubernetes (admission.k8s.io/v1): requests parsed, responses written."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from agent.core.errors import BadInput
from agent.injection.edits import JsonValue
from agent.injection.json_patch import Operation

VERSION = "admission.k8s.io/v1"
_WARNINGS, _WARNING = 10, 250  # what the API server passes on: 4096 characters in all, 256 of one warning
_POD = "Pod"


class BadReview(BadInput):
    """The body of a request is not an admission review that can be answered."""


@dataclass(frozen=True, slots=True)
class Review:
    """One review: the object that is to be admitted, and what the request says about it.

    `pod` is None if the request is not the creation of a pod. `namespace` is that of the request: a pod that a
    controller creates names none.
    """

    uid: str
    namespace: str
    pod: dict[str, JsonValue] | None


def parse(body: bytes) -> Review:
    """Parse the body of a request. Raises `BadReview`, whatever the bytes."""
    try:
        document: JsonValue = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # without the reason, which may quote the object
        message = "cannot read the review: it is not JSON; send an AdmissionReview"
        raise BadReview(message) from None
    if not isinstance(document, dict) or document.get("kind") != "AdmissionReview":
        message = "cannot read the review: it is not an AdmissionReview"
        raise BadReview(message)
    if document.get("apiVersion") != VERSION:
        message = f"cannot answer the review: it is not of {VERSION}; register the webhook for v1"
        raise BadReview(message)
    request = document.get("request")
    uid = request.get("uid") if isinstance(request, dict) else None
    if not isinstance(request, dict) or not isinstance(uid, str) or not uid:
        message = "cannot answer the review: it has no request with a uid"
        raise BadReview(message)
    namespace = request.get("namespace")
    return Review(uid, namespace if isinstance(namespace, str) else "", _pod_of(request))


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python would read, and which are no JSON."""
    raise ValueError(name)


def _pod_of(request: dict[str, JsonValue]) -> dict[str, JsonValue] | None:
    kind, pod = request.get("kind"), request.get("object")
    named = kind.get("kind") if isinstance(kind, dict) else _POD
    is_creation = request.get("operation", "CREATE") == "CREATE" and not request.get("subResource")
    if not is_creation or named != _POD or not isinstance(pod, dict) or pod.get("kind", _POD) != _POD:
        return None
    return {**pod, "kind": _POD}


def allowed(uid: str, patch: Sequence[Operation] = (), warnings: Sequence[str] = ()) -> bytes:
    """Return the response that admits an object, changed by the patch if there is one. Raises ValueError."""
    response: dict[str, JsonValue] = {"uid": uid, "allowed": True}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(_written(list(patch))).decode("ascii")
    return _review(response, warnings)


def denied(uid: str, code: int, message: str, warnings: Sequence[str] = ()) -> bytes:
    """Return the response that rejects an object, with an HTTP status code and the reason for its creator."""
    status: JsonValue = {"status": "Failure", "code": code, "message": message}
    return _review({"uid": uid, "allowed": False, "status": status}, warnings)


def _review(response: dict[str, JsonValue], warnings: Sequence[str]) -> bytes:
    if warnings:
        response["warnings"] = [each[:_WARNING] for each in warnings[:_WARNINGS]]
    return _written({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})


def _written(value: JsonValue) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
