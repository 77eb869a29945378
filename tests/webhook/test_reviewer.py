import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.injection import documents, planning
from agent.injection.draft import applied
from agent.injection.options import InjectionOptions
from agent.webhook.review import BadReview
from agent.webhook.reviewer import Result, Reviewer
from tests.injection.test_documents import parsed, without_texts
from tests.webhook.reviews import POD, Json, admitted, pod, response, review

OPTIONS = InjectionOptions()
DENYING, ALLOWING = Reviewer(OPTIONS, denies=True), Reviewer(OPTIONS, denies=False)
BOTH = pytest.mark.parametrize("reviewer", [DENYING, ALLOWING], ids=["deny", "allow"])


@BOTH
def test_a_pod_of_a_controller_gets_what_agent_inject_writes(reviewer: Reviewer) -> None:
    outcome = reviewer.answer(review())
    assert outcome.result is Result.INJECTED
    text = documents.inject(json.dumps(POD), "pod.json", OPTIONS, "shop").text
    assert without_texts([admitted(POD, outcome.body)]) == without_texts(parsed(text))


def test_the_namespace_of_the_request_counts_where_the_pod_names_none() -> None:
    assert DENYING.answer(review(namespace="kube-system")).result is Result.SKIPPED
    assert (
        DENYING.answer(review(pod(metadata={"namespace": "shop"}), namespace="kube-system")).result is Result.INJECTED
    )


def test_a_pod_that_has_the_sidecar_gets_no_patch_a_second_time() -> None:
    once = admitted(POD, DENYING.answer(review()).body)
    again = DENYING.answer(review(once))
    assert again.result is Result.UNCHANGED
    assert response(again.body) == {"uid": response(again.body)["uid"], "allowed": True}


def test_a_container_of_another_webhook_gets_its_probes_in_the_second_call() -> None:
    once = admitted(POD, DENYING.answer(review()).body)
    other = {"name": "late", "image": "a:1", "livenessProbe": {"httpGet": {"path": "/", "port": 9}}}
    once["spec"]["containers"].append(other)
    twice = admitted(once, DENYING.answer(review(once)).body)
    assert twice["spec"]["containers"][-1]["livenessProbe"]["httpGet"]["path"] == "/app-health/late/livez"
    assert [each["name"] for each in twice["spec"]["initContainers"]] == ["istio-init", "istio-proxy"]


def test_a_dry_run_gets_the_same_response() -> None:
    assert DENYING.answer(review(dryRun=True)).body == DENYING.answer(review()).body


@BOTH
@pytest.mark.parametrize(
    "document",
    [
        pod(spec={"hostNetwork": True}),
        pod(metadata={"labels": {"sidecar.istio.io/inject": "false"}}),
        pod(spec={"os": {"name": "windows"}}),
    ],
    ids=["the network of its node", "by its label", "windows"],
)
def test_a_pod_that_is_not_injected_is_admitted_as_it_is(reviewer: Reviewer, document: Json) -> None:
    outcome = reviewer.answer(review(document))
    assert outcome.result is Result.SKIPPED
    assert admitted(document, outcome.body) == document
    assert "is not injected" in outcome.text


@BOTH
def test_anything_but_the_creation_of_a_pod_is_admitted(reviewer: Reviewer) -> None:
    outcome = reviewer.answer(review(operation="UPDATE"))
    assert (outcome.result, response(outcome.body)["allowed"]) == (Result.UNCHANGED, True)


OF_THE_PROXYS_USER = pod(spec={"securityContext": {"runAsUser": 1337}})


def test_a_pod_that_is_refused_is_rejected_with_the_field() -> None:
    outcome = DENYING.answer(review(OF_THE_PROXYS_USER))
    found = response(outcome.body)
    assert (outcome.result, found["allowed"], found["status"]["code"]) == (Result.REFUSED, False, 400)
    assert "runAsUser" in found["status"]["message"]
    assert "web-7d4-" in found["status"]["message"]


def test_a_pod_that_is_refused_is_admitted_with_a_warning_if_policy_says_so() -> None:
    outcome = ALLOWING.answer(review(OF_THE_PROXYS_USER))
    assert admitted(OF_THE_PROXYS_USER, outcome.body) == OF_THE_PROXYS_USER
    assert "runAsUser" in response(outcome.body)["warnings"][0]


def test_a_pod_of_very_many_containers_is_refused_in_time() -> None:
    containers = [{"name": f"c{number}", "image": "a:1"} for number in range(20_000)]
    outcome = DENYING.answer(review(pod(spec={"containers": containers})))
    assert outcome.result is Result.REFUSED
    assert "a pod with 20000 containers: at most 256" in response(outcome.body)["status"]["message"]
    most = pod(spec={"containers": containers[:200], "initContainers": containers[200:256]})
    assert DENYING.answer(review(most)).result is Result.INJECTED
    most["spec"]["initContainers"].append(containers[256])
    assert DENYING.answer(review(most)).result is Result.REFUSED


def fails(*_: object, **__: object) -> Any:  # noqa: ANN401
    raise ZeroDivisionError


def test_a_bug_is_a_denial_with_a_next_step_or_an_admission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "inject", fails)
    outcome = DENYING.answer(review())
    found = response(outcome.body)
    assert (found["allowed"], found["status"]["code"]) == (False, 500)
    assert "see its log" in found["status"]["message"]
    assert isinstance(outcome.error, ZeroDivisionError)
    outcome = ALLOWING.answer(review())
    assert admitted(POD, outcome.body) == POD
    assert (outcome.result, type(outcome.error)) == (Result.FAILED, ZeroDivisionError)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PLACES: list[tuple[str | int, ...]] = [
    ("metadata",), ("metadata", "annotations"), ("metadata", "labels"), ("spec",), ("spec", "containers"),
    ("spec", "containers", 0), ("spec", "containers", 0, "readinessProbe"), ("spec", "containers", 0, "ports"),
    ("spec", "containers", 0, "readinessProbe", "httpGet"), ("spec", "initContainers"), ("spec", "volumes"),
    ("spec", "securityContext"), ("spec", "containers", 0, "lifecycle"), ("spec", "containers", 0, "name"),
]  # fmt: skip


@given(place=st.sampled_from(PLACES), value=_JSON)
def test_no_pod_is_a_bug(place: tuple[str | int, ...], value: object) -> None:
    document = pod()
    at: Any = document
    for key in place[:-1]:
        at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
    at[place[-1]] = value
    outcome = ALLOWING.answer(review(document))
    assert outcome.error is None
    admitted(document, outcome.body)


def test_the_patch_of_a_pod_is_that_of_its_plan() -> None:
    for labels, name in itertools.product([None, {}, {"a/b": "c~d"}], ["web", None]):
        document = pod(metadata={"labels": labels, "annotations": {"x.y/z": "1"}, "name": name})
        plan = planning.inject(document, OPTIONS, namespace="shop")
        assert admitted(document, DENYING.answer(review(document)).body) == applied(document, plan.edits)


def test_a_body_that_is_no_review_is_not_answered() -> None:
    with pytest.raises(BadReview):
        DENYING.answer(b"{}")
