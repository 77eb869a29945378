import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.webhook import review as reviews
from agent.webhook.review import BadReview, allowed, denied, parse
from tests.webhook.reviews import POD, UID, request, response, review


def test_a_review_has_the_pod_and_the_namespace_of_its_request() -> None:
    assert parse(review()) == reviews.Review(UID, "shop", POD)


def test_a_pod_without_a_kind_is_one_by_its_request() -> None:
    found = parse(review({"metadata": {}}))
    assert found.pod == {"kind": "Pod", "metadata": {}}


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"subResource": "ephemeralcontainers"},
        {"kind": {"kind": "Deployment"}, "object": {"kind": "Deployment"}},
        {"object": {"kind": "Deployment"}},
        {"object": [1]},
        {"object": None},
    ],
)
def test_anything_but_the_creation_of_a_pod_has_no_pod(fields: dict[str, Any]) -> None:
    assert parse(review(**fields)).pod is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (review().decode().encode("utf-16"), "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"kind": NaN}', "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "not an AdmissionReview"),
        (b"null", "not an AdmissionReview"),
        (b'{"kind": "Pod"}', "not an AdmissionReview"),
        (review(version="admission.k8s.io/v1beta1"), "not of admission.k8s.io/v1; register"),
        (b'{"kind": "AdmissionReview"}', "not of admission.k8s.io/v1; register"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": 1}', "no request with a uid"),
        (review(uid=""), "no request with a uid"),
        (review(uid=1), "no request with a uid"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_its_reason(body: bytes, why: str) -> None:
    with pytest.raises(BadReview, match=why):
        parse(body)


def test_a_refusal_does_not_quote_the_object() -> None:
    with pytest.raises(BadReview) as refused:
        parse(review({"spec": "hunter2"})[:-1])
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda each: json.dumps(each).encode()))
def test_no_bytes_are_a_bug(body: bytes) -> None:
    with pytest.raises(BadReview):
        parse(body)


@given(st.dictionaries(st.sampled_from(sorted(request(POD))), st.none() | st.integers() | st.lists(st.text())))
def test_no_field_of_a_request_is_a_bug(fields: dict[str, Any]) -> None:
    document = fields.pop("object", POD)
    try:
        assert parse(review(document, **fields)).uid == UID
    except BadReview:
        assert "uid" in fields


def test_an_admission_without_changes_has_no_patch() -> None:
    assert response(allowed(UID)) == {"uid": UID, "allowed": True}


def test_a_rejection_has_a_code_and_a_message() -> None:
    status = {"status": "Failure", "code": 400, "message": "why"}
    assert response(denied(UID, 400, "why")) == {"uid": UID, "allowed": False, "status": status}


def test_warnings_are_few_and_short() -> None:
    shown = response(allowed(UID, warnings=["x" * 1000] * 100))["warnings"]
    assert (len(shown), {len(each) for each in shown}) == (10, {250})
